// The wall: a tile for each camera, the full view of one. Nothing is asked for that nobody sees; nothing old is ever seen.
import { ask } from "./api.js";
import { bestColumns, startKiosk } from "./kiosk.js";
import { LoginForm, logOut, whoAmI } from "./login.js";
import { recall, remember } from "./memory.js";
import { Tile } from "./tile.js";
import { View } from "./view.js";
import { setText, stateWords } from "./words.js";

const LIST_PERIOD = 2000; // milliseconds
const VERSION_PERIOD = 30_000;
const LATEST_RETRY = 5000;
const TICK = 1000;
const SLEPT = 4000; // ticks so far apart: the machine slept, and what is on the screen is of before
const SETTLING = 3000; // changes of the first seconds are no news

const at = (id) => document.getElementById(id);
const parameters = new URLSearchParams(location.search);
const flag = (name) => (parameters.has(name) ? !["0", "false", "no"].includes(parameters.get(name)) : null);
const kiosk = flag("kiosk") ?? false;
const chosenNames = (parameters.get("cameras") ?? "").split(",").map((name) => name.trim()).filter(Boolean);
const columns = Math.min(12, Math.max(0, Number.parseInt(parameters.get("columns"), 10) || 0));

class Wall {
  constructor() {
    Object.assign(this, { cameras: new Map(), tiles: new Map(), link: "new", skew: 0, failures: 0, version: null, news: null });
    Object.assign(this, { timer: null, looking: false, frozen: false, leaving: false, ticked: Date.now(), versionAt: 0, begun: Date.now() });
    this.element = at("wall");
    this.overlays = recall("overlay", {});
    this.seeing = new IntersectionObserver((entries) => entries.forEach((entry) => this.sight(entry)));
    this.sizing = new ResizeObserver((entries) => entries.forEach((entry) => this.tileOf(entry.target)?.resize(entry.contentRect.width)));
    this.login = new LoginForm(at("login"), (session) => this.admit(session));
    this.view = new View(this);
  }

  // -- what tiles and view ask of it ---------------------------------------------------------------------------------

  // Whether anybody can see the page, and healthd answers it.
  get seen() {
    return !document.hidden && !this.frozen && this.link === "fine";
  }

  get open() {
    return this.seen && !this.view.open;
  }

  get silent() {
    return this.link === "silent";
  }

  get listed() {
    return this.link === "fine";
  }

  get names() {
    return [...this.tiles.keys()];
  }

  camera(name) {
    return this.cameras.get(name);
  }

  overlayOf(name) {
    return this.tiles.get(name)?.overlay ?? flag("overlay") ?? this.overlays[name] ?? true;
  }

  chosen(name, overlay) {
    this.overlays = { ...this.overlays, [name]: overlay };
    remember("overlay", this.overlays);
    this.tiles.get(name)?.setOverlay(overlay);
  }

  // The full view has an address, so that it can be linked to and the browser's way back leads out of it.
  show(name) {
    const hash = `#${encodeURIComponent(name)}`;
    if (this.view.open) history.replaceState(history.state, "", hash);
    else history.pushState({ opened: true }, "", hash);
    this.route();
  }

  leave() {
    if (history.state?.opened) {
      if (!this.leaving) history.back(); // it takes a moment: a second click would lead off the wall
      this.leaving = true;
      return;
    }
    history.replaceState(null, "", location.pathname + location.search);
    this.route();
  }

  changed(name, state, reason) {
    if (this.link !== "fine" || Date.now() - this.begun < SETTLING) return;
    setText(at("changes"), [`${name}: ${stateWords(state)}`, reason].filter(Boolean).join(", "));
  }

  // -- the list ------------------------------------------------------------------------------------------------------

  // Ask for the list now, unless that is being done.
  look() {
    if (this.looking || document.hidden || this.frozen) return;
    clearTimeout(this.timer);
    this.timer = null;
    this.fetchList();
  }

