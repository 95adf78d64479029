// Models: which there are, what they take, how much they predict; load and unload.
import { ask } from "./api.js";
import { KeyedList, badge, bytes, duration, el, number, row, say, table } from "./panel_dom.js";
import { Poll, off, order, orderButton } from "./panel_work.js";

const COLUMNS = ["Model", "State", "Memory", "Rate", "Predictions", "Loaded in", "Last used", "Held by", "Orders"].map((head) => ({ head }));
const LOADING = 150; // seconds that a load may take here: `models.load_timeout_seconds` and a little

const path = (id) => `models/${id.split("/").map(encodeURIComponent).join("/")}`; // its slashes are the path's

export class Models {
  id = "models";
  title = "Models";

  constructor(house, context) {
    const { element, body } = table("Models", COLUMNS);
    this.empty = el("p", { class: "empty", hidden: true }, "There is no model.");
    this.content = [el("div", { class: "card list" }, element), this.empty];
    this.list = new KeyedList(body, ({ id }) => id, ({ id }) => this.make(id));
    this.poll = new Poll(2000, (signal) => this.ask(signal), { onError: context.failed });
  }

  start() {
    this.poll.start();
  }

  stop() {
    this.poll.stop();
  }

  async ask(signal) {
    const models = await ask("models", { signal });
    this.empty.hidden = models.length > 0;
    this.list.update(models);
  }

  make(id) {
    const { element, cells } = row(COLUMNS);
    const [name, state, memory, rate, predictions, load, used, holders, orders] = cells;
    const mark = el("span", { class: "badge" });
    const reason = el("p", { class: "small" });
    state.append(mark, reason);
    const about = el("p", { class: "quiet small" });
    name.append(el("strong", {}, id), about);
    const buttons = {
      load: orderButton("Load", () => this.load(id), { "aria-label": `Load ${id}` }),
      unload: orderButton("Unload", () => this.unload(id), { class: "danger", "aria-label": `Unload ${id}` }),
    };
    orders.append(el("div", { class: "row" }, buttons.load, buttons.unload));
    let before = null;
    return {
      element,
      update(model) {
        const now = performance.now();
        const grown = before && model.predictions >= before.predictions && model.predictions - before.predictions;
        const perSecond = before && grown !== false ? (grown / (now - before.now)) * 1000 : null;
        before = { now, predictions: model.predictions };
        const loaded = model.state === "loaded";
        badge(mark, model.state);
        say(reason, model.reason ?? "");
        say(about, [model.family, model.task, model.labels && (model.labels === 1 ? "1 class" : `${model.labels} classes`), model.pinned && "kept loaded"].filter(Boolean).join(" · "));
        say(memory, bytes(model.memory_bytes));
        say(rate, loaded && perSecond !== null ? `${number(perSecond)}/s` : "–");
        say(predictions, model.predictions);
        say(load, duration(model.load_seconds));
        say(used, model.last_used_age_seconds === null ? "–" : `${duration(model.last_used_age_seconds)} ago`);
        say(holders, [model.users && `${model.users} now`, model.waiting && `${model.waiting} waiting`, ...model.cameras].filter(Boolean).join(", ") || "–");
        off(buttons.load, loaded || model.state === "loading");
        off(buttons.unload, !loaded);
      },
    };
  }

  async load(id) {
    await order(`${id} is loaded`, `${path(id)}/load`, { method: "POST", seconds: LOADING });
    this.poll.now();
  }

  async unload(id) {
    const words = ({ unloaded }) => (unloaded ? `${id} is unloaded` : `${id} was not loaded`);
    await order(words, path(id), { method: "DELETE" });
    this.poll.now();
  }
}
