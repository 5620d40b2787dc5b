// value: see app/fact_swap.py. A side is chosen by the button of its recorded example, which the page has too.
const holder = element.querySelector(".fact-swap");
const MARKS = { copied: "swap-copied", said: "swap-said" };

function pieces(list) {
  return list.map(([text, marks]) => make("span", marks.split(" ").map((name) => MARKS[name] || "").join(" ").trim(), oneLine(text)));
}

function oneLine(text) {
  return display(String(text)).replace(/\s*\n\s*/g, " · ");
}

function side(value) {
  const read = make("span", "swap-read", make("span", "swap-label", "it had looked up"), " ", ...pieces(value.read));
  const card = make("button", "swap-side",
    make("span", "swap-edition", "With " + oneLine(value.edition)),
    make("span", "swap-text", make("span", "swap-given", oneLine(value.given)), make("span", "swap-label", " it writes "), ...pieces(value.written)),
    value.read.length ? read : null);
  card.type = "button";
  card.dataset.id = value.id;
  card.addEventListener("click", () => {
    document.getElementById(value.id)?.click();
    choose(value.id);
  });
  return card;
}

function choose(id) {
  for (const card of holder.querySelectorAll(".swap-side")) card.setAttribute("aria-pressed", String(card.dataset.id === id));
}

function show() {
  const value = given();
  holder.replaceChildren();
  if (!value) return;
  const fold = make("details", "", make("summary", "swap-lead", value.lead), make("div", "swap-sides", ...value.sides.map(side)));
  fold.open = true;
  holder.append(fold);
}

// Whatever else is looked at needs the room, at once: later it would move under the reader's eyes.
document.addEventListener("click", (event) => {
  const button = event.target.closest("#run, #recorded button, #open");
  const fold = holder.querySelector("details");
  if (!button || !fold) return;
  fold.open = Boolean(button.id) && [...holder.querySelectorAll(".swap-side")].some((card) => card.dataset.id === button.id);
});

// The lens says what it shows; see its attribute data-trace.
function follow() {
  const shown = document.querySelector(".retro-lens");
  if (!shown) return requestAnimationFrame(follow);
  new MutationObserver(() => choose(shown.dataset.trace)).observe(shown, { attributeFilter: ["data-trace"] });
  choose(shown.dataset.trace);
}

watch("value", show);
show();
follow();
