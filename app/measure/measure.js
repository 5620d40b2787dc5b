// value: {shown, beside}; see app/tabs/measure_view.py. Nothing here needs the model: all answers are in the value.
const holder = element.querySelector(".measure");
const chosen = { id: null, probe: 0, scale: "bpb", alpha: null };
let figures = [];
let drawnAt = 0;

function span(interval, write) {
  return interval ? " [" + interval.map(write).join(", ") + "]" : "";
}

function digits(value) {
  if (!known(value)) return "–";
  return value >= 100 ? value.toFixed(1) : value.toFixed(value < 10 ? 3 : 2);
}

function whole(value) {
  return Math.round(value).toLocaleString("en");
}

function note(words, className) {
  return make("p", className || "measure-note", words);
}

// A colour of a picture and what it stands for, never parted.
function key(kind, words) {
  return make("span", "", make("i", "measure-key measure-" + kind), words);
}

function card(title, words, ...content) {
  return make("section", "measure-card", make("h3", "", title), words ? note(words) : null, ...content);
}

function table(label, names, rows, words) {
  const number = (cell) => typeof cell === "string" && /^[-+−[]?[-+−\d.]|^–$/.test(cell);
  const cells = (row) => row.map((cell) => (cell instanceof Node ? make("td", "", cell) : make("td", number(cell) ? "measure-number" : "", cell)));
  const head = make("tr", "", ...names.map((name) => make("th", "", name)));
  const box = make("div", "measure-table", make("table", "", make("thead", "", head), make("tbody", "", ...rows.map((row) => make("tr", "", ...cells(row))))));
  box.tabIndex = 0; // what has a scroll bar of its own can be scrolled from the keyboard
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", label);
  return make("details", "measure-fold", make("summary", "", words || "The numbers"), box);
}

function picture(figure) {
  figures.push(figure);
  return figure;
}

// ---- what retrieval is worth

function verdictOf(bar) {
  if (!bar.ratio_ci95) return bar.ratio < 1 ? "better, how sure cannot be said" : "worse, how sure cannot be said";
  if (bar.ratio_ci95[1] < 1) return "helps";
  return bar.ratio_ci95[0] > 1 ? "hurts" : "no sure difference";
}

function toneOf(bar) {
  if (bar.key === "off") return "off";
  const verdict = verdictOf(bar);
  return verdict === "helps" ? (bar.key === "on" ? "helped" : "helped measure-other") : verdict === "hurts" ? "hurt" : "unsure";
}

function bars(probe, words) {
  const scale = chosen.scale === "bpb" && !probe.bars.every((bar) => known(bar.bpb)) ? "perplexity" : chosen.scale;
  const ends = (bar) => bar[scale + "_ci95"];
  const most = Math.max(...probe.bars.map((bar) => (ends(bar) ? ends(bar)[1] : bar[scale]))) * 1.02;
  const list = make("div", "measure-bars");
  list.setAttribute("role", "list");
  for (const bar of probe.bars) {
    const fill = make("i", "measure-" + toneOf(bar));
    fill.style.width = (bar[scale] / most) * 100 + "%";
    const track = make("span", "measure-track", fill);
    if (ends(bar)) {
      const whisker = make("em", "");
      whisker.style.left = (ends(bar)[0] / most) * 100 + "%";
      whisker.style.width = ((ends(bar)[1] - ends(bar)[0]) / most) * 100 + "%";
      track.append(whisker);
    }
    const value = make("span", "measure-value", make("b", "", digits(bar[scale])), span(ends(bar), digits));
    const more = known(bar.ratio) ? make("span", "measure-more",
      "perplexity × " + bar.ratio.toFixed(3) + span(bar.ratio_ci95, (end) => end.toFixed(3)) + " of Off: " + verdictOf(bar)) : null;
    const row = make("div", "measure-bar", make("span", "measure-name", bar.name), track, value, more);
    row.setAttribute("role", "listitem");
    list.append(row);
  }
  const choices = [["bpb", "Bits per byte"], ["perplexity", "Perplexity"]].map(([key, name]) => {
    const button = make("button", "", name);
    button.type = "button";
    button.setAttribute("aria-pressed", String(scale === key));
    button.addEventListener("click", () => {
      chosen.scale = key;
      show();
      [...holder.querySelectorAll(".measure-scale button")].find((other) => other.textContent === name)?.focus();
    });
    return button;
  });
  return card("How well it expected the text", words[scale] + " " + words.interval, make("div", "measure-scale", ...choices), list);
}

function worse(probe, words) {
  const share = make("div", "measure-share");
  for (const [part, tone, name] of [[1 - probe.worse, "helped", "likelier by reading, or the same"], [probe.worse, "hurt", "less likely by reading"]]) {
    const piece = make("span", "measure-" + tone, percent(part));
    piece.style.flexGrow = String(part);
    share.append(piece);
    piece.title = name + ": " + percent(part);
  }
  const legend = make("p", "measure-legend", key("helped", "likelier by reading, or the same"), key("hurt", "less likely by reading"));
  return card(percent(probe.worse) + " of the tokens were made worse", words.worse, share, legend);
}

// ---- the fact swap

function swap(value, words) {
  const rows = value.rows.map((row) => {
    const parts = [...row.says.map((share, i) => [share, i, "writes the value of " + value.names[i]]), [row.neither, -1, "writes neither"]];
    const bar = make("div", "measure-share");
    for (const [share, i, name] of parts) {
      if (share <= 0) continue;
      const piece = make("span", i < 0 ? "measure-unsure" : "measure-book-" + i, share < 0.08 ? "" : percent(share));
      piece.style.flexGrow = String(share);
      piece.title = name + ": " + percent(share);
      bar.append(piece);
    }
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", parts.map(([share, , name]) => name + ": " + percent(share)).join(", "));
    return make("div", "measure-swap", make("span", "measure-name", "reads " + row.reads), bar);
  });
  const legend = make("p", "measure-legend");
  value.names.forEach((name, i) => legend.append(key("book-" + i, "writes what " + name + " says")));
  legend.append(key("unsure", "neither"));
  const headline = "With each book its own value: " + percent(value.swaps.value) + span(value.swaps.ci95, percent) + " of " + whole(value.count) +
    " prompts about " + value.countries + " countries. Its own value is the likelier one: " + percent(value.prefers.value) + ".";
  const names = ["prompt", ...value.rows.map((row) => "reads " + row.reads)];
  return card("Another book, other facts", words.swap, note(headline, "measure-strong"), ...rows, legend,
    table("whose value it writes", ["", ...value.names.map((name) => "writes what " + name + " says"), "neither"],
      value.rows.map((row) => ["reads " + row.reads, ...row.says.map(percent), percent(row.neither)])),
    table("fields", ["field", "prompts", "swap"], value.fields.map(([field, count, share]) => [display(field), whole(count), percent(share)]), "By field"),
    value.examples.length ? table("examples", names, value.examples.map((row) => row.map((cell) => display(cell))), "Examples") : null);
}

// ---- is it copying

function alphaOf(point) {
  return short(100 * point.alpha) + " %";
}

function leakage(probe, words) {
  const points = probe.leakage.filter((point) => known(point.on) && known(point.off));
  if (points.length < 2) return null;
  const all = points[points.length - 1];
  const at = (point) => 100 * point.alpha;
  const line = (key, name, tone) => ({ name, tone, points: points.map((point) => ({
    x: at(point), y: point[key], low: point[key + "_ci95"]?.[0], high: point[key + "_ci95"]?.[1],
    words: name + ", α " + alphaOf(point) + ": " + digits(point[key]) + span(point[key + "_ci95"], digits) + " bits per byte" })) });
  const figure = picture(chart({
    label: "Bits per byte with retrieval and without, over chunks that share at most α with a neighbour",
    x: { label: "α: longest run shared, at most (% of a chunk)", ticks: points.map((point) => [at(point), short(at(point))]) },
    y: { label: "bits per byte" }, joined: true, lines: [line("off", "Off", "off"), line("on", "On", "helped")],
    bars: points.map((point) => [at(point), point.chunks]), mark: at(all),
  }));
  const slider = make("input", "");
  Object.assign(slider, { type: "range", min: "0", max: String(points.length - 1), step: "1" });
  const place = chosen.alpha === null ? -1 : points.findIndex((point) => point.alpha === chosen.alpha);
  slider.value = String(place < 0 ? points.length - 1 : place);
  const told = make("output", "measure-told");
  told.setAttribute("aria-live", "polite");
  const gain = (point) => point.off - point.on;
  function tell() {
    const point = points[Number(slider.value)];
    chosen.alpha = point.alpha;
    figure.mark(at(point));
    slider.setAttribute("aria-valuetext", "α " + alphaOf(point));
    const left = gain(all) > 0 ? " That is " + percent(Math.max(0, gain(point) / gain(all))) + " of the whole gain." : "";
    const few = point.chunks < 50 ? " So few chunks are a sketch only." : "";
    told.replaceChildren(make("b", "", "α ≤ " + alphaOf(point)),
      ": On " + digits(point.on) + ", Off " + digits(point.off) + " bits per byte, over " + whole(point.chunks) + " of " + whole(all.chunks) +
      " chunks. Reading " + (gain(point) >= 0 ? "saves " : "costs ") + digits(Math.abs(gain(point))) + " bits a byte there." + (point === all ? "" : left) + few);
  }
  slider.addEventListener("input", tell);
  tell();
  const legend = make("p", "measure-legend", key("helped", "On"), key("off", "Off"));
  const rows = points.map((point) => [alphaOf(point), whole(point.chunks), digits(point.on) + span(point.on_ci95, digits), digits(point.off) + span(point.off_ci95, digits), signed3(gain(point))]);
  return card("How much is copied?", words.leakage, make("label", "measure-slider", "α ", slider), told, legend, figure,
    table("bits per byte by α", ["α", "chunks", "On [95 %]", "Off [95 %]", "saved"], rows));
}

function signed3(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
}

// ---- where it helps

function relation(probe, what, title, words, axis, scale) {
  const found = probe.relations[what];
  if (!found || !found.bins.length) return null;
  const column = what === "overlap" ? 0 : 1;
  const dots = probe.points.filter((point) => known(point[column])).map((point) => [scale * point[column], point[2]]);
  const points = found.bins.map((bin) => ({ x: scale * bin.x, y: bin.mean, low: bin.ci95?.[0], high: bin.ci95?.[1],
    words: short(scale * bin.low) + " to " + short(scale * bin.high) + ": " + signed3(bin.mean) + span(bin.ci95, signed3) + " nats a token, " + whole(bin.items) + " chunks" }));
  const figure = picture(chart({ label: title, x: { label: axis }, y: { label: "gain, nats a token" }, zero: true,
    lines: [{ name: "gain", tone: "sign", points }], dots }));
  const rho = known(found.spearman) ? "Spearman’s ρ = " + signed(found.spearman) + span(found.spearman_ci95, signed) + " over " + whole(found.chunks) + " chunks." : "";
  const rows = found.bins.map((bin) => [short(scale * bin.low) + "–" + short(scale * bin.high), signed3(bin.mean), span(bin.ci95, signed3).trim() || "–", whole(bin.items)]);
  return card(title, words[what], rho ? note(rho, "measure-strong") : null, note(words.spearman), figure,
    table(title, [axis, "gain, nats a token", "95 %", "chunks"], rows));
}

function swept(points, title, words, axis, log) {
  if (points.length < 2) return null;
  const gains = points.map((point) => ({ x: point.x, y: -point.y, low: point.ci95 && -point.ci95[1], high: point.ci95 && -point.ci95[0],
    note: known(point.recall) ? percent(point.recall) : "", words: short(point.x) + ": " + signed3(-point.y) + " nats a token" + (known(point.recall) ? ", recall " + percent(point.recall) : "") }));
  const figure = picture(chart({ label: title, x: { label: axis, log }, y: { label: "gain, nats a token" }, zero: true, joined: true,
    lines: [{ name: "gain", tone: "sign", points: gains }] }));
  const recall = points.some((point) => known(point.recall));
  const rows = points.map((point) => [whole(point.x), ...(recall ? [percent(point.recall)] : []), signed3(-point.y),
    point.ci95 ? span([-point.ci95[1], -point.ci95[0]], signed3).trim() : "–", point.ratio.toFixed(3), percent(point.worse)]);
  return card(title, words, figure,
    table(title, [axis, ...(recall ? ["recall"] : []), "gain", "95 %", "perplexity ÷ Off’s", "tokens worse"], rows));
}

// ---- the index, comparators, documents

function index(found, words) {
  const rows = found.found.map((one) => {
    const fill = make("i", "measure-teal");
    fill.style.width = one.recall_at_10 * 100 + "%";
    const name = one.lists ? one.name + ", " + whole(one.nprobe) + " of " + whole(one.lists) + " lists" : one.name + ": all compared";
    return [name, make("span", "measure-recall", make("span", "measure-track", fill), percent(one.recall_at_10)), percent(one.recall_at_2),
      one.ms.toFixed(2), one.ms_95th.toFixed(2), whole(one.bytes_per_vector)];
  });
  const box = table("indexes", ["way to search", "recall@10", "recall@2", "ms a query", "95 % within", "bytes a vector"], rows, "The indexes, " + whole(found.vectors) + " chunks, " + whole(found.queries) + " queries");
  box.open = true;
  return make("section", "measure-card", make("h3", "", "What an index finds, and how quickly"), note(words.index), box);
}

function comparators(rows, words) {
  const cells = rows.map((row) => [row.name, signed3(-row.minus_off), row.ci95 ? span([-row.ci95[1], -row.ci95[0]], signed3).trim() : "–", row.ratio.toFixed(3), percent(row.worse), known(row.read) ? row.read.toFixed(1) : "–"]);
  const box = table("other ways", ["way", "gain, nats a token", "95 %", "perplexity ÷ Off’s", "tokens worse", "tokens read for one"], cells);
  box.open = true;
  return make("section", "measure-card", make("h3", "", "Other ways to use the same datastore"), note(words.comparators), box);
}

function documents(probe, words) {
  const most = Math.max(...probe.list.map((row) => Math.abs(row[4])), 1e-6);
  const rows = probe.list.map(([title, tokens, on, off, gain]) => {
    const fill = make("i", gain < 0 ? "measure-hurt" : "measure-helped");
    fill.style.width = (Math.abs(gain) / most) * 50 + "%";
    fill.style.left = gain < 0 ? 50 - (Math.abs(gain) / most) * 50 + "%" : "50%";
    return [display(title), whole(tokens), on.toFixed(3), off.toFixed(3), make("span", "measure-recall", make("span", "measure-track measure-both", fill), signed3(gain))];
  });
  const better = probe.list.filter((row) => row[4] > 0).length;
  const words2 = better + " of " + probe.list.length + " documents are better with retrieval";
  return make("section", "measure-card", make("h3", "", "Document by document"), note(words.documents),
    table("documents", ["document", "tokens", "On", "Off", "gain"], rows, words2));
}

// ---- beside each other

function beside(value) {
  if (!value || !value.rows.length) return null;
  const most = Math.max(1.05, ...value.rows.map((row) => (row.ratio_ci95 ? row.ratio_ci95[1] : row.ratio))) * 1.02;
  const list = make("div", "measure-bars");
  list.setAttribute("role", "list");
  for (const row of value.rows) {
    const sure = row.ratio_ci95 && (row.ratio_ci95[1] < 1 || row.ratio_ci95[0] > 1);
    const fill = make("i", "measure-" + (!sure ? "unsure" : row.ratio < 1 ? "helped" : "hurt"));
    fill.style.width = (row.ratio / most) * 100 + "%";
    const one = make("s", "");
    one.style.left = (1 / most) * 100 + "%";
    const track = make("span", "measure-track", fill, one);
    if (row.ratio_ci95) {
      const whisker = make("em", "");
      whisker.style.left = (row.ratio_ci95[0] / most) * 100 + "%";
      whisker.style.width = ((row.ratio_ci95[1] - row.ratio_ci95[0]) / most) * 100 + "%";
      track.append(whisker);
    }
    const entry = make("div", "measure-bar", make("span", "measure-name", display(row.title), make("small", "", display(row.probe))), track,
      make("span", "measure-value", make("b", "", row.ratio.toFixed(3)), span(row.ratio_ci95, (end) => end.toFixed(3))),
      make("span", "measure-more", "On " + digits(row.on) + ", Off " + digits(row.off) + " bits per byte · " + percent(row.worse) + " of tokens worse · " + whole(row.documents) + " documents, " + whole(row.tokens) + " tokens"));
    entry.setAttribute("role", "listitem");
    list.append(entry);
  }
  return make("section", "measure-card", make("h3", "", "Side by side: perplexity with retrieval ÷ without"),
    note("Left of the mark at 1 retrieval helps. " + value.note), list);
}

// ---- all of it

function probeChoice(value) {
  if (value.probes.length < 2) return null;
  const row = make("div", "measure-probes");
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", "Held-out text");
  value.probes.forEach((probe, i) => {
    const button = make("button", "", make("b", "", display(probe.name)), make("small", "", whole(probe.documents) + " documents"));
    button.type = "button";
    button.setAttribute("aria-pressed", String(i === chosen.probe));
    button.addEventListener("click", () => {
      chosen.probe = i;
      show();
      holder.querySelectorAll(".measure-probes button")[i]?.focus();
    });
    row.append(button);
  });
  return row;
}

function cards(probe, words) {
  const found = [];
  if (probe.bars.length) found.push(bars(probe, words));
  if (known(probe.worse)) found.push(worse(probe, words));
  found.push(leakage(probe, words),
    relation(probe, "overlap", "Gain against shared words", words, "longest shared run, % of the chunk", 100),
    relation(probe, "distance", "Gain against closeness", words, "squared distance of the nearest neighbour", 1),
    swept(probe.k, "Number of neighbours", words.k, "neighbours for each chunk (k)", true),
    swept(probe.size, "Size of the datastore", words.size, "chunks of the datastore", true),
    swept(probe.nprobe, "A search that misses some", words.nprobe, "lists that a search reads", true));
  return found.filter(Boolean);
}

function wideCards(probe, words) {
  return [probe.index && index(probe.index, words), probe.comparators.length ? comparators(probe.comparators, words) : null,
    probe.list.length > 1 ? documents(probe, words) : null].filter(Boolean);
}

function show() {
  const value = given()?.shown;
  const other = beside(given()?.beside);
  figures = [];
  if (!value) {
    holder.replaceChildren(...(other ? [other] : []), note(given()?.empty || "Nothing was measured yet. Press Measure.", "measure-empty"));
    return;
  }
  if (chosen.id !== value.id) Object.assign(chosen, { id: value.id, probe: 0, alpha: null });
  chosen.probe = Math.min(chosen.probe, Math.max(0, value.probes.length - 1));
  const probe = value.probes[chosen.probe];
  // What was unfolded stays so when a part more is drawn.
  const named = (summary) => (summary.closest(".measure-card")?.querySelector("h3")?.textContent || "") + summary.textContent;
  const open = new Set([...holder.querySelectorAll("details[open] > summary")].map(named));
  const nodes = [make("h2", "", display(value.title)), note(display(value.about))];
  if (value.headline.length) nodes.push(make("div", "measure-headline", ...value.headline.map((words, i) => make("p", i ? "" : "measure-strong", display(words)))));
  if (other) nodes.push(other);
  if (value.swap) nodes.push(swap(value.swap, value.words));
  nodes.push(probeChoice(value));
  if (probe) {
    if (probe.documents) nodes.push(note(display(probe.name) + ": " + whole(probe.documents) + " documents, " + whole(probe.tokens) + " tokens that count."));
    nodes.push(make("div", "measure-cards", ...cards(probe, value.words)), ...wideCards(probe, value.words));
    if (probe.skipped.length) nodes.push(note("Not measured: " + probe.skipped.map(([part, why]) => part + " (" + display(why) + ")").join("; ")));
  }
  if (value.busy) nodes.push(note("More comes as it is measured.", "measure-busy"));
  if (value.how.length) {
    const command = value.command ? make("pre", "", display(value.command)) : null;
    nodes.push(make("details", "measure-fold", make("summary", "", "How this was measured"), make("ul", "", ...value.how.map((words) => make("li", "", display(words)))), command));
  }
  holder.replaceChildren(...nodes.filter(Boolean));
  for (const summary of holder.querySelectorAll("details > summary")) if (open.has(named(summary))) summary.parentElement.open = true;
  drawnAt = 0;
  draw();
}

// Pictures are as wide as their card; a tab that is not open has no width.
function draw() {
  const width = holder.clientWidth;
  if (!width || width === drawnAt) return;
  drawnAt = width;
  for (const figure of figures) figure.draw(Math.max(240, figure.parentElement.clientWidth - 28));
}

new ResizeObserver(draw).observe(holder);
watch("value", show);
show();