  async fetchList() {
    this.looking = true;
    const read = async (answer) => ({ cameras: await answer.json(), date: Date.parse(answer.headers.get("Date")) });
    const { cameras, date, error } = await ask("cameras", { read }).catch((failed) => ({ error: failed }));
    this.looking = false;
    this.failures = error ? this.failures + 1 : 0;
    if (error) {
      this.setLink(error.status === 401 ? "locked" : "silent", error.message);
    } else {
      this.skew = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0; // the header counts whole seconds
      this.login.hide();
      this.take(cameras);
      this.setLink("fine");
      this.checkVersion().catch(() => {}); // the next list will tell
    }
    const delay = error ? Math.min(LATEST_RETRY, 500 * 2 ** this.failures) * (0.5 + Math.random() / 2) : LIST_PERIOD;
    clearTimeout(this.timer);
    this.timer = document.hidden || this.frozen ? null : setTimeout(() => this.look(), delay);
  }

  setLink(link, words = "") {
    const before = this.link;
    this.link = link;
    const empty = link === "fine" && !this.tiles.size ? "no camera is configured" : "";
    setText(at("note"), link === "silent" ? `${words}; trying again` : (this.news ?? empty));
    if (link === "locked") {
      this.take([]);
      setText(at("summary"), "");
      if (this.view.open) this.view.close();
    } else if (link === "silent" && before !== "silent") {
      for (const tile of this.tiles.values()) tile.clear("silent", words, Date.now());
    }
    if (link === "fine" && before === "locked") this.route();
    if (link !== before) this.adjust();
    this.view.update();
  }

  // Make the wall show these cameras, in their order, or those that the address names, in theirs.
  take(cameras) {
    this.cameras = new Map(cameras.map((camera) => [camera.name, camera]));
    const names = chosenNames.length && cameras.length ? [...new Set(chosenNames)] : [...this.cameras.keys()];
    const wanted = new Set(names);
    for (const [name, tile] of this.tiles) {
      if (wanted.has(name)) continue;
      this.seeing.unobserve(tile.element);
      this.sizing.unobserve(tile.element);
      tile.remove();
      this.tiles.delete(name);
    }
    if (names.join() !== this.names.join()) this.arrange(names);
    for (const [name, tile] of this.tiles) tile.update(this.cameras.get(name) ?? null);
    this.summarize(names);
  }

  arrange(names) {
    const before = this.tiles;
    this.tiles = new Map(names.map((name) => [name, before.get(name) ?? new Tile(this, name, { overlay: this.overlayOf(name) })]));
    [...this.tiles.values()].forEach((tile, index) => {
      tile.phase = Math.round((index / names.length) * 1000); // spread over the second
      if (this.element.children[index] !== tile.element) this.element.insertBefore(tile.element, this.element.children[index] ?? null);
      this.seeing.observe(tile.element);
      this.sizing.observe(tile.element);
    });
    this.fit();
  }

  fit() {
    const count = this.tiles.size;
    const fixed = columns || (kiosk && bestColumns(count, innerWidth, innerHeight));
    this.element.classList.toggle("fixed", Boolean(fixed));
    this.element.classList.toggle("few", count <= 2);
    if (fixed) this.element.style.setProperty("--columns", fixed);
  }

  summarize(names) {
    const live = names.filter((name) => this.cameras.get(name)?.state === "live").length;
    setText(at("summary"), names.length ? `${live} of ${names.length} live` : "");
    const title = names.length && live < names.length ? `(${names.length - live} not live) healthd` : "healthd";
    if (document.title !== title) document.title = title;
  }

  // The page is newer than healthd, or older: a kiosk loads itself anew, somebody at a desk may want to choose when.
  async checkVersion() {
    if (document.hidden || this.frozen) return;
    if (Date.now() - this.versionAt < VERSION_PERIOD && Date.now() >= this.versionAt) return;
    const { version } = await ask("state");
    this.versionAt = Date.now();
    if (this.version !== null && version !== this.version) {
      if (kiosk) location.reload();
      this.news = `healthd ${version} is running: load this page anew`;
      return;
    }
    this.version = version;
  }

