// Lesson: chunked cross-attention. Where one token looked, out of a recorded trace.

LENSES.attention = (data) => {
  const weights = unpack(data.map);
  const written = passage(data.written), found = data.neighbours.map((neighbour) => passage(neighbour.tokens));
  const length = weights.cols / data.neighbours.length;
  const said = sentence();

  function show(row) {
    const looks = [];
    found.forEach(({ spans }, j) => spans.forEach((span, i) => {
      const weight = weights.at(row, j * length + i);
      fill(span, TEAL, strength(weight, weights.rowMax[row]) * FILL);
      if (span) looks.push([weight, data.neighbours[j].tokens[i]]);
    }));
    looks.sort((a, b) => b[0] - a[0]);
    const [first, second] = looks;
    said.textContent = "To write " + quoted(data.written[row]) + " the model gave " + percent(first[0]) + " of its look to " + quoted(first[1]) + " and " + percent(second[0]) + " to " + quoted(second[1]) + ".";
  }

  // A number, if one is written: nobody can guess it.
  const number = Math.max(0, data.written.findIndex((text) => /\d/.test(text)));
  const picked = chosenToken("Token that looks", written.spans, number, show);
  return make("div", "", make("p", "learn-caption", "What the model wrote"), written.element, picked, said,
    ...found.flatMap((one, j) => [make("p", "learn-caption", "#" + (j + 1) + " " + display(data.neighbours[j].title)), one.element]));
};
