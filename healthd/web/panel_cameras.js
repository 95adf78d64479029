// Cameras: what they do now, small charts of the last minutes, orders; details with the hot changes and the last errors.
import { ask, cameraPath } from "./api.js";
import { Chart } from "./panel_chart.js";
import { KeyedList, badge, clock, el, milliseconds, number, row, say, table } from "./panel_dom.js";
import { TuningForm } from "./panel_tuning.js";
import { Poll, order, orderButton } from "./panel_work.js";

const PERIOD = 5000; // as often as there is a new point
const COLUMNS = [
  { head: "Camera" },
  { head: "State" },
  { head: "Frames · predicted /s", class: "figure" },
  { head: "Prediction time", class: "figure" },
  { head: "Frame age", class: "figure" },
  { head: "Dropped", class: "figure" },
  { head: "Orders", class: "orders" },
];
const MOST_POINTS = 60;
const follows = (last, point) => point && Date.parse(point.at) - Date.parse(last.at) < 2 * PERIOD;
const sum = (counts) => Object.values(counts).reduce((total, one) => total + one, 0);

export class Cameras {
  id = "cameras";
  title = "Cameras";

  constructor(house, context) {
    const { element, body } = table("Cameras", COLUMNS);
    element.classList.add("cameras");
    this.empty = el("p", { class: "empty", hidden: true }, "No camera is configured.");
    this.content = [el("div", { class: "card list" }, element), this.empty];
    this.house = house;
    this.rows = new Map();
    this.list = new KeyedList(body, ({ key }) => key, ({ key, camera }) => this.make(key, camera));
    this.poll = new Poll(PERIOD, (signal) => this.ask(signal), { onError: context.failed });
    house.addEventListener("cameras", () => this.show());
  }

  start() {
    this.poll.start();
    this.show();
  }

  stop() {
    this.poll.stop();
  }

  async ask(signal) {
    for (const { name } of this.house.cameras) {
      const one = this.rows.get(name);
      if (!one) continue;
      const last = one.points.at(-1);
      const { points } = await this.history(name, { after: last?.id }, signal);
      if (!last || follows(last, points[0])) one.show([...one.points, ...points]);
      else one.show((await this.history(name, {}, signal)).points); // perhaps a new daemon counts anew
    }
  }

  history(name, query, signal) {
    return ask(cameraPath(name, "/history"), { query, signal });
  }

  show() {
    const { cameras } = this.house;
    const known = this.rows.size;
    this.empty.hidden = cameras.length > 0;
    this.list.update(cameras.flatMap((camera) => ["row", "more"].map((kind) => ({ key: `${kind} ${camera.name}`, camera }))));
    if (this.rows.size > known) this.poll.now(); // the past of those that are new
    for (const name of this.rows.keys()) if (!cameras.some((camera) => camera.name === name)) this.rows.delete(name);
  }

  // Two rows of the table for each camera: its figures, and what is opened below them.
  make(key, camera) {
    if (key.startsWith("row")) this.rows.set(camera.name, new CameraRow(camera.name, this.house));
    const made = this.rows.get(camera.name);
    return key.startsWith("row")
      ? { element: made.element, update: ({ camera: now }) => made.update(now) }
      : { element: made.more.element, update: ({ camera: now }) => made.more.update(now) };
  }
}

class CameraRow {
  constructor(name, house) {
    const { element, cells } = row(COLUMNS);
    this.element = element;
    this.name = name;
    this.house = house;
    this.points = [];
    this.more = new Details(name, house);
    const [who, state, ...rest] = cells;
    this.toggle = el("button", { type: "button", class: "link", "aria-expanded": "false", "aria-controls": `more-${name}` }, name);
    this.toggle.addEventListener("click", () => this.open(this.more.element.hidden));
    this.about = el("p", { class: "quiet small" });
    who.append(this.toggle, this.about);
    this.badge = el("span", { class: "badge" });
    this.reason = el("p", { class: "small" });
    state.append(this.badge, this.reason);
    this.charts = CHARTS.map((make) => make(name));
    this.figures = this.charts.map((chart, at) => {
      const figure = el("p", { class: "numbers" });
      rest[at].append(figure, chart.element);
      return figure;
    });
    this.pause = orderButton("Pause", () => this.order(this.paused ? "resume" : "pause"));
    this.restart = orderButton("Restart", () => this.order("restart"));
    rest[CHARTS.length].append(el("div", { class: "row" }, this.pause, this.restart));
  }

  open(wanted) {
    this.more.element.hidden = !wanted;
    this.more.update(this.camera);
    this.toggle.setAttribute("aria-expanded", String(wanted));
  }

  async order(what) {
    const done = { pause: "is paused", resume: "is being opened", restart: "begins anew" }[what];
    await order(`${this.name} ${done}`, cameraPath(this.name, `/${what}`), { method: "POST" });
    await this.house.refresh(this.name).catch(() => {});
  }

  show(points) {
    this.points = points.slice(-MOST_POINTS);
    for (const chart of this.charts) chart.draw(this.points);
    this.tellFigures();
  }

