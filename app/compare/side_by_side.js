// value: see app/side_by_side.py. Prompt and what was written above, what was read below, a column for each.
const holder = element.querySelector(".side-by-side");
const SHOWN = 3; // neighbours of a lookup; the others are folded

const MARKS = { copied: "compare-copied", said: "compare-said", shared: "compare-shared" };

// Pieces of text with the same marks; `parting` stands where the texts begin to differ.
function pieces(list, parting) {
  const nodes = [];
  let shared = Boolean(parting);
  list.forEach(([text, marks], i) => {
    const names = marks.split(" ").filter((name) => Object.hasOwn(MARKS, name));
    if (shared && !names.includes("shared")) {
      if (i > 0) nodes.push(parting);
      shared = false;
    }
    nodes.push(make("span", names.map((name) => MARKS[name]).join(" "), displayToken(text)));
  });
  return nodes;
}

function headline(value) {
  const sentence = make("p", "compare-headline");
  for (const [text, quoted] of value.headline) {
    sentence.append(quoted ? make("strong", "", displayWords(text)) : displayWords(text));
  }
  return sentence;
}

function displayWords(text) {
  return display(String(text)).replace(/\s+/g, (blank) => (blank.includes("\n") ? " ↵ " : " "));
}

function neighbour(item) {
  const head = make("header", "", make("span", "compare-rank", "#" + item.rank), make("b", "", display(item.title)));
  if (known(item.closeness)) {
    const close = make("span", "compare-close", "closeness " + item.closeness.toFixed(2));
    close.title = "Cosine between the embeddings of the prompt and of this chunk: 1 is the same direction.";
    head.append(close);
  }
  const passage = make("div", "compare-passage", ...pieces(item.n));
  if (item.f.length) passage.append(make("span", "compare-mark", "continues ▸"), ...pieces(item.f));
  return make("article", "compare-neighbour", head, passage);
}

function lookup(found, several) {
  const nodes = [];
  if (several) nodes.push(make("h5", "", "Lookup " + found.chunk));
  if (!found.neighbours.length) nodes.push(make("p", "compare-none", "Nothing was found."));
  nodes.push(...found.neighbours.slice(0, SHOWN).map(neighbour));
  const rest = found.neighbours.slice(SHOWN);
  if (rest.length) nodes.push(make("details", "", make("summary", "", rest.length + " more"), ...rest.map(neighbour)));
  return nodes;
}

function column(item, number, value) {
  const busy = value.busy && !/^\d+ tokens\./.test(item.stage);
  const name = item.source ? display(item.source) : "no retrieval";
  const by = item.source ? make("span", "compare-by", "looked into " + display(item.by)) : make("span", "compare-by", "Retro[Off]");
  const head = make("h4", "", name, by);
  const text = make("div", "compare-text", make("span", "compare-given", displayToken(value.given)));
  text.append(...pieces(item.text, make("span", "compare-mark compare-parts", "texts part here")));
  if (busy) text.append(make("span", "compare-caret"));
  const stage = make("p", busy ? "compare-stage compare-busy" : "compare-stage", item.stage);
  const read = make("div", "compare-read");
  const title = item.source ? "What it read" : "It read nothing";
  read.tabIndex = 0; // it scrolls
  read.setAttribute("role", "region");
  read.setAttribute("aria-label", title + ", " + name);
  read.append(make("h5", "", title));
  for (const found of item.lookups) read.append(...lookup(found, item.lookups.length > 1));
  if (!item.source) read.append(make("p", "compare-none", "The same model with retrieval switched off: all it has is what training left in it."));
  const box = make("section", "compare-column", head, text, stage, read);
  box.setAttribute("aria-label", "Text " + number + ", " + name);
  return box;
}

function show() {
  const value = given();
  if (!value || !Array.isArray(value.columns)) {
    holder.replaceChildren(make("p", "compare-empty", "Nothing to show yet: choose an example, or write a prompt and press Run."));
    return;
  }
  const top = make("div", "compare-top");
  top.setAttribute("aria-live", "polite");
  if (value.title) top.append(make("p", "compare-title", display(value.title)));
  if (value.headline.length) top.append(headline(value));
  if (value.verdict) top.append(make("p", "compare-verdict", value.verdict));
  if (value.busy) top.append(make("p", "compare-headline", "Writing, a token of each text in turn…"));
  const columns = make("div", "compare-columns");
  columns.style.setProperty("--columns", String(value.columns.length));
  columns.append(...value.columns.map((item, i) => column(item, i + 1, value)));
  const copied = make("span", "compare-copied", "dotted underline");
  const note = make("p", "compare-note", value.note + " ", copied, " = stands in both the text and what it read.");
  holder.replaceChildren(top, columns, note);
}

watch("value", show);
show();
