// The glossary of docs/glossary.md, with a box that filters it.

const holder = element.querySelector(".glossary");

async function draw() {
  const answer = await answerOf(server.words({}), "The server did not answer. Load the page again.");
  if (answer.error) return holder.replaceChildren(make("p", "learn-said", answer.error));
  const entries = answer.words.map(([word, meaning, not]) => {
    const entry = make("div", "", make("dt", "", word), make("dd", "", meaning, not ? make("span", "glossary-not", " not: " + not) : null));
    entry.dataset.words = (word + " " + meaning).toLowerCase();
    return entry;
  });
  const box = make("input", "");
  Object.assign(box, { type: "search", placeholder: "neighbour, gain, chunk …" });
  const said = make("p", "learn-said");
  said.setAttribute("role", "status");
  const filter = () => {
    const wanted = box.value.trim().toLowerCase();
    let left = 0;
    for (const entry of entries) {
      entry.hidden = !entry.dataset.words.includes(wanted);
      left += !entry.hidden;
    }
    said.textContent = left ? left + (left === 1 ? " word" : " words") : "No word of the glossary has this in it.";
  };
  box.addEventListener("input", filter);
  holder.replaceChildren(make("label", "learn-label", make("span", "", "Find a word"), box), said, make("dl", "", ...entries));
  filter();
}

draw();
