// value: {runs: [{name, colour, training: {step, tokens, loss, tokens_per_second},
//   held_out: {step, tokens, on, off, random, write_strength}, written: [{layer, strength}]}], note, empty}:
// lists of numbers, null for none; `strength` at the steps of `held_out`.
const holder = element.querySelector(".curves");
const state = { smooth: 0.6, axis: "step", zoom: null, at: null };
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const EDGE = { left: 46, right: 10, top: 8, bottom: 22 };
const NAMES = 52; // room at the right for names of lines
const BETWEEN = 12; // names are at least so far apart

const PANELS = [
  { id: "loss", title: "Loss", unit: "nats per token, lower is better", lines: lossLines },
  { id: "gain", title: "Gain from reading", unit: "Off − On, nats per token, above 0 it helps", lines: gainLines, zero: true },
  { id: "write", title: "Write strength", unit: "how much reading changes the text's stream", lines: writeLines, zero: true },
  { id: "speed", title: "Speed", unit: "tokens a second", lines: speedLines, zero: true },
];

// ---- lines of a panel: {label, points: [[x, y]], style, raw}

function points(group, name) {
  const xs = group[state.axis] || [];
  return xs.map((x, i) => [x, (group[name] || [])[i]]).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
}

// An exponential mean that does not begin at nothing; the last value of a constant is that constant.
function smoothed(list) {
  let sum = 0;
  let weight = 0;
  return list.map(([x, y]) => {
    sum = sum * state.smooth + y * (1 - state.smooth);
    weight = weight * state.smooth + (1 - state.smooth);
    return [x, sum / weight];
  });
}

function lossLines(run, alone) {
  const raw = points(run.training, "loss");
  const on = points(run.held_out, "on");
  const lines = [
    { label: "training", points: smoothed(raw), raw, style: "thin" },
    { label: "Off", points: points(run.held_out, "off"), style: "dashed", quiet: alone, gap: alone ? on : null },
    { label: "On", points: on, style: "bold" },
  ];
  if (alone) lines.splice(1, 0, { label: "random", points: points(run.held_out, "random"), style: "dotted", quiet: true });
  return lines;
}

function gainLines(run, alone) {
  const { held_out: held } = run;
  const gains = { step: held.step, tokens: held.tokens, gain: held.step.map((_, i) => (
    Number.isFinite(held.off[i]) && Number.isFinite(held.on[i]) ? held.off[i] - held.on[i] : null)) };
  return [{ label: "gain", points: points(gains, "gain"), style: "bold", fill: alone }];
}

// Each layer that reads, named where its line ends; of several runs the means alone, or nobody could tell.
function writeLines(run, alone) {
  const { step, tokens } = run.held_out;
  const layers = alone && run.written?.length > 1 ? run.written : [];
  return [
    ...layers.map(({ layer, strength }) => ({
      label: "layer " + layer, end: "layer " + layer, points: points({ step, tokens, strength }, "strength"), style: "layer" })),
    { label: layers.length ? "mean" : alone && run.written?.length === 1 ? "layer " + run.written[0].layer : "write strength", end: layers.length ? "mean" : "", points: points(run.held_out, "write_strength"), style: "bold" },
  ];
}

function speedLines(run) {
  const raw = points(run.training, "tokens_per_second");
  return [{ label: "tokens a second", points: smoothed(raw), raw, style: "thin" }];
}

// ---- numbers

function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const list = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) list.push(Math.abs(v) < step * 1e-6 ? 0 : v);
  return list;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + " M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + " k";
  return String(+value.toPrecision(3)).replace("-", "−");
}

function exact(value, panel) {
  if (panel.id === "speed") return Math.round(value).toLocaleString("en");
  const text = Math.abs(value).toFixed(3);
  return (value < 0 ? "−" : panel.id === "gain" ? "+" : "") + text;
}

