// The picker: every head in small, one row for each layer. Click shows one, shift and click the mean of several.

const overviews = new Map(); // all heads in small, by trace and chunk

function drawPicker() {
  const picker = part("picker");
  const { cca_layers: layers, heads } = view.trace.model;
  const offered = Boolean(chunkNow() && chunkNow().attention) && layers.length * heads <= 1024;
  picker.hidden = !offered;
  const key = JSON.stringify([layers, heads]);
  if (picker.dataset.key !== key) {
    picker.dataset.key = key;
    picker.replaceChildren(group("", [pick("mean of all", null, null)]));
    layers.forEach((layer, l) => {
      const buttons = [pick("all heads", l, null)];
      for (let head = 0; head < heads; head++) buttons.push(pick(String(head + 1), l, head));
      picker.append(group("layer " + layer, buttons));
    });
  }
  const chosen = new Set(view.heads.length ? view.heads.map(String) : [","]);
  for (const button of picker.querySelectorAll("button")) {
    const on = chosen.has(String(headOf(button)));
    button.setAttribute("aria-pressed", String(on));
    button.tabIndex = -1;
  }
  const first = picker.querySelector("[aria-pressed=true]") || picker.querySelector("button");
  if (first) first.tabIndex = 0;
  if (offered) drawHeads();
}

function group(label, buttons) {
  const name = label ? make("span", "lens-layer", make("span", "lens-label", label), make("span", "lens-layer-write")) : null;
  return make("span", "lens-group", name, ...buttons);
}

function pick(label, layer, head) {
  const button = make("button", "lens-pick", make("span", "", label));
  button.type = "button";
  button.dataset.layer = String(layer);
  button.dataset.head = String(head);
  if (layer !== null) button.setAttribute("aria-label", "layer " + view.trace.model.cca_layers[layer] + (head === null ? ", all heads" : ", head " + (head + 1)));
  if (head !== null) button.prepend(make("canvas", "lens-thumb"), make("i", "lens-focus", make("i", "")));
  return button;
}

function headOf(button) {
  return ["layer", "head"].map((name) => (button.dataset[name] === "null" ? null : Number(button.dataset[name])));
}

function chooseHead(button, more) {
  const [layer, head] = headOf(button);
  if (layer === null) view.heads = [];
  else if (!more) view.heads = [[layer, head]];
  else {
    const rest = view.heads.filter((one) => String(one) !== String([layer, head]));
    view.heads = rest.length < view.heads.length ? rest : [...view.heads, [layer, head]];
  }
  drawPicker();
  button.focus({ preventScroll: true });
  remap();
}

// The thumbnails come after the page: one small answer for each chunk.
async function drawHeads() {
  const source = mapSource();
  const chunk = source.chunks[view.chunk];
  drawLayerWrites();
  if (!chunk || !chunk.attention || !isFinished(view.base)) return;
  const key = source.id + "/" + chunk.index;
  if (!overviews.has(key)) {
    if (overviews.size > 60) overviews.clear();
    overviews.set(key, answerOf(server.heads({ trace: source.id, chunk: chunk.index })));
  }
  const found = await overviews.get(key);
  if (found.error) overviews.delete(key); // the next time it is asked for again
  if (found.error || mapSource() !== source || view.chunk !== chunk.index) return;
  const binary = atob(found.data);
  const { low, high } = colours();
  const size = found.rows * found.cols;
  for (const button of part("picker").querySelectorAll(".lens-pick")) {
    const [layer, head] = headOf(button);
    if (head === null || layer >= found.layers || head >= found.heads) continue;
    const canvas = button.querySelector("canvas");
    canvas.width = found.cols;
    canvas.height = found.rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(found.cols, found.rows);
    const start = (layer * found.heads + head) * size;
    for (let i = 0; i < size; i++) {
      const share = strength(binary.charCodeAt(start + i), 255);
      for (let c = 0; c < 3; c++) image.data[i * 4 + c] = low[c] + (high[c] - low[c]) * share;
      image.data[i * 4 + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    const focus = found.focus[layer][head];
    button.querySelector(".lens-focus i").style.width = percentWidth(focus);
    button.title = "Focus " + Math.round(focus * 100) + " %: 100 where each token looks at one place alone, 0 where it looks at all alike. Shift and click takes the mean of several.";
  }
}

function percentWidth(share) {
  return Math.round(Math.max(0, Math.min(1, share)) * 100) + "%";
}

// How loudly each layer speaks in this window, beside its heads.
function drawLayerWrites() {
  const chunk = chunkNow();
  const tokens = chunk ? view.trace.tokens.slice(...chunk.read).filter((token) => token.write) : [];
  part("picker").querySelectorAll(".lens-layer-write").forEach((label, l) => {
    const strength = mean(tokens.map((token) => token.write[l] ?? 0));
    label.textContent = strength === null ? "" : "writes " + strength.toFixed(2);
    label.title = "Mean write strength in this window: what cross-attention adds, relative to the state it is added to.";
  });
}
