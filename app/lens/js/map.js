// Heat map of cross-attention: drawn once per map, theme and width; hovering touches only the layer above.

const TOP = 20;
const GAP = 10;
const fetched = new Map(); // maps by trace, chunk, layer and head
const sheet = document.createElement("canvas"); // one pixel per weight
let box = null; // geometry of the map on screen
let mapFailure = ""; // why the map that was asked for is not here

function drawMap() {
  const base = part("base");
  const over = part("over");
  const holder = part("canvas");
  const { map } = view;
  const chunk = chunkNow();
  const empty = part("map-empty");
  const usable = Boolean(map && chunk && chunk.neighbours.length && map.rows);
  empty.hidden = usable;
  empty.textContent = usable ? "" : emptyMap(chunk);
  part("scale").replaceChildren();
  const width = holder.clientWidth;
  const context = base.getContext("2d");
  if (!usable || !width) {
    box = null;
    for (const canvas of [base, over]) canvas.height = canvas.style.height = 0;
    return;
  }
  const count = chunk.neighbours.length;
  const length = neighbourLength();
  const large = part("full").open;
  const rowHeight = Math.max(5, Math.min(large ? 26 : 14, Math.floor((large ? window.innerHeight - 250 : 390) / map.rows)));
  const worded = large && rowHeight > 9 && width > 700; // room for the tokens themselves
  const gutter = worded ? 120 : 30;
  const blockWidth = (width - gutter - GAP * (count - 1) - 2) / count;
  box = { gutter, width, height: TOP + rowHeight * map.rows + 2, rowHeight, blockWidth, count, length, rows: map.rows };
  const ratio = window.devicePixelRatio || 1;
  for (const canvas of [base, over]) {
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    canvas.style.width = box.width + "px";
    canvas.style.height = box.height + "px";
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }
  paintSheet(map);
  const style = getComputedStyle(root);
  const ink = style.getPropertyValue("--lens-ink").trim() || style.color;
  const soft = style.getPropertyValue("--lens-soft").trim() || style.color;
  context.clearRect(0, 0, box.width, box.height);
  context.imageSmoothingEnabled = false;
  context.font = "11px " + style.fontFamily;
  context.textBaseline = "middle";
  for (let j = 0; j < count; j++) {
    const x = columnX(j * length);
    context.drawImage(sheet, j * length, 0, length, map.rows, x, TOP, blockWidth, rowHeight * map.rows);
    const split = x + (chunk.neighbours[j].num_neighbour_tokens / length) * blockWidth;
    context.fillStyle = ink;
    context.fillRect(Math.round(split) - 0.5, TOP - 8, 1, rowHeight * map.rows + 8);
    context.fillStyle = soft;
    context.fillText("#" + chunk.neighbours[j].rank + " N", x + 2, TOP / 2);
    context.fillText("F", split + 4, TOP / 2);
  }
  context.fillStyle = soft;
  context.textAlign = "right";
  const step = worded ? 1 : Math.max(1, Math.round(48 / rowHeight / 4) * 4);
  for (let row = 0; row < map.rows; row += step) {
    const at = chunk.read[0] + row;
    const label = worded ? shortened(displayWord(view.trace.tokens[at].text), 12) + "  " + at : String(at);
    context.fillText(label, gutter - 5, TOP + (row + 0.5) * rowHeight);
  }
  drawScale();
  drawFrame();
}

function emptyMap(chunk) {
  if (!view.trace.retrieval) return "Retrieval was off: no cross-attention took place.";
  if (!chunk) return "No retrieval yet: the first chunk has nothing to ask with.";
  if (!chunk.neighbours.length) return "No neighbours, hence no cross-attention.";
  if (!rangeLength(chunk.read)) return "Nothing has read these neighbours yet.";
  if (view.trace.status && view.trace.status.stage === "cut off") return "Nothing was measured before the text was cut off.";
  return view.trace.status && view.trace.status.stage !== "done" ? "Measured when the text is finished." : "This trace holds no attention for this chunk.";
}

function colours() {
  return isDark() ? { low: [20, 28, 38], high: [45, 212, 191] } : { low: [244, 248, 248], high: [13, 128, 118] };
}

