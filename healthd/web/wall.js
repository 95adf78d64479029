// The wall: each camera's newest picture once a second, or in words why there is none. Never the last picture.
const wall = document.getElementById("wall");
const note = document.getElementById("note");
const login = document.getElementById("login");
const overlay = document.getElementById("overlay");
const tiles = new Map();
const PERIOD = 1000;
let refusal = null; // why the last key was refused, until another one is tried

class Tile {
  constructor(name) {
    this.name = name;
    this.etag = null;
    this.busy = false;
    this.figure = document.createElement("figure");
    this.picture = this.figure.appendChild(document.createElement("div"));
    this.picture.className = "picture";
    const caption = this.figure.appendChild(document.createElement("figcaption"));
    caption.appendChild(document.createElement("strong")).textContent = name;
    this.facts = caption.appendChild(document.createElement("span"));
    this.facts.className = "facts";
    this.image = document.createElement("img");
    this.image.alt = `newest picture of ${name}`;
    wall.appendChild(this.figure);
  }

  say(text) {
    this.etag = null;
    this.release();
    const words = document.createElement("p");
    words.textContent = text;
    this.picture.replaceChildren(words);
  }

  // A camera that is configured no more must not leave its last picture on the wall.
  remove() {
    this.release();
    this.figure.remove();
    tiles.delete(this.name);
  }

  release() {
    if (this.image.src.startsWith("blob:")) URL.revokeObjectURL(this.image.src);
    this.image.removeAttribute("src");
  }

  async poll() {
    if (this.busy) return;
    this.busy = true;
    try {
      const drawn = overlay.checked && this.predicted;
      const url = `api/v1/cameras/${encodeURIComponent(this.name)}/snapshot?width=960${drawn ? "&overlay=true" : ""}`;
      const headers = this.etag ? { "If-None-Match": this.etag } : {};
      const answer = await fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(4000) });
      if (answer.status === 304) return;
      if (!answer.ok) {
        const error = await answer.json().catch(() => ({}));
        this.say(error.detail ?? `error ${answer.status}`);
        return;
      }
      const blob = await answer.blob();
      if (document.hidden) return;
      this.etag = answer.headers.get("ETag");
      this.release();
      this.image.src = URL.createObjectURL(blob);
      if (!this.image.isConnected) this.picture.replaceChildren(this.image);
    } catch {
      this.say("healthd does not answer");
    } finally {
      this.busy = false;
    }
  }

  show(camera) {
    this.predicted = camera.model.state === "ready" && camera.predicted_fps > 0;
    const age = camera.frame_age_ms === null ? "" : ` · ${(camera.frame_age_ms / 1000).toFixed(1)} s`;
    this.facts.textContent = `${camera.state} · ${camera.fps.toFixed(1)} fps · ${camera.predicted_fps.toFixed(1)} predictions/s${age}`;
  }
}

async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch("api/v1/cameras", { cache: "no-store", signal: AbortSignal.timeout(4000) });
    login.hidden = answer.status !== 401;
    if (!answer.ok) {
      const error = await answer.json().catch(() => ({}));
      const words = error.detail ?? `error ${answer.status}`;
      note.textContent = (answer.status === 401 && refusal) || words;
      for (const tile of tiles.values()) tile.say(words);
      return;
    }
    const cameras = await answer.json();
    refusal = null;
    note.textContent = cameras.length ? "" : "no camera is configured";
    const names = new Set(cameras.map((camera) => camera.name));
    for (const [name, tile] of tiles) if (!names.has(name)) tile.remove();
    for (const camera of cameras) {
      if (!tiles.has(camera.name)) tiles.set(camera.name, new Tile(camera.name));
      const tile = tiles.get(camera.name);
      tile.show(camera);
      tile.poll();
    }
  } catch {
    note.textContent = "healthd does not answer";
    for (const tile of tiles.values()) tile.say(note.textContent);
  }
}

login.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ key: new FormData(login).get("key") });
  try {
    const answer = await fetch("api/v1/auth/login", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    const error = answer.ok ? null : await answer.json().catch(() => ({}));
    refusal = error && (error.detail ?? `error ${answer.status}`);
    if (answer.ok) login.reset();
  } catch {
    note.textContent = "healthd does not answer";
  }
  look();
});

// A page that nobody sees asks for nothing, so nothing of before may be there when somebody looks again.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) for (const tile of tiles.values()) tile.say("…");
  else look();
});

look();
setInterval(look, PERIOD);
