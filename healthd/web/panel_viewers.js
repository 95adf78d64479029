// Viewers: the open streams, who is logged in, and an end to each.
import { ask } from "./api.js";
import { KeyedList, clock, duration, el, milliseconds, row, say, table } from "./panel_dom.js";
import { Poll, mayChange, off, order, orderButton } from "./panel_work.js";

const COLUMNS = ["Camera", "Kind", "From", "Since", "Sent", "Skipped", "Quality", "Last written", "Orders"].map((head) => ({ head }));
const LOG_INS = ["Key", "Scope", "From", "Since", "Ends in", "Last used", "Streams", "Orders"].map((head) => ({ head }));

export class Viewers {
  id = "viewers";
  title = "Viewers";

  constructor(house, context) {
    const { element, body } = table("Open streams", COLUMNS);
    this.empty = el("p", { class: "empty", hidden: true }, "Nobody looks.");
    const logIns = table("Log-ins of pages", LOG_INS);
    this.logIns = el("div", { hidden: true }, el("h3", {}, "Log-ins"), el("div", { class: "card list" }, logIns.element));
    this.content = [el("div", { class: "card list" }, element), this.empty, this.logIns];
    this.logInList = new KeyedList(logIns.body, ({ id }) => id, (logIn) => this.makeLogIn(logIn));
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
    const asked = [ask("viewers", { signal }), mayChange() ? ask("sessions", { signal }) : []]; // an admin's to see
    const [viewers, logIns] = await Promise.all(asked);
    this.empty.hidden = viewers.length > 0;
    this.list.update(viewers);
    this.logIns.hidden = logIns.length === 0;
    this.logInList.update(logIns);
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

  makeLogIn({ id, name, scope, client, since, own }) {
    const { element, cells } = row(LOG_INS);
    const end = orderButton("Log out", () => this.logOut(id), { class: "danger", "aria-label": `Log out ${name} from ${client}` });
    off(end, own);
    cells.at(-1).append(end);
    return {
      element,
      update({ expires_in_seconds: left, idle_seconds: idle, viewers }) {
        const told = [own ? `${name} (this page)` : name, scope, client, clock(since), duration(left), `${duration(idle)} ago`, viewers];
        told.forEach((words, at) => say(cells[at], words));
      },
    };
  }

  async logOut(id) {
    await order("the log-in is ended", `sessions/${encodeURIComponent(id)}`, { method: "DELETE" });
    this.poll.now();
  }

  async end(id) {
    await order(`viewer ${id} is ended`, `viewers/${encodeURIComponent(id)}`, { method: "DELETE" });
    this.poll.now();
  }
}
