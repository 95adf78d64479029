// Settings: what is in effect, without secrets, and where each value comes from.
import { ask } from "./api.js";
import { KeyedList, el, row, say, table } from "./panel_dom.js";
import { Poll } from "./panel_work.js";

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
    this.content = [
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
    this.settings = await ask("settings", { signal });
    this.show();
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

const origin = ({ source, name }) => (name ? `${source}: ${name}` : source);

function written(value) {
  if (value === null || value === "") return "not set";
  if (Array.isArray(value)) return value.length ? value.map(written).join(", ") : "none";
  return typeof value === "object" ? (Object.keys(value).length ? JSON.stringify(value) : "none") : String(value);
}