function paintSheet(map) {
  const { low, high } = colours();
  const rowScale = part("row-scale").checked;
  sheet.width = map.cols;
  sheet.height = map.rows;
  const context = sheet.getContext("2d");
  const image = context.createImageData(map.cols, map.rows);
  for (let row = 0, i = 0; row < map.rows; row++) {
    const full = rowScale ? map.rowMax[row] : map.max;
    for (let col = 0; col < map.cols; col++, i++) {
      const share = cells[col] === null || map.hidden.has(col) ? -1 : strength(map.weights[i], full);
      for (let c = 0; c < 3; c++) image.data[i * 4 + c] = low[c] + (high[c] - low[c]) * Math.max(0, share);
      image.data[i * 4 + 3] = share < 0 ? 0 : 255; // padding and what is hidden stay empty
    }
  }
  context.putImageData(image, 0, 0);
}

// The legend is painted by the same function as the map, so its ticks are true.
function drawScale() {
  const { low, high } = colours();
  const rowScale = part("row-scale").checked;
  const stops = [];
  for (let i = 0; i <= 8; i++) {
    const share = strength(i / 8, 1);
    stops.push("rgb(" + low.map((value, c) => Math.round(value + (high[c] - value) * share)).join(" ") + ")");
  }
  const ramp = make("i", "lens-ramp");
  ramp.style.background = "linear-gradient(90deg," + stops.join(",") + ")";
  const removed = view.map.removed > 0.0005 ? " · " + percent(view.map.removed) + " of the weight left out" : "";
  const times = rowScale || !(view.map.max > 0) ? "" : " (×" + (1 / view.map.max).toFixed(1) + ")";
  part("scale").replaceChildren("attention 0 ", ramp, rowScale ? " maximum of the row" : " " + percent(view.map.max) + times, removed);
}

function columnX(col) {
  const j = Math.floor(col / box.length);
  return box.gutter + j * (box.blockWidth + GAP) + ((col % box.length) / box.length) * box.blockWidth;
}

function drawFrame() {
  const context = part("over").getContext("2d");
  if (!box) return;
  context.clearRect(0, 0, box.width, box.height);
  context.strokeStyle = isDark() ? "rgb(251 146 60)" : "rgb(194 65 12)";
  context.lineWidth = 1.5;
  const row = rowOf(paintedToken());
  if (row !== null && row < box.rows) {
    context.strokeRect(box.gutter - 1, TOP + row * box.rowHeight - 1, box.width - box.gutter, box.rowHeight + 2);
  }
  if (view.column !== null && cells[view.column]) {
    const width = Math.max(2, box.blockWidth / box.length);
    context.strokeRect(columnX(view.column) - 1, TOP - 1, width + 2, box.rowHeight * box.rows + 2);
  }
}

function mapPosition(event) {
  if (!box) return null;
  const bounds = part("over").getBoundingClientRect();
  const x = event.clientX - bounds.left - box.gutter;
  const y = event.clientY - bounds.top - TOP;
  const row = Math.floor(y / box.rowHeight);
  const j = Math.floor(x / (box.blockWidth + GAP));
  const inside = x - j * (box.blockWidth + GAP);
  if (x < 0 || row < 0 || row >= box.rows || j < 0 || j >= box.count || inside >= box.blockWidth) return null;
  return { row, col: j * box.length + Math.min(box.length - 1, Math.floor((inside / box.blockWidth) * box.length)) };
}

function drawMapTip() {
  const tip = part("map-tip");
  const chunk = chunkNow();
  const row = rowOf(paintedToken());
  if (!box || view.column === null || row === null || !cells[view.column]) {
    tip.textContent = mapFailure || (view.neighbour !== null && box ? "Teal in the text: which tokens looked at neighbour #" + (view.neighbour + 1) + "." : "");
    return;
  }
  const j = Math.floor(view.column / box.length);
  const from = displayWord(view.trace.tokens[chunk.read[0] + row].text);
  const to = displayWord(chunk.neighbours[j].tokens[view.column % box.length]);
  tip.textContent = "“" + from + "” → “" + to + "” (#" + (j + 1) + "): " + percent(view.map.at(row, view.column));
}

// ---- Which map: of which heads, without which columns

// The trace whose weights are drawn. What was muted here, or is compared, is taken out of the recorded ones.
function mapSource() {
  if (view.muted) return view.base;
  return (view.masked && originals.get(rootOf(view.trace))) || view.trace;
}

function mapKey(source, chunk, layer, head) {
  return [source.id, chunk, layer, head].join("/");
}

