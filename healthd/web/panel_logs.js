// The log as it is written: chosen by level and camera at the daemon, by words here; it can be halted to read.
import { el, clock, say } from "./panel_dom.js";
import { Events } from "./panel_work.js";

const LEVELS = ["debug", "info", "warning", "error", "critical"];
const MOST = 500; // lines that are kept here
const FIRST = 200;

export class Logs {
  id = "logs";
  title = "Logs";

  constructor(house, context) {
    this.level = el("select", { name: "level" }, ...LEVELS.map((level) => el("option", { value: level, selected: level === "info" }, level)));
    this.camera = el("select", { name: "camera" }, el("option", { value: "" }, "all"));
    this.words = el("input", { type: "search", name: "text", placeholder: "event or word" });
    this.halt = el("button", { type: "button", "aria-pressed": "false" }, "Halt");
    this.count = el("p", { class: "quiet numbers" });
    this.lines = el("ol", { class: "log card", tabindex: "0", "aria-label": "Lines of the log, the newest last" });
    this.content = [
      el(
        "form",
        { class: "row filters", onsubmit: (event) => event.preventDefault() },
        el("label", {}, "Level ", this.level),
        el("label", {}, "Camera ", this.camera),
        el("label", {}, "Text ", this.words),
        this.halt,
        this.count,
      ),
      this.lines,
    ];
    this.kept = []; // [{ line, element }], the oldest first
    this.held = []; // what came while it was halted
    this.boot = null;
    this.seen = 0;
    this.events = new Events("logs/stream", { log: (line, event) => this.came(line, event) }, {
      query: () => this.query(),
      onError: context.failed,
    });
    for (const choice of [this.level, this.camera]) choice.addEventListener("change", () => this.anew());
    this.words.addEventListener("input", () => this.sift());
    this.halt.addEventListener("click", () => this.stopOrGo());
    house.addEventListener("cameras", () => this.offer(house.cameras));
  }

  start() {
    this.events.start();
    this.tell();
  }

  stop() {
    this.events.stop();
  }

  query() {
    const query = new URLSearchParams({ level: this.level.value, limit: this.kept.length ? MOST : FIRST });
    if (this.camera.value) query.set("camera", this.camera.value);
    return query;
  }

  offer(cameras) {
    const known = new Set([...this.camera.options].map(({ value }) => value));
    for (const { name } of cameras) if (!known.has(name)) this.camera.append(el("option", { value: name }, name));
  }

  // Other lines are wanted: begin with those that are there.
  anew() {
    this.kept = [];
    this.held = [];
    this.seen = 0;
    this.lines.replaceChildren();
    this.events.restart();
    this.tell();
  }

  came(line, event) {
    const boot = event.lastEventId.split("-")[0];
    if (boot !== this.boot) [this.boot, this.seen] = [boot, 0]; // another process: it counts anew
    if (line.id <= this.seen) return; // after a pause the stream begins with what is here already
    this.seen = line.id;
    if (this.halted) {
      this.held.push(line);
      this.held.splice(0, this.held.length - MOST);
    } else {
      this.add([line]);
    }
    this.tell();
  }

  add(lines) {
    const atEnd = this.lines.scrollTop + this.lines.clientHeight >= this.lines.scrollHeight - 8;
    for (const line of lines) {
      const shown = { line, element: written(line) };
      this.kept.push(shown);
      shown.element.hidden = !this.wants(line);
      this.lines.append(shown.element);
    }
    for (const { element } of this.kept.splice(0, this.kept.length - MOST)) element.remove();
    if (atEnd) this.lines.scrollTop = this.lines.scrollHeight;
  }

  sift() {
    for (const { line, element } of this.kept) element.hidden = !this.wants(line);
    this.lines.scrollTop = this.lines.scrollHeight;
    this.tell();
  }

  wants(line) {
    const text = `${line.event} ${line.logger} ${line.camera} ${JSON.stringify(line.fields)}`.toLowerCase();
    return this.words.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  get halted() {
    return this.halt.getAttribute("aria-pressed") === "true";
  }

  stopOrGo() {
    this.halt.setAttribute("aria-pressed", String(!this.halted));
    if (!this.halted) this.add(this.held.splice(0));
    this.tell();
  }

  tell() {
    const shown = this.kept.filter(({ element }) => !element.hidden).length;
    say(this.count, `${shown} lines${this.halted ? `, halted: ${this.held.length} more have come` : ""}`);
  }
}

function written({ at, level, event, camera, logger, fields }) {
  const { exception, ...rest } = fields;
  const told = Object.entries(rest).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return el(
    "li",
    { "data-level": level },
    el("time", { datetime: at, class: "quiet" }, clock(at)),
    " ",
    el("span", { class: "level" }, level),
    " ",
    camera ? el("strong", {}, `${camera} `) : null,
    el("span", { class: "event" }, event),
    ` ${told.join(" ")}`,
    el("span", { class: "quiet" }, logger ? ` ${logger}` : ""),
    exception ? el("pre", {}, exception) : null,
  );
}
