// Lesson: a text is cut into chunks. The tokens are the model's own; the server cuts.

const CHUNK = 64;

LENSES.chunks = (data) => {
  const box = make("textarea", "learn-box");
  Object.assign(box, { value: data.text, rows: 4, spellcheck: false, maxLength: data.longest });
  const said = sentence();
  const drawn = make("div", "learn-passage learn-cut");
  drawn.tabIndex = 0; // a long one scrolls
  drawn.setAttribute("role", "region");
  drawn.setAttribute("aria-label", "Your text in chunks");
  let asked = 0, waiting = 0;

  function draw(tokens) {
    drawn.replaceChildren();
    for (let begin = 0; begin < tokens.length; begin += CHUNK) {
      const inside = tokens.slice(begin, begin + CHUNK);
      const whole = inside.length === CHUNK;
      const mark = make("span", "learn-mark", whole ? "chunk " + (begin / CHUNK + 1) : inside.length + " of " + CHUNK);
      const texts = inside.map((text) => make("span", "learn-piece", displayToken(text)));
      drawn.append(make("span", whole ? "learn-chunk" : "learn-chunk learn-open", mark, ...texts));
    }
    const whole = Math.floor(tokens.length / CHUNK), rest = tokens.length % CHUNK;
    const ask = whole === 0 ? "none is whole, so nothing is asked yet" : whole === 1 ? "1 chunk is whole and asks" : whole + " chunks are whole and ask";
    said.textContent = tokens.length + " tokens: " + ask + (whole && rest ? "; the last " + rest + " wait for more." : ".");
  }

  async function cut() {
    const mine = ++asked;
    const answer = await answerOf(server.tokens({ text: box.value }));
    if (mine !== asked) return; // somebody typed on meanwhile
    if (answer.error) said.textContent = answer.error;
    else draw(answer.tokens);
  }

  box.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(cut, 60);
  });
  draw(data.tokens);
  return make("div", "", make("label", "learn-label", make("span", "", "Your text"), box), said, drawn);
};
