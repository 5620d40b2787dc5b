// Lesson: one chunk asks, the next one reads; one position earlier than one would think.

LENSES.windows = (data) => {
  const { size } = data;
  const rows = Math.ceil(data.tokens.length / size);
  const cells = data.tokens.map((text, i) => make("i", i < data.pad ? "learn-void" : ""));
  const grid = make("div", "learn-grid");
  grid.setAttribute("aria-hidden", "true"); // the sentences say it
  for (let row = 0; row < rows; row++) {
    const line = cells.slice(row * size, (row + 1) * size);
    grid.append(make("span", "learn-row-name", "chunk " + (row + 1)), make("div", "learn-row", ...line));
  }
  const said = sentence(), asks = make("p", "learn-passage learn-asks"), reads = make("p", "learn-passage learn-reads");

  function show(u) {
    const { ask, read, found } = data.chunks[u];
    cells.forEach((cell, i) => {
      cell.classList.toggle("learn-asking", i >= ask[0] && i < ask[1] && i >= data.pad);
      cell.classList.toggle("learn-reading", i >= read[0] - 1 && i < read[1] - 1);
    });
    const of = (span) => display(data.tokens.slice(Math.max(span[0], data.pad), span[1]).join(""));
    said.textContent = "Chunk " + (u + 1) + " asked and found " + found.map(display).join(" and ") + ". It is read from the last square of chunk " + (u + 1) + " on.";
    asks.replaceChildren(make("b", "", "asks "), shorten(of(ask), 110));
    const words = of(read).replace(/\s+/g, " ").trim();
    reads.replaceChildren(make("b", "", "reads, and so writes "), words.length > 110 ? words.slice(0, 110) + " …" : words);
  }

  const moved = slider("Chunk that asks", data.chunks.length, 0, show);
  show(0);
  return make("div", "", moved.element, grid, said, asks, reads);
};
