// The full view: one camera's stream on the whole page. The stream lives only while somebody can see it.
import { ApiError, cameraPath, SILENT } from "./api.js";
import { recall, remember } from "./memory.js";
import { readStream } from "./mjpeg.js";
import { fittingWidth, Picture } from "./picture.js";
import { fpsWords, setText, sinceWords, stateWords } from "./words.js";

const STILL = 4000; // healthd sends something each second: after so long the stream is dead, whatever the network says
const SOONEST = 500; // milliseconds until another attempt, doubled up to
const LATEST = 8000;

export class View {
  // `wall`: `seen` (whether anybody can see the page), `silent`, `listed` (whether the list is known), `names`, `camera(name)`,
  // `skew`, `overlayOf(name)`, `chosen(name, overlay)`, `show(name)`, `leave()`.
  constructor(wall) {
    const at = (selector) => document.querySelector(selector);
    Object.assign(this, { wall, name: null, running: null, timer: null, pause: SOONEST, arrived: [] });
    Object.assign(this, { decoding: false, waiting: null, signs: 0, told: null, drawn: false });
    this.dialog = at("#view");
    this.picture = new Picture(at("#view canvas"));
    this.message = at("#view .message");
    this.changes = at("#view-changes");
    [this.title, this.badge, this.facts] = ["#view-name", "#view-state", "#view-facts"].map(at);
    this.overlayField = at("#view-overlay");
    this.overlay = at("#view-overlay input");
    this.quality = at("#view-quality");
    this.quality.value = recall("quality", "");
    this.overlay.addEventListener("change", () => {
      wall.chosen(this.name, this.overlay.checked);
      this.restart();
    });
    this.quality.addEventListener("change", () => {
      remember("quality", this.quality.value || null);
      this.restart();
    });
    at("#view-close").addEventListener("click", () => wall.leave());
    at("#view-full").addEventListener("click", () => this.fill());
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      wall.leave();
    });
    this.dialog.addEventListener("close", () => this.name !== null && wall.leave()); // closed by the browser itself
    this.dialog.addEventListener("keydown", (event) => this.press(event));
  }

  get open() {
    return this.name !== null;
  }

  // -- open and close ------------------------------------------------------------------------------------------------

  show(name) {
    if (name === this.name) return;
    this.halt();
    this.name = name;
    this.overlay.checked = this.wall.overlayOf(name);
    setText(this.title, name);
    if (!this.dialog.open) this.dialog.showModal();
    this.update();
    this.restart();
  }

  close() {
    this.name = null;
    this.halt();
    if (document.fullscreenElement) document.exitFullscreen();
    this.dialog.close();
  }

  fill() {
    const done = document.fullscreenElement ? document.exitFullscreen() : this.dialog.requestFullscreen();
    done.catch(() => {}); // forbidden here: the view stays as large as it is
  }

  press(event) {
    if (event.target === this.quality || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const names = this.wall.names;
    if (step && names.length > 1) this.wall.show(names.at((names.indexOf(this.name) + step) % names.length));
    else if (event.key === "f") this.fill();
  }

  // -- what others tell it -------------------------------------------------------------------------------------------

  // Say what the list says of the camera.
  update() {
    if (!this.open) return;
    const camera = this.wall.camera(this.name);
    const state = this.wall.silent ? "silent" : (camera?.state ?? (this.wall.listed ? "failed" : "starting"));
    this.badge.dataset.state = this.dialog.dataset.state = state;
    setText(this.badge, stateWords(state));
    setText(this.changes, stateWords(state));
    this.overlayField.hidden = !camera || camera.model.state === "none";
    const rates = this.picture.shown && camera ? [`${camera.width}×${camera.height}`, fpsWords(this.rate())] : [];
    if (rates.length && camera.predicted_fps) rates.push(`${camera.predicted_fps.toFixed(1)} predictions/s`);
    setText(this.facts, rates.join(" · "));
    setText(this.message, this.picture.shown ? "" : this.words(camera));
    if (this.running && this.draws() !== this.drawn) this.restart();
  }

  draws() {
    return this.overlay.checked && this.wall.camera(this.name)?.model.state === "ready";
  }

  words(camera) {
    if (this.wall.silent) return SILENT;
    if (!camera) return this.wall.listed ? "unknown camera" : "";
    if (camera.state !== "live") return [camera.reason ?? camera.state, sinceWords(camera.since, this.wall.skew)].join("\n");
    return this.told ?? "";
  }

  // Once a second.
  tick(now) {
    if (this.running && now - this.lastPart > STILL) this.restart("the stream stands still");
    this.update();
  }

  // Whether the page is seen has changed, or the machine slept.
  adjust() {
    if (!this.open) return;
    if (this.wall.seen && !this.running && this.timer === null) this.restart();
    else if (!this.wall.seen) this.halt();
  }

  // -- the stream ----------------------------------------------------------------------------------------------------

  halt() {
    clearTimeout(this.timer);
    this.timer = null;
    this.running?.abort();
    this.running = null;
    this.clear();
  }

  clear(told = null) {
    this.told = told;
    this.arrived = [];
    this.picture.clear();
    delete this.dialog.dataset.frame;
    this.update();
  }

  restart(told = null) {
    this.halt();
    this.told = told;
    this.pause = SOONEST;
    if (this.open && this.wall.seen) this.run();
  }

  async run() {
    const running = (this.running = new AbortController());
    this.timer = null;
    this.lastPart = Date.now();
    let told = "the stream has ended";
    this.drawn = this.draws();
    const query = {
      width: fittingWidth(Math.max(this.dialog.clientWidth, (this.dialog.clientHeight * 16) / 9)),
      overlay: this.drawn || null,
      q: this.quality.value || null,
    };
    const onPart = (part) => running === this.running && this.take(part, running);
    try {
      await readStream(cameraPath(this.name, "/stream"), { query, signal: running.signal, onPart });
    } catch (error) {
      told = error instanceof ApiError ? error.message : SILENT;
    }
    if (running !== this.running) return; // closed, hidden, or begun anew meanwhile
    this.running = null;
    this.clear(told);
    this.timer = setTimeout(() => this.run(), this.pause * (0.5 + Math.random() / 2));
    this.pause = Math.min(LATEST, this.pause * 2);
  }

  // Newest wins: while one is decoded, those that come wait, and each replaces the one before.
  async take(part, running) {
    const now = Date.now();
    if (now - this.lastPart > STILL) {
      this.restart(); // the machine slept: what waited in the connection is of before
      return;
    }
    this.lastPart = now;
    if (part.frameId === null) {
      this.waiting = null;
      this.signs += 1;
      this.clear(this.drawn ? "nothing is predicted at present" : "no picture at present");
      return;
    }
    this.waiting = part;
    if (this.decoding) return;
    this.decoding = true;
    try {
      while (this.waiting && running === this.running) {
        const { frameId, jpeg } = this.waiting;
        const { lastPart: received, signs } = this;
        this.waiting = null;
        const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
        if (running !== this.running || signs !== this.signs || Date.now() - received > STILL) {
          bitmap.close();
          continue;
        }
        this.display(bitmap, frameId);
      }
    } catch {
      this.clear("this picture cannot be shown");
    } finally {
      this.decoding = false;
    }
  }

  display(bitmap, frameId) {
    const first = !this.picture.shown;
    this.picture.show(bitmap);
    this.dialog.dataset.frame = frameId;
    this.pause = SOONEST;
    const now = Date.now();
    this.arrived = [...this.arrived.filter((then) => now - then < 3000), now];
    if (first) this.update();
  }

  rate() {
    const span = (this.arrived.at(-1) ?? 0) - (this.arrived[0] ?? 0);
    return span > 0 ? ((this.arrived.length - 1) * 1000) / span : 0;
  }
}
