// Pure functions: numbers and text of a trace, ready to be shown. No document here.

const FULL_GAIN = 2; // nats at which the fill is strongest
const FILL = 0.65; // opacity of the strongest fill; text on it keeps 4.5 : 1
const GAMMA = 0.7; // of the attention colours, so that small weights are visible

// One token in running text: line ends stay visible and stay line ends.
function displayToken(text) {
  return display(text).replace(/\n/g, "↵\n");
}

// One token quoted in a sentence.
function displayWord(text) {
  const shown = display(text).replace(/\n/g, "↵").trim();
  if (shown) return shown.length > 28 ? shown.slice(0, 27) + "…" : shown;
  return text === "" ? "(part of a character)" : "(space)";
}

function shorten(text, length) {
  const shown = display(text).replace(/\s+/g, " ").trim();
  if (shown.length <= length) return shown;
  const end = shown.slice(-length);
  return "… " + end.slice(end.indexOf(" ") + 1); // begins with a whole word
}

function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return (value < 9.95 ? value.toFixed(1) : Math.round(value).toString()) + " %";
}

function signed(value) {
  const text = Math.abs(value).toFixed(2);
  return (value < 0 && text !== "0.00" ? "−" : "+") + text;
}

function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function gainOf(token) {
  return known(token.lp_on) && known(token.lp_off) ? token.lp_on - token.lp_off : null;
}

// A difference that rounds to nothing has no sign.
function difference(value) {
  return Math.abs(value) < 0.005 ? "±0.00" : signed(value);
}

// What the text loses without a neighbour, in words.
function withoutIt({ own, downstream }) {
  const later = known(downstream) ? ", " + difference(-downstream) + " later" : "";
  return "without it " + difference(-own) + " nats per token here" + later;
}

// Attention is not influence: a sentence where the two put a neighbour into another order than one of the
// others, by more than rounding; "" where they agree.
function disagreement(neighbours, j) {
  const all = neighbours.filter((neighbour) => known(neighbour.share) && neighbour.influence);
  const self = neighbours[j];
  if (!all.includes(self)) return "";
  const apart = (a, b) => a.share - b.share > 0.02 && b.influence.own - a.influence.own > 0.02;
  const overrated = all.find((other) => apart(self, other));
  if (overrated) return "more attention than #" + overrated.rank + ", but less influence";
  const underrated = all.find((other) => apart(other, self));
  return underrated ? "less attention than #" + underrated.rank + ", but more influence" : "";
}

function verdict(gain) {
  if (gain > 0.1) return "retrieval helped";
  return gain < -0.1 ? "retrieval hurt" : "little difference";
}

// Attention as the view carries it -> {rows, cols, at(row, col), max, rowMax, columnMean}.
function unpack(packed) {
  if (!packed || !packed.data) return null;
  const binary = atob(packed.data);
  const { rows, cols } = packed;
  const weights = new Float32Array(rows * cols);
  for (let i = 0; i < weights.length; i++) weights[i] = (binary.charCodeAt(i) / 255) * packed.scale;
  return mapOf(rows, cols, weights);
}

function mapOf(rows, cols, weights) {
  const rowMax = new Float32Array(rows);
  const columnMean = new Float32Array(cols);
  let max = 0;
  for (let row = 0, i = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++, i++) {
      const weight = weights[i];
      columnMean[col] += weight / rows;
      if (weight > rowMax[row]) rowMax[row] = weight;
    }
    if (rowMax[row] > max) max = rowMax[row];
  }
  let meanMax = 0;
  for (const mean of columnMean) if (mean > meanMax) meanMax = mean;
  return { rows, cols, weights, max, rowMax, columnMean, meanMax, at: (row, col) => weights[row * cols + col] };
}

// The mean of several maps of the same windows.
function meanMap(maps) {
  const [first] = maps;
  if (maps.length === 1) return first;
  const weights = new Float32Array(first.weights.length);
  for (const map of maps) for (let i = 0; i < weights.length; i++) weights[i] += map.weights[i] / maps.length;
  return mapOf(first.rows, first.cols, weights);
}

