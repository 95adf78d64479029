// Settings: what is in effect, without secrets, and where each value comes from; the file can be read again.
import { ask } from "./api.js";
import { KeyedList, el, row, say, table } from "./panel_dom.js";
import { Poll, order, orderButton } from "./panel_work.js";

const READING = 60;
const COLUMNS = ["Setting", "Value", "Source"].map((head) => ({ head }));

export class Settings {
  id = "settings";
  title = "Settings";

  constructor(house, context) {
    const { element, body } = table("Settings in effect", COLUMNS);
    element.classList.add("settings");
    this.settings = [];
    this.words = el("input", { type: "search", name: "filter", placeholder: "camera, key, value or file" });
    this.changed = el("input", { type: "checkbox", name: "changed" });
    this.count = el("p", { class: "quiet numbers", role: "status" });
    this.words.addEventListener("input", () => this.show());
    this.changed.addEventListener("change", () => this.show());
    this.waiting = el("p", { class: "quiet", hidden: true });
    this.content = [
      el("div", { class: "row" }, orderButton("Reload configuration", () => this.reload())),
      this.waiting,
      el(
        "form",
        { class: "row filters", onsubmit: (event) => event.preventDefault() },
        el("label", {}, "Show ", this.words),
        el("label", {}, this.changed, " no defaults"),
        this.count,
      ),
      el("div", { class: "card list" }, element),
    ];
    this.list = new KeyedList(body, ({ key }) => key, () => this.make());
    this.poll = new Poll(30_000, (signal) => this.ask(signal), { onError: context.failed });
  }

  start() {
    this.poll.start();
  }

  stop() {
    this.poll.stop();
  }

  async ask(signal) {
    const [settings, state] = await Promise.all([ask("settings", { signal }), ask("state", { signal })]);
    this.settings = settings;
    this.wait(state.restart_needed);
    this.show();
  }

  wait(settings) {
    this.waiting.hidden = !settings.length;
    say(this.waiting, `Changed in the file, and in effect after a restart of healthd: ${settings.join(", ")}`);
  }

  async reload() {
    if (await order(told, "config/reload", { method: "POST", seconds: READING })) this.poll.now();
  }

  show() {
    const words = this.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.settings.filter((setting) => {
      const text = `${setting.key} ${JSON.stringify(setting.value)} ${origin(setting)}`.toLowerCase();
      return words.every((word) => text.includes(word)) && !(this.changed.checked && setting.source === "default");
    });
    say(this.count, `${shown.length} of ${this.settings.length}`);
    this.list.update(shown);
  }

  make() {
    const { element, cells } = row(COLUMNS);
    const [key, value, source] = cells;
    return {
      element,
      update(setting) {
        say(key, setting.key);
        say(value, written(setting.value));
        say(source, origin(setting));
        element.classList.toggle("quiet", setting.source === "default");
      },
    };
  }
}

// What came of a reload, in words.
function told({ added, removed, restarted, changed, restart_needed: later }) {
  const parts = Object.entries({ added, removed, restarted, changed, "after a restart of healthd": later });
  const words = parts.filter(([, names]) => names.length).map(([what, names]) => `${what}: ${names.join(", ")}`);
  return words.join("; ") || "nothing has changed";
}

const origin = ({ source, name }) => (name ? `${source}: ${name}` : source);

function written(value) {
  if (value === null || value === "") return "not set";
  if (Array.isArray(value)) return value.length ? value.map(written).join(", ") : "none";
  return typeof value === "object" ? (Object.keys(value).length ? JSON.stringify(value) : "none") : String(value);
}
