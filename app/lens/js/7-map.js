// Heat map of cross-attention: drawn once per map, theme and width; hovering touches only the layer above.

const GUTTER = 30;
const TOP = 20;
const GAP = 10;
const fetched = new Map(); // maps of single heads, by trace, chunk, layer and head
const sheet = document.createElement("canvas"); // one pixel per weight
let box = null; // geometry of the map on screen

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
  const rowHeight = Math.max(5, Math.min(14, Math.floor(390 / map.rows)));
  const blockWidth = (width - GUTTER - GAP * (count - 1) - 2) / count;
  box = { width, height: TOP + rowHeight * map.rows + 2, rowHeight, blockWidth, count, length, rows: map.rows };
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
  const step = Math.max(1, Math.round(48 / rowHeight / 4) * 4);
  for (let row = 0; row < map.rows; row += step) {
    context.fillText(String(chunk.read[0] + row), GUTTER - 5, TOP + (row + 0.5) * rowHeight);
  }
  drawScale();
  drawFrame();
}

function emptyMap(chunk) {
  if (!view.trace.retrieval) return "Retrieval was off: no cross-attention took place.";
  if (!chunk) return "No retrieval yet: the first chunk has nothing to ask with.";
  if (!chunk.neighbours.length) return "No neighbours, hence no cross-attention.";
  if (!rangeLength(chunk.read)) return "Nothing has read these neighbours yet.";
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
      const share = cells[col] === null ? -1 : strength(map.weights[i], full);
      for (let c = 0; c < 3; c++) image.data[i * 4 + c] = low[c] + (high[c] - low[c]) * Math.max(0, share);
      image.data[i * 4 + 3] = share < 0 ? 0 : 255; // padding stays empty
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
  part("scale").replaceChildren("attention 0 ", ramp, rowScale ? " maximum of the row" : " " + percent(view.map.max));
}

function columnX(col) {
  const j = Math.floor(col / box.length);
  return GUTTER + j * (box.blockWidth + GAP) + ((col % box.length) / box.length) * box.blockWidth;
}

function drawFrame() {
  const context = part("over").getContext("2d");
  if (!box) return;
  context.clearRect(0, 0, box.width, box.height);
  context.strokeStyle = isDark() ? "rgb(251 146 60)" : "rgb(194 65 12)";
  context.lineWidth = 1.5;
  const row = rowOf(paintedToken());
  if (row !== null && row < box.rows) {
    context.strokeRect(GUTTER - 1, TOP + row * box.rowHeight - 1, box.width - GUTTER, box.rowHeight + 2);
  }
  if (view.column !== null && cells[view.column]) {
    const width = Math.max(2, box.blockWidth / box.length);
    context.strokeRect(columnX(view.column) - 1, TOP - 1, width + 2, box.rowHeight * box.rows + 2);
  }
}

function mapPosition(event) {
  if (!box) return null;
  const bounds = part("over").getBoundingClientRect();
  const x = event.clientX - bounds.left - GUTTER;
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
    tip.textContent = view.neighbour !== null && box ? "Teal in the text: which tokens looked at neighbour #" + (view.neighbour + 1) + "." : "";
    return;
  }
  const j = Math.floor(view.column / box.length);
  const from = displayWord(view.trace.tokens[chunk.read[0] + row].text);
  const to = displayWord(chunk.neighbours[j].tokens[view.column % box.length]);
  tip.textContent = "“" + from + "” → “" + to + "” (#" + (j + 1) + "): " + percent(view.map.at(row, view.column));
}

// Mean, every layer's mean and every single head, as one row of buttons per layer.
function drawPicker() {
  const picker = part("picker");
  const { cca_layers: layers, heads } = view.trace.model;
  const offered = Boolean(chunkNow() && chunkNow().attention) && layers.length * heads <= 1024;
  picker.hidden = !offered;
  const key = JSON.stringify([layers, heads]);
  if (picker.dataset.key !== key) {
    picker.dataset.key = key;
    picker.replaceChildren(group("", [pick("mean of all", null, null)]));
    layers.forEach((layer, l) => {
      const buttons = [pick("all heads", l, null)];
      for (let head = 0; head < heads; head++) buttons.push(pick(String(head + 1), l, head));
      picker.append(group("layer " + layer, buttons));
    });
  }
  for (const button of picker.querySelectorAll("button")) {
    const on = button.dataset.layer === String(view.layer) && button.dataset.head === String(view.head);
    button.setAttribute("aria-checked", String(on));
    button.tabIndex = on ? 0 : -1;
  }
}

function group(label, buttons) {
  return make("span", "lens-group", label ? make("span", "lens-label", label) : null, ...buttons);
}

function pick(label, layer, head) {
  const button = make("button", "", label);
  button.type = "button";
  button.setAttribute("role", "radio");
  button.dataset.layer = String(layer);
  button.dataset.head = String(head);
  if (layer !== null) button.setAttribute("aria-label", "layer " + view.trace.model.cca_layers[layer] + (head === null ? ", all heads" : ", head " + (head + 1)));
  return button;
}

// The mean comes with the page; a single head is asked for when wanted. The old map stays until it is here.
async function loadMap() {
  const chunk = chunkNow();
  if (!chunk || !chunk.attention) {
    view.map = null;
    return;
  }
  const key = [view.trace.id, chunk.index, view.layer, view.head].join("/");
  if (view.layer === null && !fetched.has(key)) fetched.set(key, unpack(chunk.attention));
  if (!fetched.has(key)) {
    part("map").setAttribute("aria-busy", "true");
    let answer;
    try {
      answer = await server.attention_map({ trace: view.trace.id, chunk: chunk.index, layer: view.layer, head: view.head });
    } catch (error) {
      answer = { error: "The server did not answer. Is it still running?" };
    }
    part("map").removeAttribute("aria-busy");
    if (key !== [view.trace.id, view.chunk, view.layer, view.head].join("/")) return; // the visitor moved on
    if (answer.error) {
      view.layer = view.head = null;
      part("map-tip").textContent = answer.error;
      drawPicker();
      return;
    }
    if (fetched.size > 200) fetched.clear();
    fetched.set(key, unpack(answer));
  }
  const map = fetched.get(key);
  const fits = map && map.rows === rangeLength(chunk.read) && map.cols >= chunk.neighbours.length * neighbourLength();
  view.map = fits ? map : null;
}
