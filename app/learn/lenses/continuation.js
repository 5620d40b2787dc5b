// Lesson: a neighbour (N) comes with its continuation (F).

LENSES.continuation = (data) => {
  const neighbour = passage(data.neighbour), continuation = passage(data.continuation), written = passage(data.written);
  const spans = [...neighbour.spans, ...Array(data.split - neighbour.spans.length).fill(null), ...continuation.spans];
  const said = sentence();
  const halves = [neighbour.element, continuation.element];

  function show(part) {
    const copies = data.copies.filter((copy) => copy.part === "NF"[part]);
    const read = copies.map((copy) => copy.read), found = copies.map((copy) => copy.neighbour);
    halves.forEach((half, i) => half.classList.toggle("learn-dim", i !== part));
    spans.forEach((span, i) => fill(span, TEAL, within(i, found) ? 0.35 : 0));
    let count = 0;
    written.spans.forEach((span, i) => {
      const copied = within(i, read);
      count += copied;
      fill(span, TEAL, copied ? 0.35 : 0);
      span?.classList.toggle("learn-copied", copied);
    });
    const where = part ? "in the continuation (F)" : "in the neighbour (N)";
    said.textContent = count + " of the " + data.written.length + " tokens that were written stand " + where + ", in runs of three or more.";
  }

  const picked = choice("Compare what was written with", ["N: what was found", "F: how it went on"], 1, show);
  show(1);
  return make("div", "", picked, said,
    make("p", "learn-caption", "Found: " + display(data.title)), neighbour.element,
    make("p", "learn-caption", "continues ▸"), continuation.element,
    make("p", "learn-caption", "What the model wrote"), written.element);
};
