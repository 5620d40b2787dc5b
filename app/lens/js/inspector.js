// What is known about one token. The panel has a fixed height, so hovering moves nothing.

function drawInspector() {
  const panel = part("inspector");
  if (view.column !== null && view.hover === null && view.map && cells[view.column]) {
    panel.replaceChildren(...lookers());
    return;
  }
  const i = activeToken();
  const token = i === null || i === undefined ? null : view.trace.tokens[i];
  if (!token) {
    panel.replaceChildren(make("p", "lens-hint", view.trace.retrieval
      ? "Hover a word, or press an arrow key, to see what it looked at and whether that helped."
      : "Hover a word, or press an arrow key, to see how likely it was and what else might have come."));
    return;
  }
  const head = make("div", "lens-word", make("b", "", "“" + displayWord(token.text) + "”"));
  const gain = gainOf(token);
  if (i === view.pinned) head.append(make("span", "lens-pin-note", "pinned · Esc clears"));
  if (gain !== null && rowOf(i) !== null) {
    head.append(make("span", "lens-gain " + (gain > 0.1 ? "lens-helped" : gain < -0.1 ? "lens-hurt" : ""), signed(gain) + " nats · " + verdict(gain)));
  }
  panel.replaceChildren(head);
  const changed = changeOf(i);
  if (changed !== null && rowOf(i) !== null) {
    const before = Math.exp(lpBefore()[i]);
    head.append(make("span", "lens-pin-note", "was " + percent(before) + ", now " + percent(Math.exp(token.lp_on)) + " (" + difference(changed) + " nats by the change)"));
  }
  if (!known(token.lp_on)) {
    panel.append(make("p", "lens-hint", view.trace.status && view.trace.status.stage !== "done" ? "Not measured yet." : "The first token is given, not predicted."));
    return;
  }
  panel.append(alternatives(token, i));
  panel.append(attended(i, token));
}

// Pinned, each alternative is a button: the text is written on from there with it.
function alternatives(token, i) {
  const forks = i === view.pinned && canChange() && !view.muted;
  const table = make("div", "lens-alternatives");
  const columns = [["with retrieval", token.lp_on, token.alts_on], ["without", token.lp_off, token.alts_off]];
  for (const [label, own, list] of view.trace.retrieval ? columns : columns.slice(1)) {
    if (!known(own)) continue;
    const column = make("div", "", make("div", "lens-alt-head", label, " ", make("b", "", percent(Math.exp(own)))));
    for (const [text, logProbability] of (list || []).slice(0, 5)) {
      const probability = Math.exp(logProbability);
      const name = make("span", "lens-alt-word" + (text === token.text ? " lens-alt-own" : ""), displayWord(text));
      const canFork = forks && text !== token.text && text && text !== "(end of document)";
      const row = make(canFork ? "button" : "div", "lens-alt", name, bar(probability, label === "without" ? "lens-fill-grey" : "lens-fill-ink"), make("span", "lens-num", percent(probability)));
      if (canFork) {
        row.type = "button";
        row.classList.add("lens-fork");
        row.setAttribute("aria-label", "Fork here: write on with " + displayWord(text) + ", " + percent(probability) + " " + label);
        row.title = "Fork here: write on from this place with “" + displayWord(text) + "”";
        row.addEventListener("click", () => forkAt(i, text));
      }
      column.append(row);
    }
    if (label !== "without" && !(list || []).length) column.append(make("p", "lens-hint", view.muted ? "What else might come now, only the model can say: let it read the text." : ""));
    table.append(column);
  }
  if (forks) table.append(make("p", "lens-hint lens-fork-hint", "Fork here: press another token, and the text is written on with it."));
  return table;
}

function attended(i, token) {
  const line = make("div", "lens-looked");
  const row = rowOf(i);
  const chunk = chunkNow();
  if (row === null) {
    const owner = view.trace.chunks.findIndex((other) => i >= other.read[0] && i < other.read[1]);
    line.textContent = owner >= 0
      ? "This token read the neighbours of chunk " + (owner + 1) + ": click it to go there."
      : view.trace.retrieval ? "Nothing was read here: the first chunk has nothing to ask with." : "";
    return line;
  }
  if (view.map && row < view.map.rows && chunk.neighbours.length) {
    line.append(make("span", "lens-label", "looked at"));
    for (const { col, weight } of topColumns(row, 4)) {
      const j = Math.floor(col / neighbourLength());
      const word = displayWord(chunk.neighbours[j].tokens[col % neighbourLength()]);
      line.append(make("span", "lens-chip", "“" + word + "” ", make("small", "", "#" + (j + 1) + " · " + percent(weight))));
    }
  }
  const single = chunk.neighbours.filter((neighbour) => neighbour.influence && row < neighbour.influence.tokens.length);
  if (single.length) {
    const note = make("span", "", make("span", "lens-label", "influence"));
    for (const { rank, influence } of single) {
      const value = influence.tokens[row];
      note.append(" #" + rank + " ", make("b", value > 0.1 ? "lens-helped" : value < -0.1 ? "lens-hurt" : "", difference(value)));
    }
    note.title = "How much likelier each neighbour alone made this token, in nats: the text was scored again without it.";
    line.append(note);
    const later = single.filter((neighbour) => known(neighbour.influence.downstream));
    if (later.length) {
      const words = later.map(({ rank, influence }) => "#" + rank + " " + difference(influence.downstream)).join(" ");
      const downstream = make("span", "", make("span", "lens-label", "downstream"), " " + words);
      downstream.title = "What each neighbour of this chunk did to all tokens after those that read it, in nats per token: through the text alone, as nothing later reads it.";
      line.append(downstream);
    }
  }
  if (token.write && token.write.length) {
    const layers = view.trace.model.cca_layers;
    const strengths = token.write.map((value, n) => "layer\u00a0" + layers[n] + "\u00a0" + value.toFixed(2));
    const note = make("span", "", "write strength " + strengths.join(" · "));
    note.title = "Length of what cross-attention adds, relative to the state it is added to, in each layer that has it.";
    line.append(note);
  }
  return line;
}

// A neighbour's token: which tokens of the window looked at it.
function lookers() {
  const chunk = chunkNow();
  const { map, column } = view;
  const neighbour = chunk.neighbours[Math.floor(column / neighbourLength())];
  const word = displayWord(neighbour.tokens[column % neighbourLength()]);
  const rows = Array.from({ length: map.rows }, (_, row) => row).sort((a, b) => map.at(b, column) - map.at(a, column));
  const line = make("div", "lens-looked", make("span", "lens-label", "looked at by"));
  for (const row of rows.slice(0, 8).filter((row) => map.at(row, column) > 0)) {
    const token = view.trace.tokens[chunk.read[0] + row];
    line.append(make("span", "lens-chip", "“" + displayWord(token.text) + "” ", make("small", "", percent(map.at(row, column)))));
  }
  const mean = make("span", "lens-gain", percent(map.columnMean[column]) + " of the window's attention");
  return [make("div", "lens-word", make("b", "", "“" + word + "”"), make("span", "lens-pin-note", "in neighbour #" + neighbour.rank), mean), line];
}

function topColumns(row, count) {
  const best = [];
  const chunk = chunkNow();
  const cols = Math.min(view.map.cols, chunk.neighbours.length * neighbourLength());
  for (let col = 0; col < cols; col++) {
    const weight = view.map.at(row, col);
    if (best.length < count || weight > best[best.length - 1].weight) {
      best.push({ col, weight });
      best.sort((a, b) => b.weight - a.weight);
      best.length = Math.min(best.length, count);
    }
  }
  return best.filter(({ weight }) => weight > 0);
}
