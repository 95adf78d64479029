// Jobs: how far each is, its results; an end to one that waits or runs, and a removal of one that has ended.
import { address, ask } from "./api.js";
import { KeyedList, badge, clock, duration, el, number, row, say, table } from "./panel_dom.js";
import { Poll, order, orderButton, sureButton } from "./panel_work.js";

const COLUMNS = ["Job", "State", "Progress", "Rate", "Left", "Began", "Results", "Orders"].map((head) => ({ head }));
const GOING_ON = new Set(["queued", "running"]);

export class Jobs {
  id = "jobs";
  title = "Jobs";

  constructor(house, context) {
    const { element, body } = table("Jobs", COLUMNS);
    this.empty = el("p", { class: "empty", hidden: true });
    this.content = [el("div", { class: "card list" }, element), this.empty];
    this.list = new KeyedList(body, ({ id }) => id, (job) => this.make(job));
    this.poll = new Poll(2000, (signal) => this.ask(signal), { onError: context.failed });
  }

  start() {
    this.poll.start();
  }

  stop() {
    this.poll.stop();
  }

  async ask(signal) {
    let jobs = [];
    say(this.empty, "There is no job.");
    try {
      jobs = await ask("jobs", { signal });
    } catch (error) {
      if (error.status !== 409) throw error;
      say(this.empty, error.message); // they are switched off
    }
    this.empty.hidden = jobs.length > 0;
    this.list.update(jobs.reverse());
  }

  make({ id, name, model, kind, every }) {
    const { element, cells } = row(COLUMNS);
    const [who, state, progress, rate, left, began, results, orders] = cells;
    const about = `${kind} · ${model}${every > 1 ? ` · every ${every}th frame` : ""}`;
    who.append(el("strong", {}, name), el("p", { class: "quiet small" }, about));
    const [mark, reason] = [el("span", { class: "badge" }), el("p", { class: "small" })];
    state.append(mark, reason);
    const [bar, count] = [el("progress", { "aria-label": `Progress of ${name}` }), el("p", { class: "numbers small" })];
    progress.append(bar, count);
    results.append(el("a", { href: address(`jobs/${encodeURIComponent(id)}/results`), download: `${id}.jsonl` }, "JSON Lines"));
    const cancel = orderButton("Cancel", () => this.end(id, `${name} is cancelled`), { class: "danger", "aria-label": `Cancel ${name}` });
    const remove = sureButton("Remove", "Really remove?", () => this.end(id, `${name} is removed`));
    orders.append(cancel, remove);
    return {
      element,
      update(job) {
        badge(mark, job.state);
        say(reason, job.error ?? job.note ?? "");
        if (job.total) [bar.max, bar.value] = [job.total, job.done];
        else bar.removeAttribute("value");
        bar.hidden = !GOING_ON.has(job.state);
        say(count, `${job.done} of ${job.total ?? "?"}${job.failed ? `, ${job.failed} failed` : ""}`);
        say(rate, job.rate === null ? "–" : `${number(job.rate)}/s`);
        say(left, duration(job.eta_seconds));
        say(began, job.started_at ? clock(job.started_at) : "–");
        cancel.hidden = !GOING_ON.has(job.state);
        remove.hidden = !cancel.hidden;
      },
    };
  }

  async end(id, words) {
    await order(words, `jobs/${encodeURIComponent(id)}`, { method: "DELETE" });
    this.poll.now();
  }
}
