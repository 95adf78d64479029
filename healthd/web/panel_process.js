// The process: what it takes of its machine, since when, in which versions; a bundle of diagnostics to take away.
import { ask } from "./api.js";
import { KeyedList, bytes, clock, duration, el, number, say } from "./panel_dom.js";
import { Poll, busy, guarded, tell } from "./panel_work.js";

const PACKING = 30;

export class Process {
  id = "process";
  title = "Process";

  constructor(house, context) {
    const figures = el("dl", { class: "facts card" });
    const versions = el("dl", { class: "facts card" });
    this.figures = new KeyedList(figures, ([key]) => key, ([key]) => fact(key));
    this.versions = new KeyedList(versions, ([key]) => key, ([key]) => fact(key));
    this.button = guarded(el("button", { type: "button" }, "Download diagnostics"));
    this.button.addEventListener("click", () => busy(this.button, () => this.download()));
    this.content = [
      figures,
      el("h3", {}, "Versions"),
      versions,
      el("h3", {}, "Diagnostics"),
      el(
        "p",
        {},
        "Settings, state, log and what each thread is doing, without keys, passwords and pictures: to be attached to an issue. ",
        "Names of cameras and of their hosts are in it. It needs a key of scope admin.",
      ),
      this.button,
    ];
    this.poll = new Poll(2000, (signal) => this.ask(signal), { onError: context.failed });
  }

  start() {
    this.poll.start();
  }

  stop() {
    this.poll.stop();
  }

  async ask(signal) {
    const state = await ask("state", { signal });
    const { process } = state;
    const cameras = Object.entries(state.cameras).filter(([, count]) => count);
    const load = process.cpu_share === null ? "–" : `${number(process.cpu_share, 2)} of ${process.cpus} cores`;
    this.figures.update([
      ["status", state.waiting_for.length ? `${state.status}: ${state.waiting_for.join("; ")}` : state.status],
      ["plugins", state.safe_mode ? "safe mode: only those of the healthd project" : "all that are installed"],
      ["up for", `${duration(state.uptime_seconds)}, since ${clock(state.started_at)}`],
      ["CPU", `${load}, ${duration(process.cpu_seconds)} since the start`],
      ["memory", bytes(process.resident_memory_bytes)],
      ["threads", process.threads ?? "–"],
      ["open files", process.open_fds ?? "–"],
      ["cameras", cameras.map(([name, count]) => `${count} ${name}`).join(", ") || "none"],
      ["viewers", state.viewers],
      ["models loaded", state.models_loaded],
    ]);
    this.versions.update(Object.entries(state.versions));
  }

  async download() {
    try {
      const { name, blob } = await ask("diagnostics", { seconds: PACKING, read: named });
      const url = URL.createObjectURL(blob);
      el("a", { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser reads it after the click
      tell(`${name}, ${bytes(blob.size)}`);
    } catch (error) {
      tell(error.message, { failed: true });
    }
  }
}

async function named(answer) {
  const [, name] = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "") ?? [];
  return { name: name ?? "healthd-diagnostics.zip", blob: await answer.blob() };
}

function fact(key) {
  const value = el("dd", { class: "numbers" });
  return { element: el("div", {}, el("dt", {}, key), value), update: ([, words]) => say(value, words) };
}
