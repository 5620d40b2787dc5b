// Neighbour cards: where each came from, how close it is, how much it was read and copied.

let cells = []; // span of each map column; null for padding
let cardsOf = null; // what the cards show, to rebuild them only when it changes
let cardsAt = null; // trace and chunk that they belong to

function drawCards() {
  const chunk = chunkNow();
  const holder = part("cards");
  const key = chunk ? JSON.stringify([view.trace.id, chunk.index, stageOf(view.chunk), chunk.neighbours.map((n, j) => [n.chunk_id, n.share, n.copied, n.changed, n.influence && n.influence.own, farOf(chunk.index, j)]), cardsState()]) : view.trace.id;
  if (key === cardsOf) return;
  cardsOf = key;
  cells = [];
  const at = view.trace.id + "/" + view.chunk;
  if (at !== cardsAt && formOf && holder.contains(formOf.node)) closeForms();
  cardsAt = at;
  const takeOver = takenOver(holder);
  const refocus = focusIn(holder);
  holder.replaceChildren();
  const count = chunk ? chunk.neighbours.length : 0;
  part("found-note").textContent = count && view.trace.datastore ? "in " + display(view.trace.datastore.name) + ", " + orderOf(view.trace.datastore.metric) : "";
  if (!count) holder.append(make("p", "lens-none", nothingFound(chunk)));
  else chunk.neighbours.forEach((neighbour, j) => holder.append(card(chunk.neighbours, j)));
  if (chunk && canChange() && count < view.trace.model.num_neighbours) holder.append(emptyPlace(count));
  if (refocus) holder.querySelector(refocus)?.focus({ preventScroll: true });
  takeOver();
}

// In which order a measure puts neighbours. Traces of other programs may not say by what.
function orderOf(metric) {
  if (!metric || metric === "squared L2") return "nearest first";
  return metric === "drawn at random" ? metric : "by " + display(metric) + ", best first";
}

// Where the keyboard is among the cards, to be there again when they are made anew.
function focusIn(holder) {
  const at = document.activeElement;
  const card = holder.contains(at) ? at.closest("[data-neighbour].lens-neighbour, [data-neighbour].lens-paste-new") : null;
  if (!card) return null;
  const place = '[data-neighbour="' + Number(card.dataset.neighbour) + '"] ';
  return place + (at.dataset.action && !at.closest(".lens-form") ? '[data-action="' + at.dataset.action + '"]' : ".lens-rank");
}

// What the buttons depend on.
function cardsState() {
  return [isFinished(view.base), view.before, view.muted, Boolean(view.standing && view.standing.can), Boolean(view.standing), view.standing && view.standing.map];
}

// A chunk that found less than it could: a place for a text of one's own.
function emptyPlace(j) {
  const button = action("Paste a text of your own as #" + (j + 1), "paste");
  button.setAttribute("aria-expanded", "false");
  const node = make("div", "lens-paste-new", button, make("div", "lens-slot"));
  node.dataset.neighbour = j;
  return node;
}

// Mute works on what was recorded; the others need the model, and say so where it is not here.
function cardActions(neighbour, j) {
  const u = view.chunk;
  const muted = neighbour.changed === "muted";
  const mute = action(muted ? "Unmute" : "Mute", "mute", muted ? "Let it be read again (M)" : "What would be without it? (M)");
  mute.setAttribute("aria-pressed", String(muted));
  mute.disabled = !canMute(neighbour, u);
  const row = make("div", "lens-actions lens-card-actions", mute);
  const { standing } = view;
  const why = standing && !standing.can ? display(standing.why) : "";
  const helps = {
    edit: ["Edit", "Change what it says, and read the text again"],
    paste: ["Paste", "Put a text of your own in its place"],
    swap: ["Swap", "Exchange it with another neighbour of this text"],
    source: ["Source", "Where it stands in its document"],
  };
  for (const [name, [label, help]] of Object.entries(helps)) {
    const button = action(label, name, why && name !== "source" ? why : help);
    button.setAttribute("aria-expanded", "false");
    button.disabled = name === "source" ? neighbour.chunk_id === null || !isFinished(view.base) : !canChange() || (muted && name !== "paste");
    row.append(button);
  }
  if (isOnMap(neighbour)) row.append(action("On the map", "place", "Among all chunks of its datastore, with the chunk that asked: in Corpus"));
  for (const button of row.children) button.setAttribute("aria-label", button.textContent + " neighbour " + neighbour.rank);
  if (mute.disabled && why) mute.title = why;
  return row;
}

function isOnMap(neighbour) {
  const { standing } = view;
  return neighbour.chunk_id !== null && Boolean(standing) && standing.map === "" && isFinished(view.base);
}

function nothingFound(chunk) {
  if (chunk && stageOf(view.chunk) === "retrieving") return "Looking for the chunks most like the one that asks…";
  if (!view.trace.retrieval) return "Retrieval is off. Switch it on and run again to see what the model would have looked up.";
  if (!chunk) return "No retrieval yet: the first chunk has nothing to ask with.";
  return "Nothing was found for this chunk.";
}

