// The document's side of the lens: parts of the static template, and elements made of text only.

const root = element.querySelector(".retro-lens");
const part = (name) => root.querySelector(".lens-" + name);
const uid = "lens-" + Math.random().toString(36).slice(2, 9);
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const name in attributes) node.setAttribute(name, attributes[name]);
  return node;
}

function bar(share, kind) {
  const fill = make("i", kind || "");
  fill.style.width = Math.max(0, Math.min(1, share)) * 100 + "%";
  return make("span", "lens-bar", fill);
}

const INK = { orange: "214 121 24", blue: "37 99 235", teal: "13 148 136", grey: "113 113 122" };

function fill(ink, opacity) {
  return opacity ? "rgb(" + INK[ink] + " / " + (opacity * FILL).toFixed(3) + ")" : "";
}

// Background of a span, written only when it changes: style writes are what a hover costs.
function tint(span, colour) {
  if (span && span.lensTint !== colour) {
    span.lensTint = colour;
    span.style.backgroundColor = colour;
  }
}

function toggle(span, name, on) {
  if (span) span.classList.toggle(name, on);
}

function isDark() {
  return document.body.classList.contains("dark") || document.documentElement.classList.contains("dark");
}

// What is looked at. Indices: token of the text, chunk, column of the map (neighbour · length + position).
const view = {
  trace: null,
  chunk: 0,
  chosen: false, // the visitor picked a chunk, so a running generation no longer moves on by itself
  hover: null, // token under the pointer
  pinned: null,
  suggested: null, // token shown while nothing is hovered or pinned
  column: null, // neighbour token under the pointer
  neighbour: null, // neighbour picked with its number
  colour: "gain",
  colourChosen: false,
  heads: [], // [layer, head] each, head null for a layer's mean; none is the mean of all
  hideSinks: false,
  map: null, // what is drawn: without sinks and muted neighbours where that is asked for
  base: null, // what the server sent last
  muted: null, // {chunk, rank} left out here, by what was recorded
  before: false, // the original is shown for comparison
  masked: false, // after a change: the attention of before, less what was muted, instead of the model's new one
  waiting: "",
  refused: "",
  standing: null, // what the server says of changing this trace
};
const originals = new Map(); // traces that others came from, by id

function chunkNow() {
  return (view.trace && view.trace.chunks[view.chunk]) || null;
}

function activeToken() {
  return view.hover ?? view.pinned ?? view.suggested;
}

// The token whose attention is painted: while a neighbour's token is looked at, only one that was chosen.
function paintedToken() {
  return view.hover ?? view.pinned ?? (view.column === null ? view.suggested : null);
}

// Row of the map that belongs to a token, or null when the token is not in the window shown.
function rowOf(token) {
  const chunk = chunkNow();
  if (!chunk || token === null || token < chunk.read[0] || token >= chunk.read[1]) return null;
  return token - chunk.read[0];
}

function neighbourLength() {
  return view.trace.model.neighbour_len;
}
