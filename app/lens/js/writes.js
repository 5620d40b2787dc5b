// Write strength: how much each layer's cross-attention adds to each reading token. Made when opened.

function drawWrites() {
  const details = part("writes");
  const body = part("writes-body");
  body.replaceChildren();
  const chunk = chunkNow();
  if (!details.open) return;
  const tokens = chunk ? view.trace.tokens.slice(...chunk.read) : [];
  const layers = view.trace.model.cca_layers;
  if (!tokens.some((token) => token.write && token.write.length)) {
    body.append(make("p", "lens-hint", "Nothing was read in this chunk, or its write strength was not measured."));
    return;
  }
  const largest = Math.max(...tokens.flatMap((token) => token.write || [0]));
  layers.forEach((layer, l) => {
    const values = tokens.map((token) => (token.write ? token.write[l] ?? 0 : 0));
    const image = svg("svg", { viewBox: "0 0 " + tokens.length + " 30", preserveAspectRatio: "none", class: "lens-write-bars" });
    image.append(svg("title", {}));
    image.firstChild.textContent = "Layer " + layer + ": " + values.map((value) => value.toFixed(2)).join(", ");
    values.forEach((value, i) => {
      const height = (value / largest) * 29;
      image.append(svg("rect", { x: i + 0.08, y: 30 - height, width: 0.84, height, "data-i": chunk.read[0] + i }));
    });
    body.append(make("div", "lens-write", make("span", "lens-label", "layer " + layer), image, make("span", "lens-num", "mean " + mean(values).toFixed(2))));
  });
  body.append(make("p", "lens-hint", "How long the vector is that cross-attention adds to each token's state, relative to that state. Attention says where a layer looked; this says how loudly it speaks. Hover a bar to find its token."));
}

part("writes").addEventListener("toggle", () => view.trace && drawWrites());
part("writes-body").addEventListener("pointerover", (event) => {
  const i = numberOf(event.target, "i");
  if (i === null) return;
  view.hover = i;
  repaintSoon();
});
part("writes-body").addEventListener("pointerleave", () => {
  view.hover = null;
  repaintSoon();
});