  // -- who sees what -------------------------------------------------------------------------------------------------

  tileOf(element) {
    return this.tiles.get(element.dataset.camera);
  }

  sight(entry) {
    this.tileOf(entry.target)?.setInView(entry.isIntersecting);
  }

  // Begin or stop to ask, as things are now.
  adjust() {
    for (const tile of this.tiles.values()) tile.adjust();
    this.view.adjust();
  }

  // The page is hidden, shown, frozen or taken out of the browser's cache.
  turn() {
    this.ticked = Date.now();
    this.adjust();
    if (document.hidden || this.frozen) {
      clearTimeout(this.timer);
      this.timer = null;
    } else {
      this.versionAt = 0;
      this.look();
    }
  }

  // The machine slept: what is on the screen is of before.
  wake() {
    for (const tile of this.tiles.values()) if (tile.picture.shown) tile.forget();
    if (this.view.open) this.view.restart();
    this.look();
  }

  tick() {
    const now = Date.now();
    const elapsed = now - this.ticked;
    this.ticked = now;
    if (document.hidden || this.frozen) return;
    if (elapsed > SLEPT || elapsed < 0) this.wake();
    if (!this.view.open) for (const tile of this.tiles.values()) tile.tick(now);
    this.view.tick(now);
  }

  // Follow the address.
  route() {
    let name = "";
    try {
      name = decodeURIComponent(location.hash.slice(1));
    } catch {
      // no name of a camera
    }
    const before = this.view.name;
    this.leaving = false;
    if (name && this.link !== "locked") this.view.show(name);
    else if (this.view.open) this.view.close();
    this.adjust();
    if (before && !this.view.open) this.tiles.get(before)?.openButton.focus();
  }

  // -- log in and out ------------------------------------------------------------------------------------------------

  admit(session) {
    at("logout").hidden = !(session.required && session.name);
    this.look();
  }

  async leaveSession() {
    const ended = await logOut().then(
      () => true,
      () => false, // still logged in; why it failed, the list will tell
    );
    at("logout").hidden = ended;
    this.look();
  }

  // -- keyboard ------------------------------------------------------------------------------------------------------

  // Arrows lead from tile to tile, as they lie on the screen.
  press(event) {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const from = event.target.closest?.(".tile");
    if (!direction || !from || event.ctrlKey || event.metaKey || event.altKey) return;
    const [dx, dy] = direction;
    const tiles = [...this.tiles.values()];
    const index = tiles.findIndex((tile) => tile.element === from);
    const to = dx ? tiles[index + dx] : this.beside(tiles, from, dy);
    if (!to) return;
    event.preventDefault();
    to.openButton.focus();
  }

  beside(tiles, from, dy) {
    const { offsetTop: top, offsetLeft: left } = from;
    const far = ({ element }) => Math.hypot(element.offsetLeft - left, (element.offsetTop - top) * 4);
    return tiles.filter(({ element }) => (element.offsetTop - top) * dy > 0).sort((a, b) => far(a) - far(b))[0];
  }
}

const wall = new Wall();
if (kiosk) startKiosk();
document.addEventListener("visibilitychange", () => wall.turn());
for (const [event, frozen] of [["freeze", true], ["resume", false]]) {
  document.addEventListener(event, () => {
    wall.frozen = frozen;
    wall.turn();
  });
}
for (const [event, frozen] of [["pagehide", true], ["pageshow", false]]) {
  window.addEventListener(event, () => {
    wall.frozen = frozen;
    wall.turn();
  });
}
window.addEventListener("popstate", () => wall.route());
window.addEventListener("hashchange", () => wall.route());
window.addEventListener("online", () => wall.look());
window.addEventListener("resize", () => wall.fit());
wall.element.addEventListener("keydown", (event) => wall.press(event));
at("logout").addEventListener("click", () => wall.leaveSession());
setInterval(() => wall.tick(), TICK);
wall.route();
wall.look();
whoAmI().then((session) => wall.admit(session), () => {});
