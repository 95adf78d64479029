// Plugins: what is installed, in which version, who uses it; what is broken or skipped, and why; what misbehaved.
import { ask } from "./api.js";
import { KeyedList, badge, el, row, say, table } from "./panel_dom.js";
import { Poll } from "./panel_work.js";

const COLUMNS = ["Plugin", "State", "Distribution", "Version", "Used by", "Settings"].map((head) => ({ head }));
const KINDS = { "healthd.camera_sources": "cameras", "healthd.model_families": "models" };

export class Plugins {
  id = "plugins";
  title = "Plugins";

  constructor(house, context) {
    const { element, body } = table("Installed plugins", COLUMNS);
    this.content = [el("div", { class: "card list" }, element)];
    this.list = new KeyedList(body, ({ group, name }) => `${group} ${name}`, (plugin) => this.make(plugin));
    this.poll = new Poll(30_000, (signal) => this.ask(signal), { onError: context.failed });
  }

  start() {
    this.poll.start();
  }

  stop() {
    this.poll.stop();
  }

  async ask(signal) {
    this.list.update(await ask("plugins", { signal }));
  }

  make({ name, group }) {
    const { element, cells } = row(COLUMNS);
    const mark = el("span", { class: "badge" });
    const reason = el("p", { class: "small" });
    const notes = el("p", { class: "quiet small" });
    cells[0].append(el("strong", {}, name), el("p", { class: "quiet small" }, KINDS[group] ?? group));
    cells[1].append(mark, reason, notes);
    return {
      element,
      update(plugin) {
        badge(mark, plugin.state);
        say(reason, plugin.reason ?? "");
        say(notes, plugin.notes.length ? `at import ${plugin.notes.join("; ")}` : "");
        say(cells[2], plugin.distribution);
        say(cells[3], plugin.version);
        say(cells[4], plugin.cameras.join(", ") || "–");
        say(cells[5], Object.keys(plugin.settings?.properties ?? {}).join(", ") || "–");
      },
    };
  }
}
