// Lesson: attention is not influence. What the text loses when one neighbour is left out, as it was measured.

LENSES.influence = (data) => {
  const written = passage(data.written), said = sentence(), table = make("div", "learn-bars");
  const full = Math.max(...data.neighbours.map((one) => Math.abs(one.influence)), 1); // of 1 nat at least
  for (const one of data.neighbours) {
    table.append(make("p", "learn-caption", "#" + one.rank + " " + display(one.title)),
      bar("attention", one.share, percent(one.share), TEAL),
      bar("influence", Math.abs(one.influence) / full, difference(one.influence), one.influence < 0 ? BLUE : ORANGE));
  }

  function show(i) {
    const one = data.neighbours[i - 1];
    written.spans.forEach((span, j) => {
      const lost = one ? one.tokens[j] : 0;
      fill(span, lost > 0 ? ORANGE : BLUE, Math.min(1, Math.abs(lost) / FULL_GAIN) * FILL);
    });
    said.textContent = one
      ? "Without #" + one.rank + ", which gets " + percent(one.share) + " of the attention, the text changes by " + difference(-one.influence) + " nats per token. Orange would be words that need it."
      : "All neighbours are read.";
  }

  const picked = choice("Leave out", ["nothing", ...data.neighbours.map((one) => "#" + one.rank)], 0, show);
  show(0);
  return make("div", "", table, picked, said, written.element);
};
