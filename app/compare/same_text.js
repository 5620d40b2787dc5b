// value: see app/same_text.py. Bars, one for each setting; then two of them, chosen, token by token.
const holder = element.querySelector(".same-text");
const APART = 0.5; // nats from which a token is painted
const CLEAR = 0.05; // bits per byte from which a bar is coloured
const chosen = { id: null, left: 0, right: 1, token: null, picked: false };

function span(interval, write) {
  return interval ? " (" + interval.map(write).join(" to ") + ")" : "";
}

// Never 0.00 for what is expected almost surely: nothing is.
function bits(value) {
  return value.toFixed(value < 0.1 ? 3 : 2);
}

// ---- bars

function bars(value) {
  const first = value.settings[0];
  const largest = Math.max(...value.settings.map((one) => (one.ci95 ? one.ci95[1] : one.bpb)), 1e-6) * 1.04;
  const sameTokens = value.groups.length === 1;
  const table = make("div", "same-bars");
  table.setAttribute("role", "list");
  for (const one of value.settings) {
    const fill = make("i", side(one));
    fill.style.width = (one.bpb / largest) * 100 + "%";
    const bar = make("span", "same-bar", fill);
    if (one.ci95) {
      const whisker = make("em", "");
      whisker.style.left = (Math.max(0, one.ci95[0]) / largest) * 100 + "%";
      whisker.style.width = ((one.ci95[1] - Math.max(0, one.ci95[0])) / largest) * 100 + "%";
      bar.append(whisker);
    }
    const numbers = make("span", "same-numbers", make("b", "", bits(one.bpb)), span(one.ci95, bits));
    const more = make("span", "same-more");
    if (sameTokens) more.append("perplexity " + one.perplexity.toFixed(one.perplexity < 10 ? 2 : 1));
    if (one.less) {
      const base = value.settings.find((other) => other.group === one.group);
      const against = sameTokens ? "" : " against " + display(base.name); // else it stands above
      more.append((more.textContent ? " · " : "") + signed(one.less.value) + span(one.less.ci95, signed) + against);
    }
    const row = make("div", "same-row", make("span", "same-name", display(one.name)), bar, numbers, more);
    row.setAttribute("role", "listitem");
    table.append(row);
  }
  return table;
}

// Whether it expected the text better or worse than the first, or it may be chance.
function side(one) {
  if (!one.less || Math.abs(one.less.value) < CLEAR) return "";
  const [low, high] = one.less.ci95 || [one.less.value, one.less.value];
  return high < 0 ? "same-better" : low > 0 ? "same-worse" : "";
}

function sides(value) {
  const marked = value.settings.map(side);
  if (!marked.some(Boolean)) return [];
  const than = " than with “" + display(value.settings[0].name) + "”";
  const keys = [["same-better", "better" + than], ["same-worse", marked.includes("same-better") ? "worse" : "worse" + than], ["", "no different, or it may be chance"]];
  return [make("p", "compare-note", ...keys.filter(([name]) => marked.includes(name)).map(([name, words]) => make("span", "same-key same-side " + name, words)))];
}

function scale(value) {
  const words = "bits per byte, less is better";
  const several = value.groups.length === 1 && value.settings.length > 1;
  return several ? words + "; at the end of a line, the difference from “" + display(value.settings[0].name) + "”" : words;
}

// ---- which two

function selector(label, key, value) {
  const select = make("select", "");
  value.settings.forEach((one, i) => {
    const option = make("option", "", display(one.name));
    option.value = String(i);
    select.append(option);
  });
  select.value = String(chosen[key]);
  select.addEventListener("change", () => {
    chosen[key] = Number(select.value);
    chosen.picked = true;
    chosen.token = null;
    show();
    holder.querySelector("select[data-key=" + key + "]").focus();
  });
  select.dataset.key = key;
  return make("label", "", label + " ", select);
}

// Unless somebody chose: the first one, and of those with the same tokens the one that expected the text best.
function choose(value) {
  const last = value.settings.length - 1;
  if (chosen.id !== value.id) Object.assign(chosen, { id: value.id, picked: false, token: null });
  if (chosen.picked && chosen.left <= last && chosen.right <= last) return;
  let best = 0;
  value.settings.forEach((one, i) => {
    if (i > 0 && one.group === value.settings[0].group && (!best || one.bpb < value.settings[best].bpb)) best = i;
  });
  Object.assign(chosen, { left: 0, right: best || Math.min(1, last), picked: false });
}

// ---- tokens