function runs() {
  return (given()?.runs || []).filter((run) => /^#[0-9a-f]{6}$/.test(run.colour));
}

function wholeRange() {
  let low = Infinity;
  let high = -Infinity;
  for (const run of runs()) {
    for (const group of [run.training, run.held_out]) {
      for (const x of group[state.axis] || []) {
        if (Number.isFinite(x)) { low = Math.min(low, x); high = Math.max(high, x); }
      }
    }
  }
  return high > low ? [Math.min(low, high * 0.02), high] : [0, Math.max(1, high)];
}

// The first steps are far above all others; a view of the whole need not show them.
function rangeOf(lines, panel, [from, to]) {
  const seen = lines.flatMap((line) => line.points).filter(([x]) => x >= from && x <= to);
  if (!seen.length) return [0, 1];
  let list = seen.map(([, y]) => y);
  if (panel.id === "loss") {
    const later = seen.filter(([x]) => x >= from + (to - from) * 0.08).map(([, y]) => y);
    if (later.length > 3) list = later;
  }
  let low = Math.min(...list);
  let high = Math.max(...list);
  if (panel.zero) { low = Math.min(low, 0); high = Math.max(high, 0); }
  const room = (high - low || Math.abs(high) || 1) * 0.07;
  return [panel.zero && low === 0 ? 0 : low - room, high + room];
}

// ---- drawing

function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function path(list, x, y) {
  return list.map(([a, b], i) => (i ? "L" : "M") + x(a).toFixed(1) + " " + y(b).toFixed(1)).join("");
}

const panels = PANELS.map((panel) => {
  const readout = make("span", "curve-read");
  const picture = svg("svg", { class: "curve-plot", role: "img", tabindex: "0" });
  const box = make("figure", "curve", make("figcaption", "", make("b", "", panel.title), make("span", "curve-unit", panel.unit)), picture, readout);
  const drawn = { panel, box, picture, readout, lines: [], range: [0, 1], width: 0, right: EDGE.right };
  picture.addEventListener("pointermove", (event) => move(drawn, event));
  picture.addEventListener("pointerleave", () => { if (!drag) look(null); });
  picture.addEventListener("pointerdown", (event) => begin(drawn, event));
  picture.addEventListener("dblclick", () => zoom(null));
  picture.addEventListener("keydown", (event) => step(event));
  return drawn;
});

function draw(drawn) {
  const { panel, picture } = drawn;
  const width = picture.clientWidth || 320;
  drawn.width = width;
  const all = runs();
  const view = state.zoom || wholeRange();
  drawn.view = view;
  drawn.lines = all.flatMap((run) => panel.lines(run, all.length === 1).map((line) => ({ ...line, run, colour: line.quiet ? "currentColor" : run.colour })));
  const range = rangeOf(drawn.lines, panel, view);
  const right = drawn.lines.some((line) => line.end && line.points.length) ? NAMES : EDGE.right;
  const x = (v) => EDGE.left + ((v - view[0]) / (view[1] - view[0])) * (width - EDGE.left - right);
  const y = (v) => HEIGHT - EDGE.bottom - ((v - range[0]) / (range[1] - range[0])) * (HEIGHT - EDGE.top - EDGE.bottom);
  Object.assign(drawn, { x, y, range, right });
  picture.setAttribute("viewBox", "0 0 " + width + " " + HEIGHT);
  picture.setAttribute("aria-label", panel.title + ", " + panel.unit + ". Arrow keys read values; the table below has them all.");
  const clip = "clip-" + panel.id + "-" + Math.random().toString(36).slice(2);
  const inside = svg("clipPath", { id: clip });
  inside.append(svg("rect", { x: EDGE.left, y: 0, width: Math.max(0, width - EDGE.left - right + 4), height: HEIGHT - EDGE.bottom + 1 }));
  const nodes = [inside];
  for (const tick of ticks(...range, 4)) {
    nodes.push(svg("line", { class: tick === 0 ? "curve-zero" : "curve-grid", x1: EDGE.left, x2: width - right, y1: y(tick), y2: y(tick) }));
    nodes.push(svg("text", { class: "curve-tick", x: EDGE.left - 6, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  for (const tick of ticks(...view, Math.max(2, Math.floor(width / 90)))) {
    nodes.push(svg("text", { class: "curve-tick", x: x(tick), y: HEIGHT - 6, "text-anchor": "middle" }, short(tick)));
  }
  const group = svg("g", { "clip-path": "url(#" + clip + ")" });
  for (const line of drawn.lines) {
    if (line.gap?.length > 1 && line.gap.length === line.points.length) { // what reading is worth
      const back = [...line.gap].reverse();
      group.append(svg("path", { class: "curve-gap", d: path([...line.points, ...back], x, y) + "Z" }));
    }
    if (line.raw) group.append(svg("path", { class: "curve-raw", d: path(line.raw, x, y), stroke: line.colour }));
    if (line.fill && line.points.length) {
      const [first] = line.points;
      const last = line.points.at(-1);
      for (const [name, clipped] of [["up", (v) => Math.max(0, v)], ["down", (v) => Math.min(0, v)]]) {
        const area = path(line.points.map(([a, b]) => [a, clipped(b)]), x, y) + "L" + x(last[0]) + " " + y(0) + "L" + x(first[0]) + " " + y(0) + "Z";
        group.append(svg("path", { class: "curve-" + name, d: area }));
      }
    }
    if (line.points.length === 1) {
      group.append(svg("circle", { cx: x(line.points[0][0]), cy: y(line.points[0][1]), r: 3.5, fill: line.colour }));
    } else {
      group.append(svg("path", { class: "curve-line curve-" + line.style, d: path(line.points, x, y), stroke: line.colour }));
    }
  }
  drawn.marks = svg("g", { class: "curve-marks" });
  nodes.push(group, drawn.marks, ...names(drawn));
  picture.replaceChildren(...nodes);
  if (!drawn.lines.some((line) => line.points.length)) {
    picture.append(svg("text", { class: "curve-tick", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing measured yet"));
  }
  mark(drawn);
}

// Beside the end of its line, and no two over each other.
function names({ lines, view, x, y }) {
  const ends = lines.filter((line) => line.end).map((line) => [line, nearest(line.points.filter(([a]) => a >= view[0] && a <= view[1]), view[1])]);
  const seen = ends.filter(([, end]) => end).sort((a, b) => b[1][1] - a[1][1]);
  let last = -Infinity;
  const places = seen.map(([, end]) => (last = Math.max(last + BETWEEN, y(end[1]) + 4)));
  const over = Math.max(0, last - (HEIGHT - EDGE.bottom));
  return seen.map(([line, end], i) => svg("text", {
    class: "curve-name" + (line.style === "bold" ? " curve-mean" : ""), x: x(end[0]) + 6, y: places[i] - over }, line.end));
}

function nearest(list, at) {
  let best = null;
  for (const point of list) if (!best || Math.abs(point[0] - at) < Math.abs(best[0] - at)) best = point;
  return best;
}

// The values at `state.at`, of all runs, in each panel.
function mark(drawn) {
  const { panel, marks, readout, x, y, view } = drawn;
  marks.replaceChildren();
  const several = runs().length > 1;
  const words = [];
  const at = state.at ?? view[1];
  if (state.at !== null) {
    marks.append(svg("line", { class: "curve-at", x1: x(at), x2: x(at), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
  }
  for (const line of drawn.lines) {
    const point = nearest(line.points.filter(([a]) => a >= view[0] && a <= view[1]), at);
    if (!point) continue;
    if (state.at !== null) marks.append(svg("circle", { cx: x(point[0]), cy: y(point[1]), r: 3, fill: line.colour }));
    words.push((several ? display(line.run.name) + " " : "") + line.label + " " + exact(point[1], panel));
  }
  const where = (state.axis === "step" ? "step " : "tokens ") + Math.round(at).toLocaleString("en");
  readout.textContent = words.length ? (state.at === null ? "now: " : where + ": ") + words.join(" · ") : "";
}

function look(at) {
  state.at = at;
  panels.forEach(mark);
}

// ---- pointer and keyboard

let drag = null;

function valueAt(drawn, event) {
  const left = event.clientX - drawn.picture.getBoundingClientRect().left;
  const share = (left - EDGE.left) / Math.max(1, drawn.width - EDGE.left - drawn.right);
  return drawn.view[0] + Math.max(0, Math.min(1, share)) * (drawn.view[1] - drawn.view[0]);
}

function begin(drawn, event) {
  if (event.pointerType === "touch" || event.button !== 0 || !runs().length) return;
  drag = { drawn, from: valueAt(drawn, event), x: event.clientX };
  drawn.picture.setPointerCapture(event.pointerId);
  drawn.picture.addEventListener("pointerup", (up) => {
    const [from, to] = [drag.from, valueAt(drawn, up)].sort((a, b) => a - b);
    const far = Math.abs(up.clientX - drag.x) > 8;
    drag = null;
    if (far) zoom([from, to]);
  }, { once: true });
}

function move(drawn, event) {
  if (!runs().length) return;
  look(valueAt(drawn, event));
  if (drag) {
    const [a, b] = [drag.from, state.at].sort((p, q) => p - q);
    drawn.marks.append(svg("rect", { class: "curve-chosen", x: drawn.x(a), y: EDGE.top, width: drawn.x(b) - drawn.x(a), height: HEIGHT - EDGE.top - EDGE.bottom }));
  }
}

function step(event) {
  const directions = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.key === "Escape") { zoom(null); look(null); return; }
  if (!(event.key in directions) || !runs().length) return;
  event.preventDefault();
  const view = state.zoom || wholeRange();
  const at = (state.at ?? view[1]) + directions[event.key] * (view[1] - view[0]) / 40;
  look(Math.max(view[0], Math.min(view[1], at)));
}

function zoom(range) {
  state.zoom = range;
  whole.hidden = !range;
  panels.forEach(draw);
}

// ---- controls

const smoothing = make("input", "");
Object.assign(smoothing, { type: "range", min: "0", max: "0.98", step: "0.02", value: String(state.smooth) });
smoothing.addEventListener("input", () => { state.smooth = Number(smoothing.value); panels.forEach(draw); });
const axes = make("span", "curve-axes");
axes.setAttribute("role", "radiogroup");
axes.setAttribute("aria-label", "Horizontal axis");
const group = "axis-" + Math.random().toString(36).slice(2);
for (const [axis, words] of [["step", "steps"], ["tokens", "tokens"]]) {
  const radio = make("input", "");
  Object.assign(radio, { type: "radio", name: group, checked: axis === state.axis });
  radio.addEventListener("change", () => { state.axis = axis; state.at = null; zoom(null); });
  axes.append(make("label", "", radio, make("span", "", words)));
}
const whole = make("button", "curve-whole", "Show all");
whole.type = "button";
whole.hidden = true;
whole.addEventListener("click", () => zoom(null));
const legend = make("p", "curve-legend");
const note = make("p", "curve-note");
const empty = make("p", "curves-empty");
const controls = make("div", "curve-controls", make("label", "", make("span", "", "Smoothing"), smoothing), axes, whole);
const grid = make("div", "curve-grid-all", ...panels.map((drawn) => drawn.box));
const table = make("details", "curve-table", make("summary", "", "The numbers as a table"));
const scroller = make("div", "curve-scroller");
scroller.tabIndex = 0;
scroller.setAttribute("role", "region");
scroller.setAttribute("aria-label", "Held-out numbers by step");
table.append(scroller);
table.addEventListener("toggle", tabulate);
holder.append(empty, note, legend, controls, grid, table);

function tabulate() {
  if (!table.open) return;
  const layers = [...new Set(runs().flatMap((run) => (run.written || []).map(({ layer }) => layer)))].sort((a, b) => a - b);
  const head = make("tr", "", ...["run", "step", "On", "Off", "random", "gain", "write strength", ...layers.map((layer) => "layer " + layer)].map((name) => make("th", "", name)));
  const rows = runs().flatMap((run) => run.held_out.step.map((at, i) => {
    const of = (name) => run.held_out[name][i];
    const number = (value) => make("td", "", Number.isFinite(value) ? value.toFixed(3) : "–");
    const gain = Number.isFinite(of("on")) && Number.isFinite(of("off")) ? of("off") - of("on") : null;
    return make("tr", "", make("td", "", display(run.name)), make("td", "", Number(at).toLocaleString("en")),
      ...[of("on"), of("off"), of("random"), gain, of("write_strength")].map(number),
      ...layers.map((layer) => number(run.written?.find((one) => one.layer === layer)?.strength[i])));
  }));
  scroller.replaceChildren(make("table", "", make("thead", "", head), make("tbody", "", ...rows)));
}

function show() {
  const value = given() || {};
  const all = runs();
  empty.textContent = all.length ? "" : value.empty || "";
  empty.hidden = !empty.textContent;
  note.textContent = value.note || "";
  note.hidden = !note.textContent;
  for (const part of [legend, controls, grid, table]) part.hidden = !all.length;
  if (!all.length) return;
  const styles = all.length === 1
    ? [["bold", "On, with neighbours"], ["dashed", "Off, without", true], ["dotted", "random neighbours", true], ["thin", "training"]]
    : [["bold", "On", true], ["dashed", "Off", true], ["thin", "training", true]];
  const line = (style, colour, words) => {
    const key = svg("svg", { class: "curve-key", viewBox: "0 0 24 8", "aria-hidden": "true" });
    key.append(svg("path", { class: "curve-line curve-" + style, d: "M1 4L23 4", stroke: colour }));
    return make("span", "", key, words);
  };
  legend.replaceChildren(
    ...(all.length > 1 ? all.map((run) => line("bold", run.colour, display(run.name))) : []),
    ...styles.map(([style, words, quiet]) => line(style, quiet ? "currentColor" : all[0].colour, words)));
  panels.forEach(draw);
  tabulate();
}

new ResizeObserver(() => { if (runs().length) panels.forEach((drawn) => { if (drawn.picture.clientWidth !== drawn.width) draw(drawn); }); }).observe(holder);
watch("value", show);
show();
