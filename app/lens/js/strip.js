// Film strip, story line and stage.

function drawStrip() {
  const strip = part("strip");
  const { chunks } = view.trace;
  while (strip.children.length > chunks.length) strip.lastChild.remove();
  chunks.forEach((chunk, index) => {
    let card = strip.children[index];
    if (!card) {
      card = make("button", "lens-card-tab", make("span", "lens-tab-title"), make("span", "lens-spark"), make("span", "lens-tab-gain"));
      card.type = "button";
      card.id = uid + "-c" + index;
      card.setAttribute("role", "tab");
      card.dataset.chunk = index;
      strip.append(card);
    }
    const [title, spark, gain] = card.children;
    title.textContent = "Chunk " + (index + 1) + " → " + (index + 2);
    spark.replaceChildren(sparkline(chunk));
    const stage = stageOf(index);
    gain.textContent = stage ? stage + "…" : gainBefore(index) || gainText(chunk);
    card.classList.toggle("lens-busy", Boolean(stage));
    card.setAttribute("aria-label", "Chunk " + (index + 1) + " asked, chunk " + (index + 2) + " read: " + gain.textContent);
    const selected = index === view.chunk;
    card.setAttribute("aria-selected", String(selected));
    card.tabIndex = selected ? 0 : -1;
  });
}

function stageOf(index) {
  const status = view.trace.status;
  if (!status || status.chunk !== index) return "";
  return ["retrieving", "reading", "writing"].includes(status.stage) ? status.stage : "";
}

function gainText(chunk) {
  if (!rangeLength(chunk.read)) return "nothing read yet";
  if (!chunk.neighbours.length) return "found nothing";
  return known(chunk.gain) ? signed(chunk.gain) + " nats/token" : rangeLength(chunk.read) + " tokens";
}

// "+1.90 → −0.05 nats", where a change made another of it.
function gainBefore(index) {
  const { change, chunks } = view.trace;
  const before = lpBefore() && change.before.gain[index];
  const now = chunks[index].gain;
  return known(before) && known(now) && Math.abs(before - now) > 0.005 ? signed(before) + " → " + signed(now) + " nats" : "";
}

// Bars up in orange where retrieval helped, down in blue where it hurt: sign is position as well as hue.
function sparkline(chunk) {
  const tokens = view.trace.tokens.slice(chunk.read[0], chunk.read[1]);
  const size = Math.max(view.trace.model.chunk_size, tokens.length, 1);
  const paths = { up: "", down: "" };
  tokens.forEach((token, i) => {
    const gain = gainOf(token);
    if (gain === null) return;
    const height = (Math.min(1, Math.abs(gain) / FULL_GAIN) * 10).toFixed(1);
    const x = ((i / size) * 120).toFixed(1);
    const width = (120 / size * 0.86).toFixed(2);
    if (gain > 0) paths.up += "M" + x + " 12h" + width + "v-" + height + "h-" + width + "z";
    else paths.down += "M" + x + " 12h" + width + "v" + height + "h-" + width + "z";
  });
  const image = svg("svg", { viewBox: "0 0 120 24", preserveAspectRatio: "none", "aria-hidden": "true" });
  image.append(svg("path", { d: "M0 12H120", class: "lens-zero" }));
  if (paths.up) image.append(svg("path", { d: paths.up, class: "lens-up" }));
  if (paths.down) image.append(svg("path", { d: paths.down, class: "lens-down" }));
  return image;
}

function drawStory() {
  const story = part("story");
  const chunk = chunkNow();
  story.replaceChildren();
  if (!chunk) {
    story.textContent = view.trace.retrieval
      ? "No retrieval yet: the first chunk has nothing to ask with."
      : "Retrieval is off: the model writes from memory alone, so there is nothing to ask, find or read.";
    return;
  }
  const number = chunk.index + 1;
  const step = (name, ...rest) => make("span", "lens-step", make("b", "", name), " ", ...rest);
  story.append(step("Chunk " + number + " asked", "“" + shorten(chunk.query, 110) + "”"));
  const count = chunk.neighbours.length;
  const where = view.trace.datastore ? " in " + display(view.trace.datastore.name) : "";
  const busy = stageOf(view.chunk);
  if (busy === "retrieving") {
    story.append(step("looking", "for neighbours" + where + "…"));
    return;
  }
  if (!count) {
    story.append(step("found", "nothing" + where + ", so chunk " + (number + 1) + " is written from memory"));
    return;
  }
  const took = chunk.seconds && known(chunk.seconds.retrieve) ? " in " + Math.max(1, Math.round(chunk.seconds.retrieve * 1000)) + " ms" : "";
  story.append(step("found", count + (count === 1 ? " neighbour" : " neighbours") + where + took));
  const reading = rangeLength(chunk.read);
  if (!reading) {
    story.append(step("read", "by nothing yet: the text ends before chunk " + (number + 1)));
    return;
  }
  const effect = known(chunk.gain) ? ": " + signed(chunk.gain) + " nats per token, " + verdict(chunk.gain) : "";
  const longest = known(chunk.overlap) ? Math.round(chunk.overlap * reading) : 0;
  const shared = longest > 2 ? "; " + longest + " of them in a row also stand in a neighbour" : "";
  story.append(step("read", "by the next " + reading + (reading === 1 ? " token" : " tokens") + effect + shared));
  const warning = farWarning(chunk);
  if (warning) story.append(make("span", "lens-warning", warning));
}

// By how far the datastore's own chunks are from each other; where nobody knows, by the distance alone.
function farWarning(chunk) {
  const measured = chunk.neighbours.filter((card) => known(card.distance));
  if (!measured.length) return "";
  const nearest = measured.reduce((a, b) => (b.distance < a.distance ? b : a));
  const share = farOf(chunk.index, nearest.rank - 1);
  const words = known(share) ? farText(share) : nearest.distance > 1 ? "nearer to 2 (unrelated) than to 0 (the same)" : "";
  return words ? "⚠ No close neighbour: the nearest, L2 " + nearest.distance.toFixed(2) + ", is " + words + ". Expect little help." : "";
}

// What made this text, in a line.
function facts({ model, datastore, retrieval, sampling = {}, tokens, prompt_tokens: given }) {
  const parts = ["model " + model.name, retrieval && datastore ? "datastore " + datastore.name : "retrieval off"];
  const written = tokens.length - given;
  parts.push(written ? written + " tokens written" : given + " tokens scored, none written");
  if (written) for (const name of ["temperature", "seed"]) if (known(sampling[name])) parts.push(name + " " + Number(sampling[name].toFixed(2)));
  return display(parts.join(" · "));
}

function drawStage() {
  const { trace } = view;
  const status = trace.status;
  const running = status && !["done", "stopped", "cut off"].includes(status.stage);
  part("title").textContent = display(trace.title || (running ? "Your prompt" : "Your prompt, continued"));
  part("intro").hidden = !String(trace.id).startsWith("recorded-");
  part("intro").textContent = trace.retrieval ? "This model looked things up while it wrote. Hover any word." : "Hover any word.";
  part("stage").textContent = status ? display(status.text || status.stage) : facts(trace);
  part("stage").classList.toggle("lens-running", Boolean(running));
  root.setAttribute("aria-busy", String(Boolean(running)));
}
