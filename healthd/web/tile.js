// One camera on the wall: its newest picture about once a second, or in words why there is none. Never an old picture.
import { ask, cameraPath, SILENT } from "./api.js";
import { fittingWidth, Picture } from "./picture.js";
import { ageWords, fpsWords, setText, sinceWords, stateWords } from "./words.js";

const PERIOD = 1000; // milliseconds from picture to picture
const SOONEST = 250; // at least so long from an answer to the next question
const LATEST_RETRY = 8000;
const UNCONFIRMED = 5000; // a picture that healthd has not confirmed for so long goes away
const PLAIN = 5000; // where nothing is drawn at present, plain pictures are asked for for so long

const MARKUP = `
  <div class="box">
    <canvas aria-hidden="true" hidden></canvas>
    <div class="message" hidden><strong></strong><p class="why"></p><p class="since numbers"></p></div>
    <button class="open"></button>
  </div>
  <div class="caption">
    <h2></h2>
    <span class="badge"></span>
    <span class="facts quiet numbers"></span>
    <button class="overlay icon" hidden>
      <svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 8V4h4M16 4h4v4M20 16v4h-4M8 20H4v-4"/><circle cx="12" cy="9" r="2"/><path d="M12 11v4M9 12.5h6M12 15l-2 3M12 15l2 3"/></svg>
    </button>
  </div>`;

export class Tile {
  // `wall`: `open` (whether tiles may ask at all), `skew`, `show(name)`, `look()`, `chosen(name, overlay)`.
  constructor(wall, name, { overlay }) {
    Object.assign(this, { wall, name, overlay });
    this.camera = null; // as the list has it
    this.inView = false;
    this.width = 320; // CSS pixels
    this.phase = 0; // milliseconds into each period
    this.etag = this.confirmed = this.asking = this.timer = null;
    this.failures = this.plainUntil = 0;
    this.drawn = false;
    this.age = null; // milliseconds, when it was confirmed
    this.element = document.createElement("li");
    this.element.className = "tile card";
    this.element.dataset.camera = name;
    this.element.innerHTML = MARKUP;
    const at = (selector) => this.element.querySelector(selector);
    this.picture = new Picture(at("canvas"));
    [this.message, this.word, this.why, this.when] = [".message", ".message strong", ".why", ".since"].map(at);
    [this.badge, this.facts] = [".badge", ".facts"].map(at);
    at("h2").textContent = name;
    this.openButton = at(".open");
    this.openButton.setAttribute("aria-label", `Full view of ${name}`);
    this.openButton.addEventListener("click", () => wall.show(name));
    this.overlayButton = at(".overlay");
    this.overlayButton.setAttribute("aria-label", `Overlay of ${name}`);
    this.overlayButton.title = "Boxes, skeletons and names";
    this.overlayButton.addEventListener("click", () => wall.chosen(name, !this.overlay));
    this.setOverlay(overlay);
    this.state("starting");
  }

  get wanted() {
    return this.wall.open && this.inView && Boolean(this.camera?.has_frame);
  }

  // -- what others tell it -------------------------------------------------------------------------------------------

  // Take what the list says of the camera; null: healthd knows none of that name.
  update(camera) {
    this.camera = camera;
    this.overlayButton.hidden = !camera || camera.model.state === "none";
    if (!camera) this.clear("failed", "unknown camera");
    else if (!camera.has_frame) this.clear(camera.state, camera.reason, camera.since);
    else if (!this.failures) this.state(camera.state, camera.reason, camera.since);
    this.adjust();
  }

  setOverlay(overlay) {
    this.overlay = overlay;
    this.plainUntil = 0;
    this.overlayButton.setAttribute("aria-pressed", String(overlay));
    this.etag = null;
    if (this.timer !== null) this.schedule(0);
  }

  setInView(inView) {
    this.inView = inView;
    this.adjust();
  }

  resize(width) {
    if (width) this.width = width;
  }

  // What is on the screen is of before: it goes, and the newest is asked for.
  forget() {
    const { state, reason, since } = this.camera ?? {};
    this.halt();
    this.clear(state ?? "starting", reason, since);
    this.adjust();
  }

  // Begin to ask, or stop asking, as things are now. What nobody sees is not kept: it would be old when it is seen again.
  adjust() {
    if (!this.wanted) {
      this.halt();
      if (this.picture.shown) this.clear(this.camera?.state ?? "starting", this.camera?.reason, this.camera?.since);
    } else if (this.timer === null && !this.asking) {
      this.schedule(0);
    }
  }

  halt() {
    clearTimeout(this.timer);
    this.timer = null;
    this.failures = 0;
    this.asking?.abort();
  }

  // The camera is on the wall no more.
  remove() {
    this.halt();
    this.picture.clear();
    this.element.remove();
  }

