// Wiring: a new value, a chosen chunk, a pointer, a key.

function show(trace) {
  if (trace && trace.interrupted) trace = cutOff || view.base;
  if (trace && trace.refused) { // an answer to a wish; what is shown stays
    Object.assign(view, { waiting: "", refused: trace.refused });
    drawNotice();
    if (view.base) askStanding();
    return;
  }
  if (trace && left.has(trace.id)) return;
  const usable = trace && Array.isArray(trace.tokens);
  part("body").hidden = !usable;
  part("empty").hidden = usable;
  if (!usable) {
    part("empty").textContent = "Nothing to show yet: write a prompt and press Run.";
    part("title").textContent = part("stage").textContent = "";
    return;
  }
  const continues = view.base && rootOf(view.base) === rootOf(trace);
  const again = view.base && view.base.id === trace.id && isFinished(view.base); // as the server's answer to "back", which is there at once
  if (isFinished(trace)) originals.set(trace.id, trace);
  if (originals.size > 6) originals.delete(originals.keys().next().value);
  Object.assign(view, { trace, base: trace, muted: null, before: false, masked: false, waiting: "", refused: "" });
  if (!again) {
    view.standing = null;
    closeForms();
  }
  root.dataset.trace = trace.id || "";
  if (!continues) Object.assign(view, { chosen: false, hover: null, pinned: null, column: null, neighbour: null, heads: [] });
  if (view.colour === "change" && !lpBefore()) view.colour = "gain";
  if (!view.colourChosen) view.colour = trace.retrieval ? "gain" : "probability";
  if (!view.chosen) view.chunk = bestChunk(trace);
  view.chunk = Math.max(0, Math.min(view.chunk, trace.chunks.length - 1));
  drawStage();
  const grown = drawChunk();
  drawNotice();
  askStanding(again);
  const running = root.getAttribute("aria-busy") === "true";
  if (running) followEnd();
  else if (!continues) revealStart();
  return grown;
}

// ---- A text that a restart of the server cuts off: the server knows nothing of it then, so the browser keeps
// it from one page to the next.

const CUT_OFF = "retro-explore-cut-off";
const cutOff = takeCutOff();

function keepWhatIsWritten() {
  const { base } = view;
  if (root.getAttribute("aria-busy") !== "true" || !base || base.tokens.length <= base.prompt_tokens) return;
  try {
    localStorage.setItem(CUT_OFF, JSON.stringify(base));
  } catch { /* no room, or not allowed */ }
}

function takeCutOff() {
  try {
    const kept = JSON.parse(localStorage.getItem(CUT_OFF));
    localStorage.removeItem(CUT_OFF);
    const words = "cut off after " + (kept.tokens.length - kept.prompt_tokens) + " tokens: the server restarted";
    return { ...kept, status: { stage: "cut off", text: words } };
  } catch { // not allowed, or there is none
    return null;
  }
}

addEventListener("pagehide", keepWhatIsWritten);

// Running: the chunk at work. Finished: the one that a link names, or where retrieval mattered most.
function bestChunk(trace) {
  if (Number.isInteger(trace.opened_at)) return trace.opened_at;
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
  if (view.heads.length) await loading;
  redrawMap();
}

function redrawMap() {
  drawMap();
  drawSwitches();
  drawWrites();
  drawRaw();
  repaint();
}

// Before a change, so that the token that is shown stays the same one.
function gainThen(i) {
  const before = lpBefore();
  const token = view.trace.tokens[i];
  return gainOf(before ? { ...token, lp_on: before[i] } : token);
}

