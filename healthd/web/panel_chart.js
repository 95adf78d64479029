// A small chart of the last minutes: one or two lines, the newest at the right. What it shows stands in its name, in words.
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, MARGIN] = [120, 30, 2];

function node(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

export class Chart {
  // `lines`: [{ name, key }]: what each line is called, and how to get its value of a point (a number, or null for a gap).
  // The first line is drawn through, the second one dashed. `points`: how many fit.
  constructor({ of, lines, unit = "", digits = 1, points = 60 }) {
    Object.assign(this, { of, lines, unit, digits, points });
    this.element = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "chart" });
    this.title = this.element.appendChild(node("title", {}));
    this.area = this.element.appendChild(node("path", { class: "area" }));
    this.paths = lines.map((_, at) => this.element.appendChild(node("path", { class: at ? "line dashed" : "line" })));
    this.draw([]);
  }

  // `points`: the oldest first.
  draw(points) {
    const shown = points.slice(-this.points);
    const series = this.lines.map(({ key }) => shown.map(key));
    const top = Math.max(...series.flat().filter((value) => value != null), 0) || 1;
    const x = (at) => WIDTH - (shown.length - 1 - at) * (WIDTH / (this.points - 1));
    const y = (value) => HEIGHT - MARGIN - (value / top) * (HEIGHT - 2 * MARGIN);
    series.forEach((values, at) => this.paths[at].setAttribute("d", outline(values, x, y)));
    this.area.setAttribute("d", filled(series[0], x, y));
    const words = this.words(series);
    if (this.title.textContent !== words) {
      this.title.textContent = words;
      this.element.setAttribute("aria-label", words);
    }
  }

  words(series) {
    const told = this.lines.map(({ name }, at) => {
      const values = series[at].filter((value) => value != null);
      if (!values.length) return `${name}: nothing yet`;
      const [now, least, most] = [series[at].at(-1), Math.min(...values), Math.max(...values)].map((value) =>
        value == null ? "none" : value.toFixed(this.digits),
      );
      return `${name}: now ${now}${this.unit}, between ${least} and ${most}`;
    });
    return `${this.of}, the last minutes. ${told.join("; ")}`;
  }
}

// Runs of values that are there, each as [[at, value], ...].
function runs(values) {
  const found = [];
  values.forEach((value, at) => {
    if (value == null) return;
    if (at === 0 || values[at - 1] == null) found.push([]);
    found.at(-1).push([at, value]);
  });
  return found;
}

const place = (x, y) => ([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;

function outline(values, x, y) {
  return runs(values)
    .map((run) => `M${run.map(place(x, y)).join("L")}${run.length === 1 ? "h.1" : ""}`) // a lone value is a dot
    .join("");
}

function filled(values, x, y) {
  return runs(values)
    .map((run) => `M${x(run[0][0]).toFixed(1)} ${HEIGHT}L${run.map(place(x, y)).join("L")}V${HEIGHT}Z`)
    .join("");
}