function tint(delta) {
  const strength = Math.min(1, Math.abs(delta) / 3) * 0.5 + 0.15;
  return (delta > 0 ? "rgb(214 121 24 / " : "rgb(37 99 235 / ") + strength.toFixed(2) + ")";
}

function tokens(value) {
  const left = value.settings[chosen.left], right = value.settings[chosen.right];
  if (left.group !== right.group) {
    return [make("p", "compare-none", "These two cut the text into other tokens or chunks: it cannot be said of single tokens which of them expected them more.")];
  }
  const group = value.groups[left.group];
  const delta = group.tokens.map((_, i) => left.nats[i] - right.nats[i]);
  const apart = delta.map((one) => Math.abs(one) > APART);
  const box = make("div", "same-tokens");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "The text. Arrow keys move from one token that differs to the next.");
  if (value.beginning) box.append(make("span", "compare-given", displayToken(value.beginning)));
  const nodes = group.tokens.map((text, i) => {
    const node = make("span", apart[i] ? "same-token same-apart" : "same-token", displayToken(text));
    if (apart[i]) node.style.backgroundColor = tint(delta[i]);
    node.dataset.i = String(i);
    return node;
  });
  box.append(...nodes);
  const tip = make("p", "same-tip");
  tip.setAttribute("aria-live", "polite");
  const counts = [delta.filter((one) => one > APART).length, delta.filter((one) => one < -APART).length];
  const rest = counts[0] + " tokens are likelier under " + display(right.name) + ", " + counts[1] + " under " + display(left.name) +
    " (by more than 0.5 nats; " + nodes.length + " in all). Point at one.";
  function tell(i) {
    nodes.forEach((node, j) => node.classList.toggle("same-active", j === i));
    tip.replaceChildren();
    if (i === null) return tip.append(rest);
    const chance = (one) => percent(Math.exp(-one.nats[i]));
    tip.append(make("b", "", "“" + displayWord(group.tokens[i]) + "”"), " " + chance(left) + " under " + display(left.name) + ", " +
      chance(right) + " under " + display(right.name) + ": " + signed(delta[i]) + " nats");
  }
  function move(step) {
    let i = chosen.token === null ? (step > 0 ? -1 : nodes.length) : chosen.token;
    do i += step; while (i >= 0 && i < nodes.length && !apart[i]);
    if (i < 0 || i >= nodes.length) return;
    chosen.token = i;
    tell(i);
    nodes[i].scrollIntoView({ block: "nearest" });
  }
  const at = (event) => event.target.closest?.(".same-token");
  box.addEventListener("pointerover", (event) => at(event) && tell(Number(at(event).dataset.i)));
  box.addEventListener("pointerleave", () => tell(chosen.token));
  box.addEventListener("click", (event) => {
    if (!at(event)) return;
    chosen.token = Number(at(event).dataset.i);
    tell(chosen.token);
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { chosen.token = null; tell(null); }
    if (!step) return;
    event.preventDefault();
    move(step);
  });
  tell(chosen.token !== null && chosen.token < nodes.length ? chosen.token : null);
  const legend = make("p", "compare-note", make("span", "same-key same-right", "likelier under " + display(right.name)), " ",
    make("span", "same-key same-left", "likelier under " + display(left.name)));
  return [legend, box, tip, tokenTable(group, left, right, delta, apart)];
}

function tokenTable(group, left, right, delta, apart) {
  const details = make("details", "", make("summary", "", "The tokens that differ, as a table"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const rows = group.tokens.flatMap((text, i) => (apart[i] ? [[String(i + 1), displayWord(text),
      percent(Math.exp(-left.nats[i])), percent(Math.exp(-right.nats[i])), signed(delta[i])]] : []));
    details.append(table(["#", "token", display(left.name), display(right.name), "nats"], rows));
  });
  return details;
}

function table(names, rows) {
  const head = make("tr", "", ...names.map((name) => make("th", "", name)));
  const body = rows.map((row) => make("tr", "", ...row.map((cell) => make("td", "", cell))));
  return scrolls("the tokens that differ", make("div", "same-table", make("table", "", make("thead", "", head), make("tbody", "", ...body))));
}

// What has a scroll bar of its own can be scrolled from the keyboard.
function scrolls(label, node) {
  node.tabIndex = 0;
  node.setAttribute("role", "region");
  node.setAttribute("aria-label", label);
  return node;
}

// ---- neighbours

