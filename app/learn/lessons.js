// The lessons in order, each with its mini-lens. Drawn when the tab is opened first; see `Lessons`.

const holder = element.querySelector(".lessons");

// The other tab is there some moments later.
function arrive(place, patience) {
  const found = document.querySelector(place);
  if (found?.checkVisibility()) found.scrollIntoView();
  else if (patience) setTimeout(arrive, 50, place, patience - 1);
}

function card(lesson) {
  const title = make("h3", "", make("span", "lesson-number", String(lesson.number)), lesson.title);
  title.id = "lesson-" + lesson.number;
  const see = make("a", "lesson-see", lesson.see.label + " ▸");
  see.href = lesson.see.href;
  see.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another window, by the address
    event.preventDefault();
    trigger("see", { number: lesson.number });
    if (lesson.see.example) arrive("#lens", 100);
    else window.scrollTo({ top: 0 });
  });
  const lens = make("div", "lesson-lens", LENSES[lesson.lens](lesson.data));
  lens.setAttribute("role", "group");
  lens.setAttribute("aria-label", "Try it: " + lesson.title);
  const item = make("article", "lesson", title, make("p", "lesson-words", lesson.words), lens, make("p", "lesson-foot", see));
  item.setAttribute("aria-labelledby", title.id);
  return item;
}

async function draw() {
  const answer = await answerOf(server.lessons({}), "The server did not answer. Load the page again.");
  holder.removeAttribute("aria-busy");
  if (answer.error) holder.replaceChildren(make("p", "learn-said", answer.error));
  else holder.replaceChildren(...answer.lessons.map(card));
}

draw();
