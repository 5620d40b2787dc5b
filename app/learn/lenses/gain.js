// Lesson: gain. The same tokens with neighbours, without, and the difference.

LENSES.gain = (data) => {
  const given = make("span", "learn-given", display(data.given.join("")));
  const written = passage(data.tokens.map((token) => token.text));
  written.element.prepend(given);
  const total = sentence(), one = sentence();
  let mode = 2, chosen = 0;

  function paint() {
    written.spans.forEach((span, i) => {
      const token = data.tokens[i], gain = gainOf(token);
      if (mode === 2) fill(span, gain > 0 ? ORANGE : BLUE, Math.min(1, Math.abs(gain) / FULL_GAIN) * FILL);
      else fill(span, GREY, Math.exp(mode ? token.lp_off : token.lp_on) * 0.5);
    });
    const mean = (of) => data.tokens.reduce((sum, token) => sum + of(token), 0) / data.tokens.length;
    total.textContent = [
      "On: surprise " + (-mean((t) => t.lp_on)).toFixed(2) + " nats per token. Darker is likelier.",
      "Off: surprise " + (-mean((t) => t.lp_off)).toFixed(2) + " nats per token. Darker is likelier.",
      "Gain: " + signed(mean(gainOf)) + " nats per token.",
    ][mode];
  }

  function show(i) {
    chosen = i;
    const { text, lp_on, lp_off } = data.tokens[chosen];
    one.textContent = quoted(text) + ": " + percent(Math.exp(lp_on)) + " with what was read, " + percent(Math.exp(lp_off)) + " without. Gain " + difference(lp_on - lp_off) + " nats.";
  }

  const picked = choice("Colour by", ["On", "Off", "gain"], 2, (i) => { mode = i; paint(); });
  const most = data.tokens.reduce((best, token, i) => (gainOf(token) > gainOf(data.tokens[best]) ? i : best), 0);
  const moved = chosenToken("Token", written.spans, most, show);
  paint();
  return make("div", "", picked, total, written.element, moved, one);
};
