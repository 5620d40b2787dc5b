// Changing what was read. A neighbour that was left out alone when the trace was made can be muted here at once;
// everything else is asked of the model, and what it answers is a trace of its own that leads back.

// The trace that changes are counted from, and what has been changed since.
function rootOf(trace) {
  return trace.change && trace.change.kind === "change" ? trace.change.of : trace.id;
}

function requests() {
  const { base, muted } = view;
  const made = base && base.change && base.change.kind === "change" ? base.change.requests : [];
  return muted ? [...made, { kind: "mute", ...muted }] : made;
}

function isFinished(trace) {
  return Boolean(trace) && (!trace.status || ["done", "stopped"].includes(trace.status.stage));
}

// What is drawn: the original for comparison, what was muted here, or what the server sent.
function currentTrace() {
  const { base, muted, before } = view;
  if (before) return originals.get(rootOf(base)) || base;
  if (!muted) return base;
  const changed = withoutNeighbour(base, muted.chunk, muted.rank - 1);
  return { ...changed, change: { kind: "change", of: rootOf(base), requests: requests(), before: beforeOf(base) } };
}

function beforeOf(base) {
  if (base.change && base.change.kind === "change") return base.change.before;
  return { lp_on: base.tokens.map((token) => token.lp_on), gain: base.chunks.map((chunk) => chunk.gain), text: "" };
}

// Log-probabilities before the change that is shown, or null.
function lpBefore() {
  const change = view.trace && !view.before && view.trace.change;
  return change && change.kind === "change" ? change.before.lp_on : null;
}

function changeOf(i) {
  const before = lpBefore();
  const token = view.trace.tokens[i];
  return before && token && known(token.lp_on) && known(before[i]) ? token.lp_on - before[i] : null;
}

function redraw() {
  view.trace = currentTrace();
  drawStage();
  drawChunk();
  drawNotice();
}

// ---- Asking

function askModel(kind, more, saying) {
  Object.assign(view, { waiting: saying, refused: "", chosen: true });
  closeForms();
  drawNotice();
  trigger("wish", { kind, trace: rootOf(view.base), changes: requests(), ...more });
}

// The same place edited twice is edited once.
function askChange(wish) {
  const made = requests();
  const last = made[made.length - 1];
  const types = ["edit", "paste"];
  const again = last && types.includes(last.kind) && types.includes(wish.kind) && last.chunk === wish.chunk && last.rank === wish.rank;
  const changes = again ? [...made.slice(0, -1), { ...wish, kind: last.kind }] : [...made, wish];
  askModel("change", { changes }, "Reading the text again with " + wishText(wish) + "…");
}

const left = new Set(); // traces that were left for their originals; the queue may bring the last of one again

function backToOriginal() {
  const id = view.base.change ? view.base.change.of : rootOf(view.base);
  const local = view.muted && !view.base.change;
  Object.assign(view, { muted: null, before: false, refused: "", waiting: "", masked: false });
  closeForms();
  const original = originals.get(id);
  if (!local) trigger("restore", { trace: id }); // the server's buttons save what is shown
  if (local || !original) return redraw();
  left.add(view.base.id);
  show(original);
}

// ---- Muting

function canChange() {
  return isFinished(view.base) && Boolean(view.standing && view.standing.can) && !view.before;
}

function canMute(card, u) {
  if (!isFinished(view.base) || view.before) return false;
  if (card.changed === "muted") return isMutedHere(u, card.rank) || canChange() && wasAsked(u, card.rank);
  return (Boolean(card.influence) && !view.muted) || canChange();
}

function isMutedHere(u, rank) {
  return Boolean(view.muted) && view.muted.chunk === u && view.muted.rank === rank;
}

function wasAsked(u, rank) {
  return requests().some((wish) => wish.kind === "mute" && wish.chunk === u && wish.rank === rank);
}

function toggleMute(j) {
  const chunk = chunkNow();
  const card = chunk && chunk.neighbours[j];
  if (!card || !canMute(card, view.chunk)) return;
  const place = { chunk: view.chunk, rank: card.rank };
  if (isMutedHere(view.chunk, card.rank)) {
    view.muted = null;
    view.refused = "";
    return redraw();
  }
  if (card.changed === "muted") {
    const rest = requests().filter((wish) => !(wish.kind === "mute" && wish.chunk === place.chunk && wish.rank === place.rank));
    if (!rest.length) return backToOriginal();
    return askModel("change", { changes: rest }, "Reading the text again with #" + card.rank + "…");
  }
  if (card.influence && !view.muted) {
    originals.set(view.base.id, view.base);
    Object.assign(view, { muted: place, refused: "", masked: false, chosen: true });
    return redraw();
  }
  askChange({ kind: "mute", ...place });
}

// ---- Saying what was changed

// What leaves the page is what is shown: the buttons that save and link read here what that is.
function tellWhatIsShown() {
  const { base, muted, before } = view;
  const shows = isFinished(base)
    ? { trace: before ? rootOf(base) : base.id, without: before ? null : muted, changed: !before && Boolean(muted || base.change) }
    : { writing: base && base.status.stage };
  root.dataset.shows = JSON.stringify(shows);
}

function drawNotice() {
  tellWhatIsShown();
  const notice = part("notice");
  const change = view.base && (view.muted ? currentChange() : view.base.change);
  if (notice.contains(document.activeElement)) part("text").focus({ preventScroll: true });
  notice.replaceChildren();
  notice.hidden = !(view.waiting || view.refused || change);
  notice.classList.toggle("lens-notice-refused", Boolean(view.refused));
  if (notice.hidden) return;
  if (view.waiting) notice.append(make("p", "lens-running", view.waiting));
  if (view.refused) {
    notice.append(make("p", "lens-warning", display(view.refused)));
    const close = action("Close", "dismiss");
    notice.append(make("div", "lens-actions", close));
  }
  if (view.waiting || !change || view.refused) return;
  notice.append(...(change.kind === "change" ? changeNotice(change) : branchNotice(change)));
}

