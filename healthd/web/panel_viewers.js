// Viewers: the open streams, and an end to each.
import { ask } from "./api.js";
import { KeyedList, clock, el, milliseconds, row, say, table } from "./panel_dom.js";
import { Poll, order, orderButton } from "./panel_work.js";

const COLUMNS = ["Camera", "Kind", "From", "Since", "Sent", "Skipped", "Quality", "Last written", "Orders"].map((head) => ({ head }));

export class Viewers {
  id = "viewers";
  title = "Viewers";

  constructor(house, context) {
    const { element, body } = table("Open streams", COLUMNS);
    this.empty = el("p", { class: "empty", hidden: true }, "Nobody looks.");
    this.content = [el("div", { class: "card list" }, element), this.empty];
    this.list = new KeyedList(body, ({ id }) => id, ({ id }) => this.make(id));
    this.poll = new Poll(2000, (signal) => this.ask(signal), { onError: context.failed });
    house.addEventListener("viewer", () => this.poll.soon());
  }

  start() {
    this.poll.start();
  }

  stop() {
    this.poll.stop();
  }

  async ask(signal) {
    const viewers = await ask("viewers", { signal });
    this.empty.hidden = viewers.length > 0;
    this.list.update(viewers);
  }

  make(id) {
    const { element, cells } = row(COLUMNS);
    const end = orderButton("End", () => this.end(id), { class: "danger", "aria-label": `End viewer ${id}` });
    cells.at(-1).append(end);
    return {
      element,
      update({ camera, kind, client, since, sent, skipped, quality, last_write_age_ms: age }) {
        const told = [camera ?? "all", kind, client, clock(since), sent, skipped, quality ?? "–", `${milliseconds(age)} ago`];
        told.forEach((words, at) => say(cells[at], words));
      },
    };
  }

  async end(id) {
    await order(`viewer ${id} is ended`, `viewers/${encodeURIComponent(id)}`, { method: "DELETE" });
    this.poll.now();
  }
}