function card(neighbours, j) {
  const neighbour = neighbours[j];
  const untitled = neighbour.changed === "pasted" ? "your text" : "untitled";
  const title = make("b", "lens-card-title", display(neighbour.title || neighbour.document_id || untitled));
  title.title = display(neighbour.title || "");
  const rank = make("button", "lens-rank", "#" + neighbour.rank);
  rank.type = "button";
  rank.dataset.neighbour = j;
  rank.setAttribute("aria-pressed", "false");
  rank.setAttribute("aria-label", "Neighbour " + neighbour.rank + ": show which tokens looked at it");
  rank.title = "Show which tokens looked at this neighbour";
  const where = make("span", "lens-where", known(neighbour.offset) ? "@ " + neighbour.offset : "");
  where.title = known(neighbour.offset) ? "Starts at character " + neighbour.offset + " of the document" : "";
  const done = neighbour.changed ? make("span", "lens-changed", neighbour.changed) : null;
  const meters = make("div", "lens-meters" + (neighbour.influence ? " lens-meters-four" : ""));
  if (known(neighbour.distance)) meters.append(meter("closeness", neighbour.closeness ?? 0, "L2 " + neighbour.distance.toFixed(2), "Longer is closer. Squared L2 distance between the two chunks' embeddings: " + neighbour.distance.toFixed(5) + "."));
  if (known(neighbour.copied)) meters.append(meter("copied", neighbour.copied, percent(neighbour.copied), "Share of the reading window that also stands here, in runs of at least 3 tokens." + copiedFrom(neighbour)));
  if (known(neighbour.share)) meters.append(meter("attention", neighbour.share, percent(neighbour.share), "Share of the reading window's attention that went to this neighbour. The shares of all neighbours sum to 100 %, useful or not."));
  if (neighbour.influence) meters.append(influenceMeter(neighbours, j));
  const found = make("div", "lens-passage");
  neighbour.tokens.forEach((text, p) => {
    if (p === neighbour.num_neighbour_tokens) found.append(make("span", "lens-continues", "continues ▸"));
    const column = j * neighbourLength() + p;
    if (text === "" && (p < neighbour.num_neighbour_tokens ? p >= neighbour.n_len : p - neighbour.num_neighbour_tokens >= neighbour.f_len)) {
      cells[column] = null;
      return;
    }
    let name = "lens-cell" + (p < neighbour.num_neighbour_tokens ? "" : " lens-cell-next");
    if (within(p, neighbour.copy_neighbour || [])) name += " lens-copied";
    const span = make("span", name, displayToken(text));
    span.dataset.col = column;
    cells[column] = span;
    found.append(span);
  });
  if (!neighbour.f_len) found.append(make("span", "lens-ends", "the document ends here"));
  const far = farText(farOf(view.chunk, j));
  const warning = far ? make("p", "lens-far", "⚠ " + far[0].toUpperCase() + far.slice(1)) : null;
  const node = make("article", "lens-neighbour", make("header", "", rank, title, done, where), meters, effect(neighbours, j), warning, found, cardActions(neighbour, j), make("div", "lens-slot"));
  node.dataset.neighbour = j;
  node.classList.toggle("lens-muted", neighbour.changed === "muted");
  node.setAttribute("aria-label", "Neighbour " + neighbour.rank);
  return node;
}

// Bars of one chunk's neighbours share a scale, as influence has no natural full length.
function influenceMeter(neighbours, j) {
  const { own } = neighbours[j].influence;
  const largest = Math.max(0.05, ...neighbours.map((other) => (other.influence ? Math.abs(other.influence.own) : 0)));
  const help = "How much likelier this neighbour alone made the reading window, in nats per token: the text was scored again without it. Longer is more, orange helped, blue hurt.";
  return meter("influence", Math.abs(own) / largest, difference(own), help, own < 0 ? "lens-fill-blue" : "lens-fill-orange");
}

function effect(neighbours, j) {
  if (!neighbours[j].influence) return null;
  const line = make("p", "lens-effect", withoutIt(neighbours[j].influence));
  line.title = "Log-probability of the tokens that read it, and of all tokens after those, if this neighbour alone had not been there.";
  const doubt = disagreement(neighbours, j);
  if (doubt) {
    const chip = make("span", "lens-doubt", doubt);
    chip.title = "Attention says where the model looked, influence what that was worth. Here they put the neighbours into different orders.";
    line.append(chip);
  }
  return line;
}

// The longest runs, by the part of the neighbour that they stand in.
function copiedFrom({ copies }) {
  if (!copies || !copies.length) return "";
  const longest = copies.reduce((a, b) => (rangeLength(b.read) > rangeLength(a.read) ? b : a));
  const part = { N: "in the chunk that was found (N)", F: "in what came next (F)", NF: "across the two" }[longest.part];
  return " The longest run has " + rangeLength(longest.read) + " tokens, " + part + ".";
}

function meter(label, share, text, help, kind) {
  const node = make("div", "lens-meter", make("span", "lens-label", label), bar(share, kind || "lens-fill-teal"), make("span", "lens-num", text));
  node.title = help;
  return node;
}

// Attention of the token looked at, or of the whole window on average; nothing while the text shows in the
// same colour who looked at one of these.
function colourCells() {
  const { map } = view;
  const row = rowOf(paintedToken());
  const blank = row === null && view.column !== null;
  const rowScale = part("row-scale").checked;
  cells.forEach((cell, col) => {
    if (!cell) return;
    if (!map || blank || col >= map.cols || map.hidden.has(col)) return tint(cell, "");
    const value = row !== null && row < map.rows
      ? strength(map.at(row, col), rowScale ? map.rowMax[row] : map.max)
      : strength(map.columnMean[col], map.meanMax);
    tint(cell, fill("teal", value));
  });
}

let outlinedCell = null;

function outlineCell(col) {
  if (outlinedCell === col) return;
  toggle(cells[outlinedCell], "lens-active", false);
  toggle(cells[col], "lens-active", true);
  outlinedCell = col;
}

function markNeighbour() {
  for (const node of part("cards").querySelectorAll(".lens-neighbour")) {
    const on = Number(node.dataset.neighbour) === view.neighbour;
    node.classList.toggle("lens-chosen", on);
    node.querySelector(".lens-rank").setAttribute("aria-pressed", String(on));
  }
}
