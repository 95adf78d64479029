// Hot changes of one camera: a slider and a number for each, bounded by what the API says it takes.
import { ask, cameraPath } from "./api.js";
import { el } from "./panel_dom.js";
import { guarded, off, order } from "./panel_work.js";

const WORDS = {
  predict_fps: "Predictions per second, at most",
  quality: "JPEG quality",
  confidence: "Confidence, at least",
  iou: "Overlap (IoU), at most",
  max_det: "Detections, at most",
};
const RESTING = 250; // milliseconds that a hand rests until what it chose is sent
const COARSE = 10; // a range wider than that is stepped through by tenths, else by hundredths

let asked = null;

// What PATCH takes: [{ name, minimum, maximum, step, nullable }], from the OpenAPI document. Asked once.
function bounds() {
  asked ??= ask("../../schema").then(({ components }) =>
    Object.entries(components.schemas.CameraChange.properties).map(([name, { minimum, maximum, oneOf }]) => {
      const types = oneOf.map(({ type }) => type);
      const step = types.includes("integer") ? 1 : maximum - minimum > COARSE ? 0.1 : 0.01;
      return { name, minimum, maximum, step, nullable: types.includes("null") };
    }),
  );
  asked.catch(() => (asked = null));
  return asked;
}

export class TuningForm {
  constructor(camera, house) {
    Object.assign(this, { camera, house, fields: null, tuning: null });
    this.element = el("div", { class: "tuning" });
  }

  async update(tuning) {
    this.tuning = tuning;
    if (this.fields === null) {
      this.fields = [];
      try {
        this.fields = (await bounds()).map((bound) => new Field(bound, this));
        this.element.replaceChildren(...this.fields.map(({ element }) => element));
      } catch {
        this.fields = null; // the next update asks again
        return;
      }
    }
    for (const field of this.fields) field.show(this.tuning[field.bound.name]);
  }

  async change(name, value) {
    const told = value === null ? "as many as it can" : value;
    const words = `${this.camera}: ${(WORDS[name] ?? name).toLowerCase()}: ${told}`;
    await order(words, cameraPath(this.camera), { method: "PATCH", body: { [name]: value } });
    await this.house.refresh(this.camera).catch(() => {});
  }
}

class Field {
  constructor(bound, form) {
    Object.assign(this, { bound, form, value: undefined, chosen: undefined, timer: 0, sending: false });
    const { name, minimum: min, maximum: max, step, nullable } = bound;
    const label = WORDS[name] ?? name;
    this.slider = guarded(el("input", { type: "range", name, min, max, step, "aria-label": `${label}, slider` }));
    this.number = guarded(el("input", { type: "number", name, min, max, step, required: true, "aria-label": `${label}, ${min} to ${max}` }));
    this.free = nullable ? guarded(el("input", { type: "checkbox", name: `${name}-free` })) : null;
    this.element = el(
      "fieldset",
      {},
      el("legend", {}, label),
      el("div", { class: "row" }, this.slider, this.number),
      this.free && el("label", { class: "small" }, this.free, " as many as it can"),
    );
    this.slider.addEventListener("input", () => (this.number.value = this.slider.value));
    this.slider.addEventListener("change", () => this.choose(this.slider.valueAsNumber));
    this.number.addEventListener("input", () => (this.slider.value = this.number.value));
    this.number.addEventListener("change", () => this.number.reportValidity() && this.choose(this.number.valueAsNumber));
    this.free?.addEventListener("change", () => this.choose(this.free.checked ? null : this.slider.valueAsNumber));
  }

  // An arrow key that is held chooses many times a second: the last choice is sent, and never two at a time.
  choose(value) {
    this.chosen = value;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), RESTING);
  }

  async send() {
    if (this.sending || this.chosen === undefined) return;
    const value = this.chosen;
    this.chosen = undefined;
    this.sending = true;
    await this.form.change(this.bound.name, value);
    this.sending = false;
    if (this.chosen !== undefined) {
      this.choose(this.chosen);
      return;
    }
    this.value = undefined; // what was refused is taken back
    this.show(this.form.tuning[this.bound.name]);
  }

  // Nobody's hand is pulled away: what is being changed now stays as it is until it is sent.
  show(value) {
    if (value === this.value || this.sending || this.chosen !== undefined || this.element.contains(document.activeElement?.closest(":active"))) return;
    this.value = value;
    const without = value === null;
    if (this.free) {
      this.free.checked = without;
      for (const input of [this.slider, this.number]) off(input, without);
    } else {
      this.element.hidden = without; // its plugin takes none
    }
    if (!without) this.slider.value = this.number.value = value;
  }
}
