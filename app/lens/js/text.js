// The whole text: what chunk u asked with and what reads its neighbours is bracketed.

let spans = []; // span of each token; null for padding
let shownId = null;
const asks = make("span", "lens-mark lens-mark-ask");
const reads = make("span", "lens-mark lens-mark-read");
const readsEnd = make("span", "lens-mark-end");
const written = make("span", "lens-mark lens-mark-written", "✎ the model writes");
for (const mark of [asks, reads, readsEnd, written]) mark.setAttribute("aria-hidden", "true");

function drawText() {
  const { trace } = view;
  const holder = part("text");
  const kept = rootOf(trace) === shownId ? commonStart(trace.tokens) : 0;
  if (!kept) {
    holder.replaceChildren();
    spans = [];
    if (trace.pad) {
      const note = make("span", "lens-padding", trace.pad + " × padding");
      note.title = "The prompt is shorter than a chunk, so it is filled up on the left. The model ignores the filling.";
      holder.append(note);
    }
  }
  for (const span of spans.splice(kept)) if (span) span.remove();
  shownId = rootOf(trace);
  for (let i = spans.length; i < trace.tokens.length; i++) {
    if (i < trace.pad) {
      spans.push(null);
      continue;
    }
    const span = make("span", "lens-token", displayToken(trace.tokens[i].text));
    span.lensText = trace.tokens[i].text;
    span.id = uid + "-t" + i;
    span.dataset.i = i;
    span.setAttribute("role", "option");
    if (!trace.tokens[i].text) span.classList.add("lens-void");
    holder.append(span);
    spans.push(span);
  }
  bracket();
  colourText();
  for (let i = 0; i < spans.length; i++) if (spans[i]) spans[i].setAttribute("aria-label", tokenLabel(i));
}

function commonStart(tokens) {
  let i = 0;
  while (i < spans.length && i < tokens.length && (spans[i] ? spans[i].lensText === tokens[i].text : !tokens[i].text)) i++;
  return i;
}

function tokenLabel(i) {
  const token = view.trace.tokens[i];
  const word = displayWord(token.text);
  if (!known(token.lp_on)) return word;
  if (!known(token.lp_off)) return word + ": probability " + percent(Math.exp(token.lp_on));
  return word + ": with retrieval " + percent(Math.exp(token.lp_on)) + ", without " + percent(Math.exp(token.lp_off));
}

function bracket() {
  const chunk = chunkNow();
  const { trace } = view;
  const [askStart, askEnd] = chunk ? chunk.ask : [0, 0];
  const [readStart, readEnd] = chunk ? chunk.read : [0, 0];
  const copied = chunk ? chunk.neighbours.flatMap((neighbour) => neighbour.copy_read || []) : [];
  spans.forEach((span, i) => {
    if (!span) return;
    const inRead = i >= readStart && i < readEnd;
    let name = "lens-token";
    if (!trace.tokens[i].text) name += " lens-void";
    if (i < trace.prompt_tokens) name += " lens-given";
    if (i >= askStart && i < askEnd) name += " lens-asks";
    if (inRead) name += " lens-reads";
    if (inRead && within(i - readStart, copied)) name += " lens-copied";
    if (i === view.pinned) name += " lens-pinned";
    if (span.className !== name) span.className = name;
  });
  const holder = part("text");
  const place = (mark, i) => {
    const at = spans.slice(i).find(Boolean);
    if (at) holder.insertBefore(mark, at);
    else holder.append(mark);
  };
  for (const mark of [asks, reads, readsEnd, written]) mark.remove();
  if (trace.tokens.length > trace.prompt_tokens) place(written, trace.prompt_tokens);
  if (chunk) {
    asks.textContent = "chunk " + (chunk.index + 1) + " asks";
    reads.textContent = "chunk " + (chunk.index + 2) + " reads";
    place(asks, askStart);
    if (rangeLength(chunk.read)) {
      place(reads, readStart);
      place(readsEnd, readEnd);
    }
  }
  const first = Math.max(0, trace.pad);
  part("text-note").textContent =
    trace.tokens.length - first + " tokens" + (chunk && rangeLength(chunk.read) ? " · reading window " + readStart + "–" + (readEnd - 1) : "");
}

// Teal while a neighbour or one of its tokens is looked at (who looked there?), else the chosen colouring.
function colourText() {
  const { trace, map } = view;
  const chunk = chunkNow();
  const looking = map && chunk && (view.column !== null || view.neighbour !== null);
  const row0 = chunk ? chunk.read[0] : 0;
  let peak = 0;
  let look = null;
  if (looking) {
    look = Array.from({ length: map.rows }, (_, row) => lookedAt(map, row));
    peak = Math.max(...look);
  }
  spans.forEach((span, i) => {
    if (!span) return;
    const row = rowOf(i);
    if (looking) {
      tint(span, row !== null && row < map.rows ? fill("teal", strength(look[i - row0], peak)) : "");
      return;
    }
    tint(span, tokenFill(trace.tokens[i], i));
  });
}

function lookedAt(map, row) {
  if (view.column !== null) return map.at(row, view.column);
  const length = neighbourLength();
  let total = 0;
  for (let col = view.neighbour * length; col < (view.neighbour + 1) * length; col++) total += map.at(row, col);
  return total;
}

function tokenFill(token, i) {
  if (view.colour === "gain" || view.colour === "change") {
    const gain = view.colour === "gain" ? gainOf(token) : changeOf(i);
    if (gain === null) return "";
    const opacity = Math.round(Math.min(1, Math.abs(gain) / FULL_GAIN) * 32) / 32;
    return fill(gain > 0 ? "orange" : "blue", opacity);
  }
  if (view.colour === "probability" && known(token.lp_on)) {
    return fill("grey", Math.round(Math.exp(token.lp_on) * 24) / 32);
  }
  return "";
}

let outlined = null;

function outlineToken(i) {
  if (outlined === i) return;
  toggle(spans[outlined], "lens-active", false);
  toggle(spans[i], "lens-active", true);
  if (spans[outlined]) spans[outlined].removeAttribute("aria-selected");
  if (spans[i]) {
    spans[i].setAttribute("aria-selected", "true");
    part("text").setAttribute("aria-activedescendant", spans[i].id);
  }
  outlined = i;
}

// Scroll inside the panel only: the page itself must not move under the visitor.
function revealToken(i, share) {
  const holder = part("text");
  const span = spans[i];
  if (!span) return;
  const top = span.getBoundingClientRect().top - holder.getBoundingClientRect().top + holder.scrollTop;
  if (top < holder.scrollTop + 8 || top > holder.scrollTop + holder.clientHeight - 40) {
    holder.scrollTop = top - holder.clientHeight * share;
  }
}
