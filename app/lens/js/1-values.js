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
  const rowMax = new Float32Array(rows);
  const columnMean = new Float32Array(cols);
  let max = 0;
  for (let row = 0, i = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++, i++) {
      const weight = (binary.charCodeAt(i) / 255) * packed.scale;
      weights[i] = weight;
      columnMean[col] += weight / rows;
      if (weight > rowMax[row]) rowMax[row] = weight;
    }
    if (rowMax[row] > max) max = rowMax[row];
  }
  let meanMax = 0;
  for (const mean of columnMean) if (mean > meanMax) meanMax = mean;
  return { rows, cols, weights, max, rowMax, columnMean, meanMax, at: (row, col) => weights[row * cols + col] };
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