function suggestToken() {
  const chunk = chunkNow();
  let best = null;
  for (let i = chunk ? chunk.read[0] : 0; chunk && i < chunk.read[1]; i++) {
    const gain = gainThen(i);
    if (gain !== null && view.trace.tokens[i].text.trim() && (best === null || gain > gainThen(best))) best = i;
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
    if (button.dataset.value === "change") button.hidden = !lpBefore();
  }
  const ramps = {
    change: ["less likely", "lens-ramp lens-ramp-gain", "likelier by the change"],
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

// The mean, each layer, each head, and the mean again.
function nextHead() {
  const buttons = [...part("picker").querySelectorAll("button")];
  if (part("picker").hidden || !buttons.length) return;
  const at = buttons.findIndex((button) => button.getAttribute("aria-pressed") === "true");
  const focused = document.activeElement;
  chooseHead(buttons[(at + 1) % buttons.length], false);
  if (focused && focused !== document.body) focused.focus({ preventScroll: true });
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
  if (picked) return chooseHead(picked, event.shiftKey);
  const compared = target.closest("[data-before]");
  if (compared) return compare(compared.dataset.before === "true");
  const choice = target.closest("[data-choice=colour] button");
  if (choice) setColour(choice.dataset.value);
});

root.addEventListener("keydown", (event) => {
  if (!view.trace || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("textarea, select, input[type=number]")) return;
  const strip = event.target.closest(".lens-strip");
  const radio = event.target.closest("[role=radiogroup]");
  const key = event.key;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  const cards = event.target.closest(".lens-cards");
  const up = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (step && radio) moveRadio(radio, step);
  else if (step && event.target.closest(".lens-picker")) moveFocus(event.target.closest(".lens-picker"), step);
  else if (step && strip) selectChunk(view.chunk + step, true);
  else if (step) moveToken(step);
  else if (up && cards) moveNeighbour(up);
  else if (up) selectChunk(view.chunk + up, Boolean(strip));
  else if (key === "Enter" && event.target === part("text") && activeToken() !== null) pin(activeToken());
  else if (key === "Escape" && part("full").open) return; // the dialog closes by itself
  else if (key === "Escape") clear();
  else if (/^[1-9]$/.test(key)) setNeighbour(Number(key) - 1);
  else if (key === "h" || key === "H") nextHead();
  else if (key === "g" || key === "G") setColour({ gain: "probability", probability: "plain", plain: lpBefore() ? "change" : "gain", change: "gain" }[view.colour]);
  else if (key === "m" || key === "M") toggleMute(view.neighbour ?? focusedNeighbour(event.target) ?? 0);
  else if (key === "?") showKeys();
  else return;
  event.preventDefault();
});

function focusedNeighbour(target) {
  const card = target.closest(".lens-neighbour");
  return card ? Number(card.dataset.neighbour) : null;
}

// Among the neighbours, up and down go from one to the next.
function moveNeighbour(step) {
  const ranks = [...part("cards").querySelectorAll(".lens-rank")];
  const from = focusedNeighbour(document.activeElement) ?? view.neighbour ?? -1;
  const next = Math.max(0, Math.min(from + step, ranks.length - 1));
  if (!ranks[next]) return;
  view.neighbour = next;
  view.column = null;
  markNeighbour();
  repaint();
  ranks[next].focus();
}

function moveFocus(holder, step) {
  const buttons = [...holder.querySelectorAll("button")];
  buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length].focus();
}

function showKeys() {
  part("keys").open = !part("keys").open;
  if (part("keys").open) part("keys").querySelector("summary").focus();
}

function compare(before) {
  view.before = before;
  redraw();
  const button = part("notice").querySelector("[aria-checked=true]");
  if (button) button.focus({ preventScroll: true });
}

function moveRadio(holder, step) {
  const buttons = [...holder.querySelectorAll("button:not([hidden], :disabled)")];
  const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
  next.focus();
  next.click();
}

part("row-scale").addEventListener("change", () => {
  drawMap();
  repaint();
});
part("raw").addEventListener("toggle", () => view.trace && drawRaw());
new ResizeObserver(() => view.trace && part("canvas").clientWidth !== box?.width && drawMap()).observe(part("canvas"));
new MutationObserver(() => view.trace && drawMap()).observe(document.body, { attributeFilter: ["class"] });

watch("value", () => show(given()));
show(given());
// With another font or width the lines break elsewhere.
const revealAgain = () => view.trace && !view.chosen && !part("text").matches(":hover") && revealStart();
document.fonts.addEventListener("loadingdone", revealAgain);
new ResizeObserver(revealAgain).observe(part("text"));