// The mean comes with the page; a single head is asked for when wanted. The old map stays until it is here.
async function loadMap() {
  const source = mapSource();
  const chunk = source.chunks[view.chunk];
  if (!chunk || !chunk.attention) {
    view.map = null;
    return;
  }
  const wanted = view.heads.length ? view.heads : [[null, null]];
  const first = mapKey(source, chunk.index, null, null);
  if (!fetched.has(first)) fetched.set(first, unpack(chunk.attention));
  const missing = wanted.filter(([layer, head]) => !fetched.has(mapKey(source, chunk.index, layer, head)));
  if (missing.length && !(await fetchMaps(source, chunk.index, missing))) return;
  const maps = wanted.map(([layer, head]) => fetched.get(mapKey(source, chunk.index, layer, head)));
  const fits = maps.every((map) => map && map.rows === rangeLength(chunk.read) && map.cols >= chunk.neighbours.length * neighbourLength());
  view.map = fits ? shownMap(meanMap(maps)) : null;
}

async function fetchMaps(source, chunk, missing) {
  part("map").setAttribute("aria-busy", "true");
  const before = JSON.stringify(view.heads);
  const answers = await Promise.all(missing.map(([layer, head]) => answerOf(server.attention_map({ trace: source.id, chunk, layer, head }))));
  part("map").removeAttribute("aria-busy");
  if (fetched.size > 300) fetched.clear();
  const failed = answers.find((answer) => answer.error);
  mapFailure = failed ? failed.error : "";
  if (!failed) answers.forEach((answer, i) => fetched.set(mapKey(source, chunk, ...missing[i]), unpack(answer)));
  if (mapSource() !== source || view.chunk !== chunk || before !== JSON.stringify(view.heads)) return false; // the visitor moved on
  if (!failed) return fetched.has(mapKey(source, chunk, null, null)) || loadMap().then(() => false);
  view.heads = [];
  drawPicker();
  await loadMap();
  return false;
}

// Without the columns that are hidden: those of muted neighbours, and sinks where that is asked for. Nothing is
// made larger in their place, and how much is missing is said.
function shownMap(map) {
  const chunk = chunkNow();
  const length = neighbourLength();
  const hidden = new Set();
  chunk.neighbours.forEach((card, j) => {
    if (card.changed === "muted") for (let col = j * length; col < (j + 1) * length; col++) hidden.add(col);
  });
  const sinks = sinkColumns(map).filter((col) => !hidden.has(col) && cells[col]);
  if (view.hideSinks) for (const col of sinks) hidden.add(col);
  let removed = 0;
  for (const col of hidden) removed += map.columnMean[col] ?? 0;
  return Object.assign(maskMap(map, hidden), { hidden, sinks, removed });
}

function drawSwitches() {
  const { map } = view;
  const chunk = chunkNow();
  const muted = Boolean(chunk) && chunk.neighbours.some((card) => card.changed === "muted");
  part("mass-switch").hidden = !muted || view.before;
  part("mass").checked = muted && !view.muted && !view.masked;
  part("mass").disabled = view.muted ? !canChange() : !originals.has(rootOf(view.trace));
  const sinks = map ? map.sinks : [];
  const words = [...new Set(sinks.map((col) => "“" + displayWord(chunk.neighbours[Math.floor(col / neighbourLength())].tokens[col % neighbourLength()]) + "”"))];
  part("sinks").checked = view.hideSinks;
  part("sink-switch").hidden = !sinks.length;
  part("sink-words").textContent = "hide what every token looks at: " + words.slice(0, 4).join(" ") + (words.length > 4 ? " …" : "");
  part("sink-words").title = sinks.length + " columns get more than twice their share from at least 4 of 5 tokens. Attention that has nowhere to go often rests on such a place.";
}

part("mass").addEventListener("change", (event) => {
  if (view.muted) return askModel("change", {}, "Reading the text again without #" + view.muted.rank + "…");
  view.masked = !event.target.checked;
  remap();
});
part("sinks").addEventListener("change", (event) => {
  view.hideSinks = event.target.checked;
  remap();
});

async function remap() {
  await loadMap();
  redrawMap();
}

// ---- Full screen

// A dialog of the browser's own: it keeps the focus, and Escape closes it.
const home = document.createComment("the map's place");

function enlarge() {
  const full = part("full");
  if (full.open) return full.close();
  part("map").before(home);
  full.append(part("map"));
  full.showModal();
  part("enlarge").textContent = "Close";
  redrawMap();
  part("enlarge").focus();
}

part("full").addEventListener("close", () => {
  home.replaceWith(part("map"));
  part("enlarge").textContent = "⤢ Full screen";
  redrawMap();
  part("enlarge").focus();
});
part("enlarge").addEventListener("click", enlarge);