  // Once a second: say the age, and let nothing stay that nobody confirms.
  tick(now) {
    if (!this.picture.shown) {
      this.tellMessage();
    } else if (now - this.confirmed > UNCONFIRMED || now < this.confirmed - PERIOD) {
      this.clear("silent", SILENT, this.confirmed);
      this.wall.look();
    } else {
      this.tellFacts(now);
    }
  }

  // -- asking --------------------------------------------------------------------------------------------------------

  schedule(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.poll(), delay);
  }

  nextTurn() {
    const now = Date.now();
    if (this.failures) return Math.min(LATEST_RETRY, PERIOD * 2 ** this.failures) * (0.5 + Math.random() / 2);
    const delay = PERIOD - ((now - this.phase) % PERIOD);
    return delay < SOONEST ? delay + PERIOD : delay;
  }

  async poll() {
    this.timer = null;
    if (!this.wanted || this.asking) return;
    const asking = (this.asking = new AbortController());
    let later = 0;
    try {
      await this.fetchPicture(asking.signal);
      this.failures = 0;
    } catch (error) {
      if (!asking.signal.aborted) later = this.fail(error);
    } finally {
      this.asking = null;
    }
    if (this.wanted && this.timer === null) this.schedule(Math.max(asking.signal.aborted ? 0 : this.nextTurn(), later));
  }

  async fetchPicture(signal) {
    const begun = Date.now();
    const drawn = (this.drawn = this.overlay && this.camera.model.state === "ready" && begun >= this.plainUntil);
    const query = { width: fittingWidth(this.width), overlay: drawn || null };
    const headers = this.etag && this.picture.shown ? { "If-None-Match": this.etag } : {};
    const read = async (answer) => ({ answer, bitmap: answer.status === 304 ? null : await createImageBitmap(await answer.blob()) });
    const { answer, bitmap } = await ask(cameraPath(this.name, "/snapshot"), { query, headers, signal, read });
    if (signal.aborted || !this.wanted || Date.now() - begun > UNCONFIRMED) {
      bitmap?.close(); // asked before the tab was hidden, or the machine slept
      return;
    }
    this.etag = answer.headers.get("ETag");
    this.confirmed = Date.now();
    this.age = Number(answer.headers.get("X-Frame-Age-Ms"));
    if (!bitmap) return;
    this.picture.show(bitmap);
    this.element.dataset.frame = answer.headers.get("X-Frame-Id");
    this.element.dataset.drawn = drawn;
    this.state(this.camera.state, this.camera.reason, this.camera.since);
    this.tellFacts(this.confirmed);
  }

  // The picture goes at once. Answers how long to wait at least.
  fail(error) {
    this.failures += 1;
    const { state, reason, since } = error.extra ?? {};
    if (error.status === 404 && state === "live" && this.drawn) {
      this.plainUntil = Date.now() + PLAIN; // the camera is well, its predictions are not
      this.failures = 0;
      return 0;
    }
    if (error.status === 404 && state) {
      this.camera = { ...this.camera, state, reason, since, has_frame: false }; // until the list says better
      this.clear(state, reason, since);
    } else {
      this.clear(error.status ? "missing" : "silent", error.message, Date.now());
    }
    this.wall.look();
    return (error.retryAfter ?? 0) * 1000;
  }

  // -- what is seen --------------------------------------------------------------------------------------------------

  // No picture: the state, the reason and since when, on a neutral ground.
  clear(state, reason = null, since = null) {
    this.picture.clear();
    this.etag = this.confirmed = this.age = null;
    delete this.element.dataset.frame;
    delete this.element.dataset.drawn;
    this.state(state, reason, since);
    setText(this.facts, "");
  }

  state(state, reason = null, since = null) {
    const before = this.element.dataset.state;
    Object.assign(this, { reason, since });
    this.element.dataset.state = this.badge.dataset.state = state;
    setText(this.badge, stateWords(state));
    this.tellMessage();
    if (before !== undefined && before !== state) this.wall.changed(this.name, state, reason);
  }

  tellMessage() {
    const { state } = this.element.dataset;
    this.message.hidden = this.picture.shown || state === "live"; // a picture is there, or on its way
    if (this.message.hidden) return;
    setText(this.word, stateWords(state));
    setText(this.why, this.reason ?? "");
    if (this.why.title !== this.why.textContent) this.why.title = this.why.textContent;
    setText(this.when, this.since ? sinceWords(this.since, this.wall.skew) : "");
  }

  tellFacts(now) {
    const age = this.age === null ? "" : ageWords(this.age + now - this.confirmed);
    const model = { stalled: "predictor stalled", failed: "model failed" }[this.camera?.model.state];
    setText(this.facts, [this.camera && fpsWords(this.camera.fps), age, model].filter(Boolean).join(" · "));
  }
}
