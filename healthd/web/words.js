// How times, ages and states are said.
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

export function durationWords(seconds) {
  if (seconds < MINUTE) return `${Math.floor(seconds)} s`;
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} min`;
  if (seconds < 2 * DAY) return `${Math.floor(seconds / HOUR)} h`;
  return `${Math.floor(seconds / DAY)} days`;
}

// "since 12:03 (4 min)". `skew`: milliseconds that the clock of healthd is ahead of ours.
export function sinceWords(since, skew = 0) {
  const at = new Date(since);
  const seconds = Math.max(0, (Date.now() + skew - at) / 1000);
  const day = seconds < DAY ? {} : { day: "numeric", month: "short" };
  const time = at.toLocaleString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...day });
  return `since ${time} (${durationWords(seconds)})`;
}

export const ageWords = (ms) => (ms < 60_000 ? `${(Math.max(0, ms) / 1000).toFixed(1)} s old` : `${durationWords(ms / 1000)} old`);

export const fpsWords = (fps) => `${fps < 10 ? fps.toFixed(1) : Math.round(fps)} fps`;

const STATE_WORDS = { silent: "no contact", missing: "no picture" };
export const stateWords = (state) => STATE_WORDS[state] ?? state;

// Text is set only where it changes: a screen reader, and the layout, hear of nothing else.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
