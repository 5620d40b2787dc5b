// What the mini-lenses are made with. Each puts a function into LENSES: (data) -> element.

const LENSES = {};
const ORANGE = "214 121 24", BLUE = "37 99 235", TEAL = "13 148 136", GREY = "113 113 122";

// Tokens as running text, one element each; empty ones are padding.
function passage(tokens, className) {
  const spans = tokens.map((text) => (text === "" ? null : make("span", "learn-token", displayToken(text))));
  return { spans, element: make("p", "learn-passage " + (className || ""), ...spans) };
}

function fill(span, colour, opacity) {
  if (span) span.style.backgroundColor = opacity > 0.01 ? "rgb(" + colour + " / " + opacity.toFixed(3) + ")" : "";
}

// A sentence that says what is to be seen now, also to those who hear the page.
function sentence() {
  const line = make("p", "learn-said");
  line.setAttribute("aria-live", "polite");
  return line;
}

// Numbers from 0, moved by arrow keys, finger or mouse.
function slider(label, count, from, move) {
  const input = make("input", "");
  Object.assign(input, { type: "range", min: 0, max: count - 1, step: 1, value: from });
  const place = make("span", "learn-place");
  const tell = () => { place.textContent = Number(input.value) + 1 + " of " + count; };
  input.addEventListener("input", () => { tell(); move(Number(input.value)); });
  tell();
  const set = (i) => { input.value = i; tell(); };
  return { input, set, element: make("label", "learn-slider", make("span", "", label), input, place) };
}

let choices = 0;
// One of several, as native radio buttons.
function choice(label, options, chosen, change) {
  const name = "learn-choice-" + ++choices;
  const buttons = options.map((text, i) => {
    const input = make("input", "");
    Object.assign(input, { type: "radio", name, checked: i === chosen });
    input.addEventListener("change", () => change(i));
    return make("label", "", input, make("span", "", text));
  });
  return make("fieldset", "learn-choice", make("legend", "", label), make("div", "", ...buttons));
}

// A token is chosen by slider, pointer or finger; choose(i) draws it.
function chosenToken(label, spans, from, choose) {
  const moved = slider(label, spans.length, from, show);
  function show(i) {
    spans.forEach((span, j) => span.classList.toggle("learn-chosen", i === j));
    moved.input.setAttribute("aria-valuetext", spans[i].textContent);
    choose(i);
  }
  spans.forEach((span, i) => {
    for (const event of ["pointerenter", "click"]) {
      span.addEventListener(event, () => { moved.set(i); show(i); });
    }
  });
  show(from);
  return moved.element;
}

function bar(label, share, text, colour) {
  const inner = make("i", "");
  inner.style.width = Math.max(0, Math.min(1, share)) * 100 + "%";
  inner.style.backgroundColor = "rgb(" + colour + ")";
  return make("div", "learn-bar", make("span", "", label), make("span", "learn-track", inner), make("span", "learn-number", text));
}

function quoted(text) {
  return "“" + displayWord(text) + "”";
}
