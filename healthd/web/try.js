// A page to try the models: a picture or the webcam in; boxes, keypoints and the JSON out. Errors are the API's own words.
import { draw, wordsOf } from "./draw.js";
import { Webcam } from "./webcam.js";

const at = (id) => document.getElementById(id);
const [note, alarm, login, form, canvas, facts, found, json] = [
  "note", "alarm", "login", "wishes", "canvas", "facts", "found", "json",
].map(at);
const [file, model, camera, webcamButton, drop] = ["file", "model", "camera", "webcam", "drop"].map(at);
const TYPES = ["image/jpeg", "image/png", "image/webp", "image/bmp"];
const SETTLED = 250; // milliseconds without another change of a wish
const CAPTIONS = ["caption", "answer", "text"]; // what models say that find no objects
const NUMBERS = /\[\s+[-+.\deE,\s]+\]/g; // an array of numbers is read on one line
const silent = "healthd does not answer";

let blob = null; // the picture that is looked at
let picture = null; // the same, as the browser can draw it; null where it cannot
let asking = null;
let webcam = null;
let answered = []; // when the last answers came

const say = (words) => (note.textContent = words);

function raise(words) {
  alarm.textContent = words;
  alarm.hidden = !words;
}

async function words(answer) {
  const error = await answer.json().catch(() => ({}));
  if (answer.status === 401) login.hidden = false;
  return error.detail ?? `error ${answer.status}`;
}

// -- what is asked -----------------------------------------------------------------------------------------------------

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

// The wishes as the API names them; what is left empty is not asked for.
function wishes() {
  const asked = { conf: at("conf").valueAsNumber, iou: at("iou").valueAsNumber, max_det: at("max_det").valueAsNumber };
  if (at("imgsz").value) asked.imgsz = at("imgsz").valueAsNumber;
  if (at("question").value.trim()) asked.question = at("question").value.trim();
  const queries = lines(at("text_queries").value);
  if (queries.length) asked.text_queries = queries;
  return asked;
}

const spoken = () => ({ ...(model.value && { model_id: model.value }), ...wishes() });

function query() {
  const parameters = new URLSearchParams(model.value ? { model: model.value } : {});
  for (const [name, value] of Object.entries(wishes())) for (const one of [value].flat()) parameters.append(name, one);
  return parameters;
}

async function ask() {
  if (!blob || webcam) return;
  asking?.abort();
  const mine = (asking = new AbortController());
  say("looking …");
  try {
    const body = new FormData();
    body.append("file", blob, "picture");
    const answer = await fetch(`api/v1/infer?${query()}`, { method: "POST", body, signal: mine.signal });
    if (answer.ok) {
      const envelope = await answer.json();
      if (mine === asking) show(picture, envelope);
      return;
    }
    const told = await words(answer);
    if (mine === asking) fail(told);
  } catch (error) {
    if (error.name !== "AbortError") fail(silent);
  } finally {
    if (mine === asking) say("");
  }
}

// -- what is shown -----------------------------------------------------------------------------------------------------

