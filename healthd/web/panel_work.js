// What goes on while somebody looks: questions asked again and again, streams of events, orders and what became of them.
import { ApiError, address, ask } from "./api.js";
import { el, say } from "./panel_dom.js";

const SLOWEST = 15_000;
const SOON = 500; // milliseconds: so seldom it is asked again, however much happens

// Asks again and again while started: one question at a time, more slowly while it fails.
export class Poll {
  // `work(signal)` throws ApiError; `onError(error)` is told, `onAnswer()` after each success.
  constructor(period, work, { onError = () => {}, onAnswer = () => {} } = {}) {
    Object.assign(this, { period, work, onError, onAnswer, running: null, timer: 0, hurried: 0, asking: false, failures: 0 });
  }

  start() {
    if (this.running) return;
    this.running = new AbortController();
    this.go(this.running.signal);
  }

  stop() {
    this.running?.abort();
    this.running = null;
    clearTimeout(this.timer);
    clearTimeout(this.hurried);
    Object.assign(this, { failures: 0, hurried: 0, asking: false });
  }

  // Ask before long: something has changed, perhaps one of many things.
  soon() {
    if (!this.running || this.hurried) return;
    this.hurried = setTimeout(() => {
      this.hurried = 0;
      if (this.asking) this.soon();
      else this.now();
    }, SOON);
  }

  // Ask now: something has just been changed here.
  now() {
    if (!this.running) return;
    this.stop();
    this.start();
  }

  async go(signal) {
    this.asking = true;
    try {
      await this.work(signal);
      if (signal.aborted) return;
      this.failures = 0;
      this.onAnswer();
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) console.error(error); // a mistake of this page: it goes on all the same
      this.failures += 1;
      this.onError(error);
    }
    this.asking = false;
    const wait = Math.min(this.period * 2 ** Math.min(this.failures, 4), Math.max(SLOWEST, this.period));
    this.timer = setTimeout(() => this.go(signal), this.failures ? wait : this.period);
  }
}

// Server-Sent Events while started. A browser opens the stream again by itself after a cut; after a refusal it does not.
export class Events {
  // `handlers`: by the name of the event, `(data, event) => ...`.
  constructor(path, handlers, { query = () => "", onError = () => {} } = {}) {
    Object.assign(this, { path, handlers, query, onError, source: null, timer: 0 });
  }

  start() {
    if (this.source) return;
    const query = this.query();
    const source = new EventSource(`${address(this.path)}${query ? `?${query}` : ""}`);
    this.source = source;
    for (const [name, handle] of Object.entries(this.handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(event.data), event));
    }
    source.addEventListener("error", () => source.readyState === EventSource.CLOSED && this.refused(source));
  }

  stop() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  restart() {
    if (!this.source) return;
    this.stop();
    this.start();
  }

  // The browser does not tell what was answered: ask once more, for the API's own words.
  async refused(source) {
    if (source !== this.source) return;
    const query = new URLSearchParams(this.query());
    await ask(this.path, { query: Object.fromEntries(query), read: (answer) => answer.body.cancel() }).catch(this.onError);
    if (source !== this.source) return;
    this.timer = setTimeout(() => this.restart(), 5000);
  }
}

// -- orders -------------------------------------------------------------------------------------------------------------

const toast = document.getElementById("toast");
const said = document.getElementById("said");
let leaving = 0;

// Says what happened. An error stays until it is dismissed, or something else happens.
export function tell(words, { failed = false } = {}) {
  clearTimeout(leaving);
  show(true);
  toast.classList.toggle("failed", failed);
  said.textContent = "";
  said.textContent = words;
  if (!failed) leaving = setTimeout(hush, 8000);
}

function show(shown) {
  toast.classList.toggle("away", !shown); // a region that is not there cannot be heard when it is filled
  document.getElementById("dismiss").hidden = !shown;
}

export function hush() {
  show(false);
  said.textContent = "";
}

let session = { scope: "read" };

// Who may change something; all controls that would are told at once.
export function setSession(now) {
  session = now;
  document.querySelectorAll("[data-changes]").forEach(allow);
}

export const mayChange = () => session.scope === "admin";

function allow(control) {
  const wanted = control.dataset.off === "true" || control.dataset.busy === "true" || !mayChange();
  if (control.disabled !== wanted) control.disabled = wanted;
  if (mayChange()) {
    control.removeAttribute("aria-describedby");
    control.removeAttribute("title");
  } else {
    control.setAttribute("aria-describedby", "readonly"); // which says why
    control.title = document.getElementById("readonly").textContent;
  }
}

// A control that changes something: disabled for a key that may only read.
export function guarded(control) {
  control.dataset.changes = "true";
  allow(control);
  return control;
}

// Switches a guarded control off for a reason of its own.
export function off(control, isOff) {
  control.dataset.off = String(isOff);
  allow(control);
}

// Lets a control rest until what it does is done.
export async function busy(control, act) {
  control.dataset.busy = "true";
  allow(control);
  try {
    await act();
  } finally {
    control.dataset.busy = "false";
    allow(control);
  }
}

// Gives an order and says what became of it; true when it was carried out.
export async function order(words, path, options) {
  try {
    const answer = await ask(path, options);
    tell(typeof words === "function" ? words(answer) : words);
    return true;
  } catch (error) {
    tell(error.message, { failed: true });
    return false;
  }
}

// A button that gives an order. `act()` returns a promise; the button rests until it is kept.
export function orderButton(text, act, attributes = {}) {
  const button = el("button", { type: "button", ...attributes }, text);
  button.addEventListener("click", () => busy(button, act));
  return guarded(button);
}

// The same for what cannot be undone: it asks first, in place.
export function sureButton(text, sure, act, attributes = {}) {
  const button = el("button", { type: "button", class: "danger", ...attributes }, text);
  let asked = 0;
  const calm = () => {
    clearTimeout(asked);
    asked = 0;
    say(button, text);
  };
  button.addEventListener("blur", calm);
  button.addEventListener("click", () => {
    if (!asked) {
      say(button, sure);
      asked = setTimeout(calm, 4000);
      return;
    }
    calm();
    busy(button, act);
  });
  return guarded(button);
}
