// What opens in place: the text of a neighbour to edit, another one to swap it with, its source, how to write on.

let formOf = null; // the form that is open, and what opened it

function closeForms() {
  if (!formOf) return;
  const { node, opener } = formOf;
  const focused = node.contains(document.activeElement);
  node.remove();
  formOf = null;
  if (opener.isConnected) {
    opener.setAttribute("aria-expanded", "false");
    if (focused) opener.focus({ preventScroll: true });
  }
}

// The cards are made anew: the form of one stays open below the one that takes its place, with what was typed.
function takenOver(holder) {
  if (!formOf || !holder.contains(formOf.node)) return () => {};
  const { node, opener } = formOf;
  const card = '[data-neighbour="' + Number(opener.closest("[data-neighbour]").dataset.neighbour) + '"]';
  const at = node.contains(document.activeElement) ? document.activeElement : null;
  return () => {
    const again = holder.querySelector(card + ' [data-action="' + opener.dataset.action + '"]');
    if (!again || again.disabled) return closeForms();
    formOf = { node, opener: again };
    again.setAttribute("aria-expanded", "true");
    again.closest(card).querySelector(".lens-slot").append(node);
    if (at) at.focus({ preventScroll: true });
  };
}

function openForm(opener, slot, node) {
  const same = formOf && formOf.opener === opener;
  closeForms();
  if (same) return false; // the second press closes
  formOf = { node, opener };
  opener.setAttribute("aria-expanded", "true");
  slot.append(node);
  (node.querySelector("textarea, select, input") || node).focus({ preventScroll: true });
  return true;
}

function field(label, control, help) {
  const node = make("label", "lens-field", make("span", "", label), control);
  if (help) node.append(make("small", "", help));
  return node;
}

function submitRow(label) {
  const go = make("button", "lens-go", label);
  go.type = "submit";
  const row = make("div", "lens-actions", go, action("Cancel", "cancel"));
  return row;
}

function form(...parts) {
  const node = make("form", "lens-form", ...parts);
  node.noValidate = true;
  return node;
}

function openWords(opener, slot, j, kind) {
  const card = chunkNow().neighbours[j];
  const rank = card ? card.rank : j + 1;
  const m = view.trace.model.chunk_size;
  const words = make("textarea", "");
  words.rows = 5;
  words.maxLength = 8000;
  words.value = kind === "edit" ? card.tokens.join("") : "";
  words.placeholder = kind === "paste" ? "Any text of yours" : "";
  const label = kind === "edit" ? "What #" + rank + " says instead" : "Your text, to be read as #" + rank;
  const node = form(
    field(label, words, "The first " + m + " tokens are the neighbour, what is left of up to " + (neighbourLength() - m) + " more follows it. Ctrl+Enter reads it."),
    submitRow("Read it instead"));
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!words.value.trim()) return words.focus();
    askChange({ kind, chunk: view.chunk, rank, text: words.value });
  });
  openForm(opener, slot, node);
}

function openSwap(opener, slot, j) {
  const { rank } = chunkNow().neighbours[j];
  const choice = make("select", "");
  const places = view.trace.chunks.flatMap((chunk) => chunk.neighbours.map((card) => ({ chunk: chunk.index, card })));
  places.sort((a, b) => (a.chunk === view.chunk) - (b.chunk === view.chunk)); // others first: within a chunk order hardly matters
  for (const { chunk, card } of places) {
    if (chunk === view.chunk && card.rank === rank) continue;
    const where = chunk === view.chunk ? "of this chunk" : "of chunk " + (chunk + 1);
    const option = make("option", "", "#" + card.rank + " " + where + ": " + shortened(card.title || card.tokens.join(""), 44));
    option.value = chunk + "/" + card.rank;
    choice.append(option);
  }
  if (!choice.options.length) choice.append(make("option", "", "there is no other neighbour in this text"));
  const node = form(
    field("Exchange #" + rank + " of chunk " + (view.chunk + 1) + " with", choice, "Each is then read where the other was. Within one chunk the order of neighbours changes little or nothing."),
    submitRow("Swap them"));
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!choice.value.includes("/")) return;
    const [chunk, other] = choice.value.split("/").map(Number);
    askChange({ kind: "swap", chunk: view.chunk, rank, other_chunk: chunk, other_rank: other });
  });
  openForm(opener, slot, node);
}