function currentChange() {
  return { kind: "change", of: rootOf(view.base), requests: requests(), before: beforeOf(view.base) };
}

function changeNotice(change) {
  const now = view.muted ? withoutNeighbour(view.base, view.muted.chunk, view.muted.rank - 1) : view.base;
  const done = effects(now, change.before.lp_on);
  const only = change.requests.length === 1 && change.requests[0].kind === "mute" ? change.requests[0] : null;
  const said = make("p", "");
  if (only) {
    const own = done.find((effect) => effect.chunk === only.chunk) || { perToken: 0, total: 0 };
    said.append(make("b", "", "Without #" + only.rank + " this chunk " + effectText(own) + "."));
  } else {
    said.append(make("b", "", change.requests.map(wishText).join(", ") + ":"));
    if (!done.length) said.append(" no token changes.");
  }
  for (const effect of done.slice(0, 4)) {
    if (only && effect.chunk === only.chunk) continue;
    said.append(" Chunk " + (effect.chunk + 1) + " → " + (effect.chunk + 2) + " " + effectText(effect) + ".");
  }
  if (view.muted) {
    const later = view.base.chunks[view.muted.chunk].neighbours[view.muted.rank - 1].influence.downstream;
    if (known(later)) said.append(" What comes after it: " + difference(-later) + " nats per token.");
    said.append(make("span", "lens-soft", " From what was recorded when it was left out alone."));
  }
  const compare = make("span", "lens-choice lens-compare");
  compare.setAttribute("role", "radiogroup");
  compare.setAttribute("aria-label", "Show the text");
  for (const [label, before] of [["before", true], ["after", false]]) {
    const button = make("button", "", label);
    button.type = "button";
    button.setAttribute("role", "radio");
    button.dataset.before = String(before);
    button.setAttribute("aria-checked", String(view.before === before));
    button.tabIndex = view.before === before ? 0 : -1;
    button.disabled = before && !originals.has(change.of);
    compare.append(button);
  }
  const buttons = [compare, action("Back to the original", "back")];
  if (view.muted && canChange()) {
    buttons.push(action("Let the model read it", "measure", "Reads the text again without it: attention as it is then, and every later token"));
  }
  return [said, make("div", "lens-actions", ...buttons)];
}

function branchNotice({ kind, at, before, token, requests: changes }) {
  const words = kind === "fork"
    ? "A fork: “" + displayWord(token[1]) + "” in place of “" + displayWord(token[0]) + "”, and what follows is written anew."
    : "A branch: from token " + at + " on the text is written anew.";
  const read = changes.length ? " Read with " + changes.map(wishText).join(", ") + "." : "";
  const parts = [make("p", "", make("b", "", words), read)];
  if (before.text) {
    const was = make("details", "lens-was", make("summary", "", "What stood there before"), make("p", "lens-was-text", display(before.text)));
    parts.push(was);
  }
  parts.push(make("div", "lens-actions", action("Back to the original", "back")));
  return parts;
}

function action(label, name, help) {
  const button = make("button", "lens-action", label);
  button.type = "button";
  button.dataset.action = name;
  if (help) button.title = help;
  return button;
}

// ---- Can it be changed here?

async function askStanding(again) {
  const { base } = view;
  if (!again) view.standing = null; // of the same text it is known, and may have become another
  drawStanding();
  if (!isFinished(base) || !base.id) return;
  const answer = await answerOf(server.standing({ trace: rootOf(base) }));
  if (view.base !== base) return; // another trace came meanwhile
  view.standing = answer.error ? { can: false, why: answer.error, differs: [], far: null } : answer;
  drawStanding();
  drawStory();
  drawCards();
  markNeighbour();
  drawNotice();
  repaint();
}

function farOf(u, j) {
  const { standing } = view;
  const row = standing && standing.far && standing.far[u];
  const card = view.trace.chunks[u] && view.trace.chunks[u].neighbours[j];
  return row && card && known(card.distance) && (!card.changed || card.changed === "muted") ? row[j] : null;
}

function drawStanding() {
  const holder = part("standing");
  const { standing } = view;
  holder.replaceChildren();
  const differs = standing ? standing.differs : [];
  holder.hidden = !standing || (standing.can && !differs.length);
  part("branch").disabled = !canChange() || !chunkNow();
  part("branch").title = standing && !standing.can ? display(standing.why) : "Keep the text up to the end of this chunk and write on from there";
  if (holder.hidden) return;
  holder.classList.toggle("lens-blocking", !standing.can);
  if (standing.can) {
    holder.append(make("p", "", display(differs[0].name) + " has changed since this was recorded (" + differs[0].then + " → " + differs[0].here + "), but still holds everything that was read."));
    return;
  }
  const told = standing.map ? "This trace can be looked at, but not changed here, and its neighbours are on no map." : "This trace can be looked at, but not changed here.";
  holder.append(make("b", "", told), make("p", "", display(standing.why)));
  for (const { what, name, then, here } of differs) {
    holder.append(make("p", "lens-num", what + " " + display(name) + ": " + (then || "unknown") + " then, " + here + " here"));
  }
  if (view.base && view.base.tokens.length) holder.append(action("Read this text again with what is chosen above", "again"));
}
