// The map's twin for eyes and tools that prefer a table. Made when opened.

function drawRaw() {
  const details = part("raw");
  const body = part("raw-body");
  const chunk = chunkNow();
  body.replaceChildren();
  if (!details.open) return;
  if (!chunk || !rangeLength(chunk.read)) {
    body.append(make("p", "lens-hint", "Nothing was read in this chunk, so there are no values."));
    return;
  }
  const rows = tableRows(chunk);
  const table = make("table", "");
  const headings = rows.shift().map((text) => {
    const cell = make("th", "", text);
    cell.scope = "col";
    return cell;
  });
  table.append(make("thead", "", make("tr", "", ...headings)));
  table.append(make("tbody", "", ...rows.map((row) => make("tr", "", ...row.map((text) => make("td", "", text))))));
  const copy = make("button", "lens-copy", "Copy the whole map (tab-separated)");
  copy.type = "button";
  copy.disabled = !view.map;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(wholeMap(chunk));
    copy.textContent = "Copied";
  });
  const scrolled = make("div", "lens-table", table);
  scrolled.tabIndex = 0; // the arrow keys scroll it
  scrolled.setAttribute("role", "region");
  scrolled.setAttribute("aria-label", "Raw values");
  body.append(copy, scrolled);
}

function tableRows(chunk) {
  const { trace, map } = view;
  const length = neighbourLength();
  const shares = chunk.neighbours.flatMap((neighbour) => ["#" + neighbour.rank + " N", "#" + neighbour.rank + " F"]);
  const writes = trace.model.cca_layers.map((layer) => "write, layer " + layer);
  const single = chunk.neighbours.filter((neighbour) => neighbour.influence);
  const rows = [["position", "token", "p with", "p without", "gain (nats)", ...single.map((neighbour) => "influence #" + neighbour.rank), ...writes, ...shares, "looked most at"]];
  for (let i = chunk.read[0]; i < chunk.read[1]; i++) {
    const token = trace.tokens[i];
    const row = i - chunk.read[0];
    const gain = gainOf(token);
    const number = (value, digits) => (known(value) ? value.toFixed(digits) : "–");
    const usable = map && row < map.rows;
    const parts = chunk.neighbours.flatMap((neighbour, j) => {
      const middle = j * length + neighbour.num_neighbour_tokens;
      return [[j * length, middle], [middle, (j + 1) * length]].map(([from, to]) => {
        let total = 0;
        for (let col = from; usable && col < to; col++) total += map.at(row, col);
        return usable ? percent(total) : "–";
      });
    });
    const [top] = usable && chunk.neighbours.length ? topColumns(row, 1) : [];
    const word = top ? "“" + displayWord(chunk.neighbours[Math.floor(top.col / length)].tokens[top.col % length]) + "” " + percent(top.weight) : "–";
    rows.push([String(i), displayWord(token.text), known(token.lp_on) ? percent(Math.exp(token.lp_on)) : "–", known(token.lp_off) ? percent(Math.exp(token.lp_off)) : "–", gain === null ? "–" : signed(gain), ...single.map((neighbour) => number(neighbour.influence.tokens[row], 3)), ...trace.model.cca_layers.map((_, n) => number(token.write && token.write[n], 3)), ...parts, word]);
  }
  return rows;
}

function wholeMap(chunk) {
  const { map, trace } = view;
  const length = neighbourLength();
  const safe = (text) => displayWord(text).replace(/\t/g, " ").replace(/^[=+@-]/, "'$&"); // no formulas in spreadsheets
  const heads = [];
  for (let col = 0; col < map.cols; col++) heads.push("#" + (Math.floor(col / length) + 1) + " " + safe(chunk.neighbours[Math.floor(col / length)]?.tokens[col % length] ?? ""));
  const lines = [["token", ...heads].join("\t")];
  for (let row = 0; row < map.rows; row++) {
    const values = [];
    for (let col = 0; col < map.cols; col++) values.push(map.at(row, col).toFixed(5));
    lines.push([safe(trace.tokens[chunk.read[0] + row].text), ...values].join("\t"));
  }
  return lines.join("\n");
}