function shortened(text, length) {
  const shown = display(text).replace(/\s+/g, " ").trim();
  return shown.length > length ? shown.slice(0, length - 1) + "…" : shown;
}

function number(value, step, max) {
  const control = make("input", "");
  Object.assign(control, { type: "number", min: "0", max: String(max), step: String(step), value: String(value) });
  return control;
}

function writingFields(plain) {
  const { sampling = {} } = view.base;
  const before = known(sampling.temperature) ? sampling.temperature : 0.8;
  // With nothing changed, the same seed would only write the same text again.
  const seed = number((sampling.seed || 0) + (plain ? 1 : 0), 1, 2147483647);
  const temperature = number(plain && before === 0 ? 0.8 : Number(before.toFixed(2)), 0.05, 2);
  return { seed, temperature, fields: make("div", "lens-fields", field("Temperature", temperature), field("Seed", seed)) };
}

function openBranch(opener) {
  const number = view.chunk + 1;
  const { seed, temperature, fields } = writingFields(!requests().length);
  const node = form(
    make("p", "", "The text up to the end of chunk " + number + " stays. What follows is written anew from what chunk " + number + " reads now, and later chunks are looked up again."),
    fields, submitRow("Write on"));
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    askModel("branch", { chunk: view.chunk, seed: Number(seed.value), temperature: Number(temperature.value) }, "Writing on from the end of chunk " + number + "…");
  });
  openForm(opener, part("branch-slot"), node);
}

function forkAt(i, words) {
  askModel("fork", { position: i, token: words }, "Writing on from “" + displayWord(words) + "”…");
}

// The neighbour in its document: what stood before it, itself marked, what came next, and what after that.
async function openSource(opener, slot, j) {
  const card = chunkNow().neighbours[j];
  const node = make("div", "lens-form lens-source", make("p", "lens-hint", "Looking it up…"));
  node.setAttribute("role", "region");
  node.setAttribute("aria-label", "Source of neighbour " + card.rank);
  node.tabIndex = -1;
  if (!openForm(opener, slot, node)) return;
  const found = await answerOf(server.source({ trace: view.base.id, chunk: view.chunk, rank: card.rank }));
  node.replaceChildren(...(found.error ? [make("p", "lens-warning", display(found.error))] : sourceParts(found)), make("div", "lens-actions", action("Close", "cancel")));
}

function sourceParts(found) {
  const place = display(found.title) + " · " + display(found.source) + " · from character " + found.offset.toLocaleString("en");
  const text = make("p", "lens-source-text");
  if (found.begins) text.append(make("span", "lens-ends", "the document begins here"));
  text.append(make("span", "lens-around", display(found.before)), make("mark", "", display(found.text)));
  if (found.continuation) text.append(make("span", "lens-continues", "continues ▸"), make("span", "", display(found.continuation)));
  text.append(make("span", "lens-around", display(found.after)));
  if (found.ends) text.append(make("span", "lens-ends", "the document ends here"));
  return [make("p", "lens-hint", place), text];
}

const openers = {
  edit: (button, slot, j) => openWords(button, slot, j, "edit"),
  paste: (button, slot, j) => openWords(button, slot, j, "paste"),
  swap: openSwap,
  source: openSource,
};

root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (!button || button.disabled || !view.base) return;
  const { action: name } = button.dataset;
  const holder = button.closest(".lens-neighbour, .lens-paste-new");
  if (name === "mute") toggleMute(Number(holder.dataset.neighbour));
  else if (name in openers) openers[name](button, holder.querySelector(".lens-slot"), Number(holder.dataset.neighbour));
  else if (name === "branch") openBranch(button);
  else if (name === "place") trigger("place", { trace: view.base.id, chunk: view.chunk, rank: Number(holder.dataset.neighbour) + 1 });
  else if (name === "cancel") closeForms();
  else if (name === "back") backToOriginal();
  else if (name === "measure") askModel("change", {}, "Reading the text again without #" + view.muted.rank + "…");
  else if (name === "again") askModel("again", {}, "Reading the text again…");
  else if (name === "dismiss") {
    view.refused = "";
    drawNotice();
  }
});

root.addEventListener("keydown", (event) => {
  if (!event.target.closest(".lens-form")) return;
  if (event.key === "Escape") closeForms();
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.closest("form")?.requestSubmit();
  else return;
  event.preventDefault();
  event.stopImmediatePropagation(); // the lens's own keys mean something else
});
