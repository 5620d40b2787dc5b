// Wiring: a new value, a chosen chunk, a pointer, a key.

function show(trace) {
  const usable = trace && Array.isArray(trace.tokens);
  part("body").hidden = !usable;
  part("empty").hidden = usable;
  if (!usable) {
    part("empty").textContent = "Nothing to show yet: write a prompt and press Run.";
    part("title").textContent = part("stage").textContent = "";
    return;
  }
  const continues = view.trace && view.trace.id === trace.id;
  view.trace = trace;
  if (!continues) Object.assign(view, { chosen: false, hover: null, pinned: null, column: null, neighbour: null, layer: null, head: null });
  if (!view.colourChosen) view.colour = trace.retrieval ? "gain" : "probability";
  if (!view.chosen) view.chunk = bestChunk(trace);
  view.chunk = Math.max(0, Math.min(view.chunk, trace.chunks.length - 1));
  drawStage();
  const grown = drawChunk();
  const running = root.getAttribute("aria-busy") === "true";
  if (running) followEnd();
  else if (!continues) revealStart();
  return grown;
}

// Running: the chunk at work. Finished: the one where retrieval mattered most.
function bestChunk(trace) {
  const status = trace.status;
  if (status && !["done", "measuring", "stopped"].includes(status.stage)) return Math.min(status.chunk ?? trace.chunks.length - 1, trace.chunks.length - 1);
  let best = 0;
  trace.chunks.forEach((chunk, i) => {
    if ((chunk.gain ?? -Infinity) > (trace.chunks[best].gain ?? -Infinity)) best = i;
  });
  return best;
}

async function drawChunk() {
  view.suggested = suggestToken();
  drawStrip();
  drawStory();
  drawText();
  drawCards();
  markNeighbour();
  drawPicker();
  drawLegend();
  const loading = loadMap();
  if (view.layer !== null) await loading;
  redrawMap();
}

function redrawMap() {
  drawMap();
  drawRaw();
  repaint();
}

function suggestToken() {
  const chunk = chunkNow();
  let best = null;
  for (let i = chunk ? chunk.read[0] : 0; chunk && i < chunk.read[1]; i++) {
    const gain = gainOf(view.trace.tokens[i]);
    if (gain !== null && view.trace.tokens[i].text.trim() && (best === null || gain > gainOf(view.trace.tokens[best]))) best = i;
  }
  return best;
}

function repaint() {
  outlineToken(paintedToken());
  outlineCell(view.column);
  colourCells();
  colourText();
  drawFrame();
  drawInspector();
  drawMapTip();
}

// At most one repaint per frame, however fast the pointer moves.
let waiting = false;
function repaintSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (view.trace) repaint();
  });
}

function selectChunk(index, focus) {
  const last = view.trace.chunks.length - 1;
  const next = Math.max(0, Math.min(index, last));
  if (last < 0) return;
  Object.assign(view, { chunk: next, chosen: true, hover: null, column: null, neighbour: null });
  if (view.pinned !== null && rowOf(view.pinned) === null) view.pinned = null;
  drawChunk();
  revealStart();
  const card = part("strip").children[next];
  if (focus) card.focus();
  const strip = part("strip");
  strip.scrollLeft = card.offsetLeft - strip.clientWidth / 2 + card.offsetWidth / 2;
}

function revealStart() {
  const chunk = chunkNow();
  if (chunk) revealToken(rangeLength(chunk.read) ? chunk.read[0] : chunk.ask[0], 0.4);
}

function followEnd() {
  const text = part("text");
  if (!text.matches(":hover")) text.scrollTop = text.scrollHeight;
}

function chunkOfToken(i) {
  return view.trace.chunks.findIndex((chunk) => i >= chunk.read[0] && i < chunk.read[1]);
}

function pin(i) {
  if (rowOf(i) === null && chunkOfToken(i) >= 0) selectChunk(chunkOfToken(i));
  view.pinned = view.pinned === i ? null : i;
  bracket();
  repaint();
}

function moveToken(step) {
  const from = view.pinned ?? view.hover ?? view.suggested ?? view.trace.pad - 1;
  const next = Math.max(view.trace.pad, Math.min(from + step, view.trace.tokens.length - 1));
  const owner = chunkOfToken(next);
  const pinned = view.pinned !== null;
  if (owner >= 0 && owner !== view.chunk) selectChunk(owner);
  view.hover = pinned ? null : next;
  if (pinned) view.pinned = next;
  bracket();
  repaint();
  revealToken(next, 0.5);
}

function setColour(colour) {
  view.colour = colour;
  view.colourChosen = true;
  drawLegend();
  colourText();
}