function show(shown, envelope) {
  raise("");
  const { results, metadata } = envelope;
  if (shown) draw(canvas, shown, results);
  const said = CAPTIONS.map((key) => metadata[key]).filter((value) => typeof value === "string");
  const items = [...said, ...results.map(wordsOf)];
  found.replaceChildren(...items.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  json.textContent = JSON.stringify(envelope, null, 2).replace(NUMBERS, (array) => array.replace(/\s+/g, " "));
  canvas.setAttribute("aria-label", items.length ? `The picture with ${items.length} results` : "The picture; nothing was found");
  const number = `${results.length} ${results.length === 1 ? "result" : "results"}`;
  const rate = webcam ? ` · ${perSecond()} answers/s` : "";
  facts.textContent = `${metadata.width}×${metadata.height} · ${number} · ${envelope.inference_time_ms.toFixed(1)} ms${rate}`;
}

function perSecond() {
  const now = performance.now();
  answered = [...answered.filter((then) => now - then < 2000), now];
  return answered.length < 2 ? "…" : ((answered.length - 1) / ((now - answered[0]) / 1000)).toFixed(1);
}

// Results of before belong to no picture that is shown now.
function forget() {
  found.replaceChildren();
  json.textContent = facts.textContent = "";
}

function fail(told) {
  forget();
  if (picture) draw(canvas, picture, []);
  raise(told);
}

async function take(chosen) {
  if (!chosen) return;
  stopWebcam();
  forget();
  raise("");
  blob = chosen;
  picture?.close();
  picture = await createImageBitmap(chosen).catch(() => null);
  canvas.setAttribute("aria-label", "The picture");
  if (picture) draw(canvas, picture, []);
  else canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  await ask();
}

// -- where pictures come from ------------------------------------------------------------------------------------------

file.addEventListener("change", () => take(file.files[0]));

const pictureOf = (data) => [...(data?.files ?? [])].find((one) => TYPES.includes(one.type)) ?? data?.files?.[0];
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(pictureOf(event.dataTransfer));
});
document.addEventListener("paste", (event) => take(pictureOf(event.clipboardData)));

at("take").addEventListener("click", async () => {
  try {
    const answer = await fetch(`api/v1/cameras/${encodeURIComponent(camera.value)}/snapshot?q=90`, { cache: "no-store" });
    if (answer.ok) await take(await answer.blob());
    else raise(await words(answer));
  } catch {
    raise(silent);
  }
});

function stopWebcam(told) {
  webcam?.stop(told);
}

async function startWebcam() {
  asking?.abort();
  forget();
  raise("");
  say("");
  answered = [];
  const mine = (webcam = new Webcam(spoken, {
    answer: show,
    error: raise,
    end: (told) => {
      if (webcam === mine) webcam = null;
      webcamButton.textContent = "Start the webcam";
      webcamButton.setAttribute("aria-pressed", "false");
      say("");
      if (told) raise(told);
      if (told && !mine.ready) look();
    },
  }));
  webcamButton.textContent = "Stop the webcam";
  webcamButton.setAttribute("aria-pressed", "true");
  blob = null;
  try {
    await mine.start();
  } catch (error) {
    mine.stop(`no webcam: ${error.message}`);
  }
}

webcamButton.addEventListener("click", () => (webcam ? stopWebcam() : startWebcam()));
document.addEventListener("visibilitychange", () => document.hidden && stopWebcam("the webcam was stopped: nobody saw this page"));
window.addEventListener("pagehide", () => stopWebcam());

// -- the form ----------------------------------------------------------------------------------------------------------

let settling = 0;

function tellValues() {
  for (const name of ["conf", "iou"]) at(`${name}-value`).textContent = at(name).valueAsNumber.toFixed(2);
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  tellValues();
  if ([file, camera].includes(event.target) || !form.checkValidity()) return;
  clearTimeout(settling);
  settling = setTimeout(ask, SETTLED);
});

function fill(select, values, told = (value) => value) {
  const chosen = select.value;
  select.replaceChildren(...values.map((value) => new Option(told(value), value)));
  if (values.includes(chosen)) select.value = chosen;
}

async function look() {
  try {
    const [models, cameras] = await Promise.all(["api/v1/models", "api/v1/cameras"].map((url) => fetch(url, { cache: "no-store" })));
    login.hidden = models.status !== 401;
    if (!models.ok || !cameras.ok) return raise(await words(models.ok ? cameras : models));
    const [known, watched] = [await models.json(), await cameras.json()];
    fill(model, known.map(({ id }) => id));
    fill(camera, watched.map(({ name }) => name));
    at("cameras").hidden = !watched.length;
    if (!known.length) raise("no model is configured, and there is none in models.directory");
  } catch {
    raise(silent);
  }
}

login.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ key: new FormData(login).get("key") });
  try {
    const answer = await fetch("api/v1/auth/login", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    if (!answer.ok) return raise(await words(answer));
    login.reset();
    raise("");
    await look();
  } catch {
    raise(silent);
  }
});

tellValues();
look();