// key -> numbers of the windows that read it
function readers(setting) {
  const found = new Map();
  setting.read.forEach((keys, window) => keys.forEach((key) => found.set(key, [...(found.get(key) || []), window + 1])));
  return found;
}

// How many neighbours each two ways to read have in common; a click compares the two.
function overlaps(value) {
  const reading = value.settings.map((one, i) => [i, one, readers(one)]).filter(([, , found]) => found.size);
  if (reading.length < 3) return [];
  const names = reading.map(([, one]) => display(one.name));
  const body = reading.map(([i, , mine], row) => {
    const cells = reading.map(([j, , theirs]) => {
      const cell = make("td", "");
      if (i === j) return cell;
      const common = [...mine.keys()].filter((key) => theirs.has(key)).length;
      const pick = make("button", "", common + " of " + mine.size);
      pick.type = "button";
      pick.style.setProperty("--share", String(common / mine.size));
      pick.setAttribute("aria-pressed", String(chosen.left === i && chosen.right === j));
      pick.setAttribute("aria-label", common + " of the " + mine.size + " neighbours of " + display(value.settings[i].name) + " are also read by " + display(value.settings[j].name) + ": compare the two");
      pick.addEventListener("click", () => {
        Object.assign(chosen, { left: i, right: j, picked: true, token: null });
        show();
        holder.querySelector(".same-overlaps [aria-pressed=true]").focus();
      });
      cell.append(pick);
      return cell;
    });
    return make("tr", "", make("th", "", names[row]), ...cells);
  });
  const head = make("tr", "", make("th", "", "neighbours of ↓"), ...names.map((name) => make("th", "", "also read by " + name)));
  const grid = scrolls("neighbours in common", make("div", "same-table same-overlaps", make("table", "", make("thead", "", head), make("tbody", "", ...body))));
  return [make("h4", "", "Neighbours in common", make("span", "compare-by", "of each two ways to read; a click compares the two")), grid];
}

function neighbours(value) {
  const left = value.settings[chosen.left], right = value.settings[chosen.right];
  const [inLeft, inRight] = [readers(left), readers(right)];
  const both = [...inLeft.keys()].filter((key) => inRight.has(key));
  const lists = [
    ["In common", both, inLeft],
    ["Only " + display(left.name), [...inLeft.keys()].filter((key) => !inRight.has(key)), inLeft],
    ["Only " + display(right.name), [...inRight.keys()].filter((key) => !inLeft.has(key)), inRight],
  ].filter(([, keys], i) => keys.length || (i === 0 && inLeft.size && inRight.size));
  const box = make("div", "same-neighbours");
  box.style.setProperty("--columns", String(lists.length));
  if (!lists.length) box.append(make("p", "compare-none", "Neither of the two reads anything."));
  for (const [title, keys, where] of lists) {
    const list = scrolls(title, make("section", "", make("h5", "", title + " · " + keys.length)));
    if (!keys.length) list.append(make("p", "compare-none", "none"));
    for (const key of keys) list.append(card(value.neighbours[key], where.get(key)));
    box.append(list);
  }
  return box;
}

function card(item, windows) {
  const head = make("header", "", make("b", "", display(item.title)));
  const where = (item.source ? display(item.source) + " · " : "") + "read by window " + windows.join(", ");
  return make("article", "compare-neighbour", head, make("span", "compare-close", where), make("div", "compare-passage", displayToken(item.text)));
}

// ---- all of it

function show() {
  const value = given();
  if (!value || !Array.isArray(value.settings) || !value.settings.length) {
    const words = value && value.busy ? "Reading…" : "Nothing to show yet: give a text, choose ways to read it and press Read.";
    holder.replaceChildren(make("p", "compare-empty", words));
    return;
  }
  choose(value);
  const nodes = [];
  if (value.title) nodes.push(make("p", "compare-title", display(value.title)));
  if (value.headline) nodes.push(make("p", "compare-headline", display(value.headline)));
  const head = make("h4", "", "How well the model expected this text", make("span", "compare-by", scale(value)));
  nodes.push(head, bars(value), ...sides(value), ...value.notes.map((note) => make("p", "compare-note", display(note))));
  if (value.settings.length > 1) {
    const pair = make("div", "same-pair", selector("Compare", "left", value), selector("with", "right", value));
    nodes.push(make("h4", "", "Token by token"), pair, ...tokens(value));
    nodes.push(make("h4", "", "What the two read"), neighbours(value), ...overlaps(value));
  }
  holder.replaceChildren(...nodes);
}

watch("value", show);
show();
