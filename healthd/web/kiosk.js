// What a page needs that hangs on a wall for months: a screen that stays on, no cursor, and the newest version of itself.
const STILL = 3000; // milliseconds until a cursor that does not move is hidden

export function startKiosk() {
  document.body.classList.add("kiosk");
  keepAwake();
  hideCursor();
}

// The browser lets the screen go whenever the page is hidden; it is asked for again when the page is seen.
function keepAwake() {
  const ask = () => {
    if (!document.hidden) navigator.wakeLock?.request("screen").catch(() => {}); // refused: battery, or a policy
  };
  document.addEventListener("visibilitychange", ask);
  ask();
}

function hideCursor() {
  let timer = null;
  const move = () => {
    document.body.classList.remove("still");
    clearTimeout(timer);
    timer = setTimeout(() => document.body.classList.add("still"), STILL);
  };
  for (const event of ["pointermove", "pointerdown", "keydown"]) document.addEventListener(event, move);
  move();
}

// How many columns show so many pictures of 16:9 the largest, on a screen of this size.
export function bestColumns(count, width, height) {
  let best = 1;
  let largest = 0;
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const wide = Math.min(width / columns, ((height / rows) * 16) / 9);
    if (wide > largest) [best, largest] = [columns, wide];
  }
  return best;
}