// The map without some columns: what was looked at there is left out, and nothing else grows for it.
function maskMap(map, hidden) {
  if (!hidden.size) return map;
  const weights = map.weights.slice();
  for (let row = 0; row < map.rows; row++) for (const col of hidden) weights[row * map.cols + col] = 0;
  return mapOf(map.rows, map.cols, weights);
}

// Columns that nearly every row looks at, whatever it is about: where attention goes that has nowhere to go.
function sinkColumns(map) {
  const sinks = [];
  const used = map.columnMean.filter((mean) => mean > 0).length;
  for (let col = 0; map.rows > 3 && col < map.cols; col++) {
    let often = 0;
    for (let row = 0; row < map.rows; row++) if (map.at(row, col) > 2 / used) often++;
    if (often >= 0.8 * map.rows) sinks.push(col);
  }
  return sinks;
}

// Opacity in 32 steps, so that a repaint finds most fills unchanged.
function strength(value, full) {
  if (!(value > 0) || !(full > 0)) return 0;
  return Math.round(Math.min(1, Math.pow(value / full, GAMMA)) * 32) / 32;
}

function rangeLength(range) {
  return range[1] - range[0];
}

function within(index, ranges) {
  return ranges.some((range) => index >= range[0] && index < range[1]);
}

// The trace as it is without neighbour j of chunk u, by what was measured when it was left out alone: exact for
// the tokens that read it. What nobody measured then is not there. null where it was not measured at all.
function withoutNeighbour(trace, u, j) {
  const chunk = trace.chunks[u];
  const card = chunk && chunk.neighbours[j];
  if (!card || !card.influence || card.changed === "muted") return null;
  const [start] = chunk.read;
  const tokens = trace.tokens.slice();
  card.influence.tokens.forEach((effect, row) => {
    const token = tokens[start + row];
    if (token && known(token.lp_on)) tokens[start + row] = { ...token, lp_on: token.lp_on - effect, alts_on: [], write: null };
  });
  const gone = { changed: "muted", share: null, copied: null, copy_read: [], copy_neighbour: [], copies: null };
  const neighbours = chunk.neighbours.map((other, i) => ({ ...other, influence: null, ...(i === j ? gone : {}) }));
  const chunks = trace.chunks.slice();
  chunks[u] = { ...chunk, neighbours, overlap: null, gain: known(chunk.gain) ? chunk.gain - card.influence.own : null };
  return { ...trace, tokens, chunks };
}

function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

// What a change did to each chunk: [{chunk, tokens, perToken, total}] of those where it did something.
function effects(trace, before) {
  const found = [];
  for (const chunk of trace.chunks) {
    const differences = [];
    for (let i = chunk.read[0]; i < chunk.read[1]; i++) {
      const token = trace.tokens[i];
      if (known(token.lp_on) && known(before[i])) differences.push(token.lp_on - before[i]);
    }
    const perToken = mean(differences);
    if (differences.some((value) => Math.abs(value) > 5e-4)) {
      found.push({ chunk: chunk.index, tokens: differences.length, perToken, total: perToken * differences.length });
    }
  }
  return found;
}

// What one wish does, in a few words: "#1 of chunk 2 muted".
function wishText(wish) {
  const place = "#" + wish.rank + " of chunk " + (wish.chunk + 1);
  if (wish.kind === "mute") return place + " muted";
  if (wish.kind === "edit") return place + " edited";
  if (wish.kind === "paste") return "your text as " + place;
  return place + " swapped with #" + wish.other_rank + (wish.other_chunk === wish.chunk ? "" : " of chunk " + (wish.other_chunk + 1));
}

// "loses 1.95 nats per token (62.30 in all)"
function effectText({ perToken, total }) {
  if (Math.abs(perToken) < 0.005) return "hardly changes";
  return (perToken < 0 ? "loses " : "gains ") + Math.abs(perToken).toFixed(2) + " nats per token (" + Math.abs(total).toFixed(1) + " in all)";
}

// How unusual a distance is in its datastore; "" where it is not, or where nobody knows.
function farText(share) {
  if (!known(share) || share < 0.95) return "";
  const percentage = share > 0.995 ? "99" : Math.floor(share * 100).toString();
  return "farther than " + percentage + " % of this datastore's own chunks are from their nearest neighbour";
}