  update(camera) {
    this.camera = camera;
    this.paused = camera.state === "paused";
    say(this.about, [camera.plugin, camera.model.id, camera.viewers ? `${camera.viewers} looking` : null].filter(Boolean).join(" · "));
    badge(this.badge, camera.state);
    say(this.reason, `${camera.reason ?? ""}${camera.reason ? " · " : ""}since ${clock(camera.since)}`);
    say(this.pause, this.paused ? "Resume" : "Pause");
    this.pause.setAttribute("aria-label", `${this.paused ? "Resume" : "Pause"} ${camera.name}`);
    this.restart.setAttribute("aria-label", `Restart ${camera.name}`);
    this.tellFigures();
  }

  tellFigures() {
    const { camera, figures } = this;
    if (!camera) return;
    const last = this.points.at(-1);
    say(figures[0], `${number(camera.fps)} · ${number(camera.predicted_fps)}`);
    const resting = camera.model.idle ? "resting" : camera.model.state;
    say(figures[1], last?.predict_ms != null ? `${number(last.predict_ms)} ms` : resting);
    say(figures[2], milliseconds(camera.frame_age_ms));
    say(figures[3], `${sum(camera.frames.dropped)} of ${camera.frames.read}`);
  }
}

const CHARTS = [
  (name) =>
    new Chart({
      of: `Frames per second of ${name}`,
      lines: [
        { name: "frames", key: ({ fps }) => fps },
        { name: "predictions", key: ({ predicted_fps: rate }) => rate },
      ],
    }),
  (name) => new Chart({ of: `Prediction time of ${name}`, unit: " ms", lines: [{ name: "mean", key: ({ predict_ms: ms }) => ms }] }),
  (name) =>
    new Chart({ of: `Age of the newest frame of ${name}`, unit: " ms", digits: 0, lines: [{ name: "age", key: ({ frame_age_ms: ms }) => ms }] }),
  (name) =>
    new Chart({ of: `Frames dropped of ${name} in five seconds`, digits: 0, lines: [{ name: "drops", key: ({ dropped }) => sum(dropped) }] }),
];

// What is opened below a camera: facts, hot changes, drops by reason, the last errors.
class Details {
  constructor(name, house) {
    this.cell = el("td", { role: "cell", colspan: COLUMNS.length });
    this.element = el("tr", { role: "row", class: "more", id: `more-${name}`, hidden: true }, this.cell);
    this.facts = el("dl", { class: "facts" });
    this.tuning = new TuningForm(name, house);
    this.errors = el("ol", { class: "errors", reversed: true, tabindex: "0", "aria-label": `Last errors of ${name}` });
    this.none = el("p", { class: "quiet" }, "None since the start.");
    this.cell.append(
      el(
        "div",
        { class: "details" },
        el("section", {}, el("h3", {}, "Hot changes"), this.tuning.element),
        el("section", {}, el("h3", {}, "Facts"), this.facts),
        el("section", {}, el("h3", {}, "Last errors"), this.none, this.errors),
      ),
    );
    this.shownFacts = new KeyedList(this.facts, ([key]) => key, ([key]) => fact(key));
    this.shownErrors = new KeyedList(this.errors, ({ key }) => key, () => mishap());
  }

  update(camera) {
    if (this.element.hidden) return;
    const dropped = Object.entries(camera.frames.dropped).filter(([, count]) => count);
    this.tuning.update(camera.tuning);
    this.shownFacts.update([
      ["source", short(camera.source ?? "none"), camera.source],
      ["picture", camera.width ? `${camera.width}×${camera.height}${camera.codec ? ` ${camera.codec}` : ""}` : "none"],
      ["model", [camera.model.id ?? "none", camera.model.state, camera.model.reason].filter(Boolean).join(" · ")],
      ["frames", `${camera.frames.read} read, ${camera.frames.predicted} predicted`],
      ["dropped", dropped.map(([reason, count]) => `${count} ${reason}`).join(", ") || "none"],
      ["reconnects", camera.reconnects],
      ["viewers", camera.viewers],
    ]);
    this.none.hidden = camera.errors.length > 0;
    const told = new Map(); // the same may happen twice at one moment
    const named = camera.errors.map((error) => {
      const at = `${error.at} ${error.task}`;
      told.set(at, (told.get(at) ?? 0) + 1);
      return { key: `${at} ${told.get(at)}`, error };
    });
    this.shownErrors.update(named.reverse());
  }
}

function fact(key) {
  const value = el("dd");
  return {
    element: el("div", {}, el("dt", {}, key), value),
    update([, words, whole]) {
      say(value, words);
      if (whole) value.title = whole;
    },
  };
}

// A path of the daemon's machine by its end.
const short = (source) => source.replace(/^\/.*(?=\/[^/]+\/[^/]+$)/, "…");

function mishap() {
  const [when, what] = [el("time", { class: "quiet numbers" }), el("span")];
  return {
    element: el("li", {}, when, " ", what),
    update({ error }) {
      when.dateTime = error.at;
      say(when, clock(error.at));
      say(what, `${error.task}: ${error.reason}`);
    },
  };
}
