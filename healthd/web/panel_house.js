// The cameras as they are now: asked every two seconds, and told of changes in between. Lives as long as the page.
import { ask, cameraPath } from "./api.js";
import { say } from "./panel_dom.js";
import { Events, Poll } from "./panel_work.js";

const PERIOD = 2000;

export class House extends EventTarget {
  // Dispatches "cameras" when any of `cameras` may have changed, and "viewer" when a stream was opened or has ended.
  constructor(context) {
    super();
    this.cameras = [];
    this.newer = new Map(); // what was told since the question that is being answered
    this.poll = new Poll(PERIOD, (signal) => this.ask(signal), {
      onError: context.failed,
      onAnswer: context.answered,
    });
    this.events = new Events(
      "events/stream",
      { camera: (camera) => this.changed(camera), viewer: () => this.dispatchEvent(new Event("viewer")) },
      { query: () => "topic=camera&topic=viewer", onError: context.failed },
    );
  }

  start() {
    this.poll.start();
    this.events.start();
  }

  stop() {
    this.poll.stop();
    this.events.stop();
  }

  async ask(signal) {
    this.newer.clear();
    const cameras = await ask("cameras", { signal });
    this.cameras = cameras.map((camera) => this.newer.get(camera.name) ?? camera);
    this.tell();
  }

  // Put one camera in its place: what an order was answered, or an event told.
  changed(camera) {
    const place = this.cameras.findIndex(({ name }) => name === camera.name);
    if (place < 0) return;
    this.cameras[place] = camera;
    this.newer.set(camera.name, camera);
    this.tell();
  }

  async refresh(name) {
    this.changed(await ask(cameraPath(name)));
  }

  tell() {
    const live = this.cameras.filter(({ state }) => state === "live").length;
    const count = this.cameras.length;
    say(document.getElementById("summary"), count ? `${live} of ${count} cameras live` : "no camera is configured");
    this.dispatchEvent(new Event("cameras"));
  }
}