function drawLegend() {
  for (const button of root.querySelectorAll("[data-choice=colour] button")) {
    const on = button.dataset.value === view.colour;
    button.setAttribute("aria-checked", String(on));
    button.tabIndex = on ? 0 : -1;
  }
  const ramps = {
    gain: ["hurt", "lens-ramp lens-ramp-gain", "helped"],
    probability: ["unlikely", "lens-ramp lens-ramp-probability", "likely"],
    plain: null,
  };
  const legend = part("legend");
  const ramp = ramps[view.colour];
  legend.replaceChildren();
  if (ramp) legend.append(make("span", "", ramp[0]), make("i", ramp[1]), make("span", "", ramp[2]));
  legend.append(make("span", "lens-key lens-key-teal", "looked at"), make("span", "lens-key lens-copied", "copied"));
}

async function setMap(layer, head) {
  view.layer = layer;
  view.head = head;
  drawPicker();
  await loadMap();
  redrawMap();
}

function nextHead() {
  const { cca_layers: layers, heads } = view.trace.model;
  if (part("picker").hidden) return;
  if (view.layer === null) return setMap(0, null);
  if (view.head === null) return setMap(view.layer, 0);
  if (view.head + 1 < heads) return setMap(view.layer, view.head + 1);
  return view.layer + 1 < layers.length ? setMap(view.layer + 1, null) : setMap(null, null);
}

function setNeighbour(j) {
  if (!chunkNow() || j >= chunkNow().neighbours.length) return;
  view.neighbour = view.neighbour === j ? null : j;
  view.column = null;
  markNeighbour();
  repaint();
}

function clear() {
  Object.assign(view, { pinned: null, hover: null, column: null, neighbour: null });
  markNeighbour();
  bracket();
  repaint();
}

const numberOf = (target, name) => {
  const holder = target.closest("[data-" + name + "]");
  return holder ? Number(holder.dataset[name]) : null;
};

part("text").addEventListener("pointerover", (event) => {
  const i = numberOf(event.target, "i");
  if (i === null) return;
  view.hover = i;
  repaintSoon();
});
part("cards").addEventListener("pointerover", (event) => {
  view.column = numberOf(event.target, "col");
  repaintSoon();
});
for (const name of ["text", "cards", "canvas"]) {
  part(name).addEventListener("pointerleave", () => {
    view.hover = view.column = null;
    repaintSoon();
  });
}
part("over").addEventListener("pointermove", (event) => {
  const at = mapPosition(event);
  view.hover = at ? chunkNow().read[0] + at.row : null;
  view.column = at ? at.col : null;
  repaintSoon();
});

root.addEventListener("click", (event) => {
  if (!view.trace) return;
  const target = event.target;
  if (target.closest(".lens-card-tab")) return selectChunk(numberOf(target, "chunk"));
  if (target.closest(".lens-token")) return pin(numberOf(target, "i"));
  if (target.closest(".lens-rank")) return setNeighbour(numberOf(target, "neighbour"));
  if (target.closest(".lens-over") && mapPosition(event)) return pin(chunkNow().read[0] + mapPosition(event).row);
  const picked = target.closest(".lens-picker button");
  if (picked) return setMap(...["layer", "head"].map((name) => (picked.dataset[name] === "null" ? null : Number(picked.dataset[name]))));
  const choice = target.closest("[data-choice=colour] button");
  if (choice) setColour(choice.dataset.value);
});

root.addEventListener("keydown", (event) => {
  if (!view.trace || event.ctrlKey || event.metaKey || event.altKey) return;
  const strip = event.target.closest(".lens-strip");
  const radio = event.target.closest("[role=radiogroup]");
  const key = event.key;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (step && radio) moveRadio(radio, step);
  else if (step && strip) selectChunk(view.chunk + step, true);
  else if (step) moveToken(step);
  else if (key === "ArrowUp" || key === "ArrowDown") selectChunk(view.chunk + (key === "ArrowUp" ? -1 : 1), Boolean(strip));
  else if (key === "Enter" && event.target === part("text") && activeToken() !== null) pin(activeToken());
  else if (key === "Escape") clear();
  else if (/^[1-9]$/.test(key)) setNeighbour(Number(key) - 1);
  else if (key === "h" || key === "H") nextHead();
  else if (key === "g" || key === "G") setColour({ gain: "probability", probability: "plain", plain: "gain" }[view.colour]);
  else return;
  event.preventDefault();
});

function moveRadio(holder, step) {
  const buttons = [...holder.querySelectorAll("button")];
  const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
  next.focus();
  next.click();
}

part("row-scale").addEventListener("change", () => {
  drawMap();
  repaint();
});
part("raw").addEventListener("toggle", () => view.trace && drawRaw());
new ResizeObserver(() => view.trace && drawMap()).observe(part("canvas"));
new MutationObserver(() => view.trace && drawMap()).observe(document.body, { attributeFilter: ["class"] });

watch("value", () => show(props.value));
show(props.value);
// With another font or width the lines break elsewhere.
const revealAgain = () => view.trace && !view.chosen && !part("text").matches(":hover") && revealStart();
document.fonts.addEventListener("loadingdone", revealAgain);
new ResizeObserver(revealAgain).observe(part("text"));
