// Elements, numbers in words, and lists that are changed in place, so that focus and scrolling stay where they are.

// el("button", { type: "button", class: "danger", "aria-label": "...", onclick: f }, "text", child, ...)
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// Writes only what has changed: a screen reader, and a selection, notice every write.
export function say(element, words) {
  const text = words == null ? "" : String(words);
  if (element.textContent !== text) element.textContent = text;
}

export function badge(element, state) {
  say(element, state);
  if (element.dataset.state !== state) element.dataset.state = state;
}

// Keeps one child of `parent` for each item: makes, updates and removes, in the order of the items.
export class KeyedList {
  // `make(item)` gives `{element, update(item)}`; `key(item)` names it.
  constructor(parent, key, make) {
    Object.assign(this, { parent, key, make, shown: new Map() });
  }

  update(items) {
    const keys = new Set(items.map(this.key));
    for (const [key, { element }] of this.shown) {
      if (keys.has(key)) continue;
      element.remove();
      this.shown.delete(key);
    }
    let before = null;
    for (const item of items) {
      const key = this.key(item);
      if (!this.shown.has(key)) this.shown.set(key, this.make(item));
      const { element, update } = this.shown.get(key);
      element.dataset.key = key;
      const place = before ? before.nextElementSibling : this.parent.firstElementChild;
      if (place !== element) this.parent.insertBefore(element, place);
      update(item);
      before = element;
    }
  }
}

// A table whose rows become cards on a phone; the roles keep it a table for screen readers there too.
// `columns`: [{ head, class }]; rows are made with `row(columns, cells)`.
export function table(caption, columns) {
  const body = el("tbody", { role: "rowgroup" });
  const heads = columns.map(({ head, class: kind }) => el("th", { role: "columnheader", scope: "col", class: kind }, head));
  const element = el(
    "table",
    { role: "table" },
    el("caption", { class: "unseen" }, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)),
    body,
  );
  return { element, body };
}

export function row(columns) {
  const cells = columns.map(({ head, class: kind }) => el("td", { role: "cell", class: kind, "data-head": head }));
  return { element: el("tr", { role: "row" }, ...cells), cells };
}

// -- numbers in words ---------------------------------------------------------------------------------------------------

const NONE = "–";
export const number = (value, digits = 1) => (value == null ? NONE : value.toFixed(digits));

export function duration(seconds) {
  if (seconds == null) return NONE;
  const [days, hours, minutes] = [86400, 3600, 60].map((unit) => Math.floor(seconds / unit));
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return `${hours} h ${minutes % 60} min`;
  if (minutes) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds)} s`;
}

export const milliseconds = (ms) => (ms == null ? NONE : ms < 1000 ? `${Math.round(ms)} ms` : duration(ms / 1000));

export function bytes(count) {
  if (count == null) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  for (; count >= 1000 && step < units.length - 1; step += 1) count /= 1000;
  return `${step ? count.toFixed(count < 10 ? 1 : 0) : count} ${units[step]}`;
}

// `seconds`: to the second; else to the minute. The date stands there when it is not today.
export function clock(time, { seconds = true } = {}) {
  const moment = new Date(time);
  const today = moment.toDateString() === new Date().toDateString();
  const style = { timeStyle: seconds ? "medium" : "short", ...(today ? {} : { dateStyle: "medium" }) };
  return moment.toLocaleString(undefined, style);
}
