// Stands in for clock and network of a page, so that a day passes in seconds: every timer fires, every question is asked and answered.
// `run(seconds)` lets so much time pass; `house` says how healthd does.
(() => {
  const NAMES = Array.from({ length: 12 }, (_, index) => `camera${index}`);
  const house = (window.house = { silent: false, paused: new Set(), asked: 0, pictures: 0, live: 0, most: 0, urls: 0 });
  const real = { Date, setTimeout: window.setTimeout.bind(window), fetch: window.fetch.bind(window) };
  const timers = new Map();
  let now = real.Date.UTC(2026, 0, 31, 12);
  let last = 0;
  let jpeg = null;

  window.Date = class extends real.Date {
    constructor(...given) {
      super(...(given.length ? given : [now]));
    }
    static now() {
      return now;
    }
  };
  const set = (callback, delay, every) => {
    timers.set((last += 1), { callback, at: now + Math.max(1, delay || 0), every });
    house.most = Math.max(house.most, timers.size);
    return last;
  };
  window.setTimeout = (callback, delay) => set(callback, delay, 0);
  window.setInterval = (callback, delay) => set(callback, delay, delay);
  window.clearTimeout = window.clearInterval = (id) => timers.delete(id);
  const made = URL.createObjectURL;
  URL.createObjectURL = (...given) => {
    house.urls += 1;
    return made.apply(URL, given);
  };
  const decode = window.createImageBitmap.bind(window);
  window.createImageBitmap = async (...given) => {
    house.live += 1;
    const bitmap = await decode(...given);
    house.live -= 1;
    house.pictures += 1;
    return bitmap;
  };

  const answer = (status, headers, body) => ({
    ok: status < 300,
    status,
    headers: { get: (name) => headers[name] ?? null },
    json: async () => body,
    text: async () => JSON.stringify(body),
    blob: async () => jpeg,
  });
  const camera = (name) => {
    const paused = house.paused.has(name);
    return {
      name, state: paused ? "paused" : "live", reason: paused ? "paused by request" : null, since: "2026-01-31T11:00:00Z",
      has_frame: !paused, fps: 15 + Math.random(), predicted_fps: 10, width: 640, height: 360, model: { state: "ready" },
    };
  };
  window.fetch = async (url, { headers = {} } = {}) => {
    house.asked += 1;
    if (house.silent) throw new TypeError("Failed to fetch");
    if (url.endsWith("/cameras")) return answer(200, {}, NAMES.map(camera));
    if (url.endsWith("/state")) return answer(200, {}, { version: "1.0" });
    if (url.endsWith("/session")) return answer(200, {}, { required: false });
    const age = String(Math.random() * 60);
    if (house.asked % 500 && headers["If-None-Match"]) return answer(304, { ETag: "same", "X-Frame-Age-Ms": age });
    return answer(200, { ETag: `e${house.asked}`, "X-Frame-Age-Ms": age, "X-Frame-Id": String(house.asked) });
  };

  const canvas = document.createElement("canvas");
  canvas.toBlob((blob) => (jpeg = blob), "image/jpeg");
  const channel = new MessageChannel();
  const turns = [];
  channel.port1.onmessage = () => turns.shift()();
  const turn = () => new Promise((done) => {
    turns.push(done);
    channel.port2.postMessage(0);
  });

  let hidden = false;
  for (const [name, value] of [["hidden", () => hidden], ["visibilityState", () => (hidden ? "hidden" : "visible")]]) {
    Object.defineProperty(document, name, { get: value });
  }
  window.hide = (so) => {
    hidden = so;
    document.dispatchEvent(new Event("visibilitychange"));
  };

  window.timers = () => timers.size;
  window.run = async (seconds) => {
    const end = now + seconds * 1000;
    for (let fired = 1; ; fired += 1) {
      let next = null;
      for (const [id, timer] of timers) if (!next || timer.at < next.at) next = { id, ...timer };
      if (!next || next.at > end) break;
      now = Math.max(now, next.at);
      if (next.every) timers.get(next.id).at = now + next.every;
      else timers.delete(next.id);
      next.callback();
      for (let step = 0; step < 16; step += 1) await null; // whoever waits for an answer gets on
      while (house.live) await turn();
      if (fired % 5000 === 0) await turn();
    }
    now = end;
    return { asked: house.asked, pictures: house.pictures, timers: timers.size };
  };
})();
