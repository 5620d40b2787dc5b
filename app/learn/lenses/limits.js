// Lesson: limits. What was measured on each kind of text.

LENSES.limits = (data) => {
  const bars = make("div", "learn-bars"), said = sentence();
  const most = Math.max(...data.kinds.flatMap((kind) => Object.values(kind.nats)));

  function show(i) {
    const { text, library, documents, nats, worse } = data.kinds[i];
    const number = (value) => value.toFixed(2);
    bars.replaceChildren(
      make("p", "learn-caption", "Surprise in nats per token, " + documents + " documents; shorter is better"),
      bar("with neighbours", nats.on / most, number(nats.on), ORANGE),
      bar("without", nats.off / most, number(nats.off), GREY),
      bar("with random ones", nats.random / most, number(nats.random), GREY));
    said.textContent = text + ", read with " + library + ": " + number(nats.off - nats.on) + " nats per token better, and yet " + percent(worse) + " of the tokens become less likely.";
  }

  const picked = choice("Kind of text", data.kinds.map((kind) => kind.text), 0, show);
  show(0);
  return make("div", "", picked, bars, said);
};
