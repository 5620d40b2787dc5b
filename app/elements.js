// What all components of ours are made with: their value, elements of text only, text that hides nothing, answers.

// What is drawn: it comes as one JSON text, see `Drawn` in app/parts/__init__.py. null where there is nothing. A
// script of the page may set a value as it is.
let lastGiven = { from: undefined, value: null };
function given() {
  const from = props.value;
  if (lastGiven.from === from) return lastGiven.value;
  lastGiven = { from, value: null };
  const unreadable = element.querySelector(":scope > .unreadable");
  try {
    lastGiven.value = (typeof from === "string" && from ? JSON.parse(from) : from) || null;
    unreadable?.remove();
  } catch (error) {
    if (!unreadable) element.prepend(make("p", "unreadable", "What came from the server cannot be read. Reload the page."));
  }
  return lastGiven.value;
}

// make("span", "class", "text or children…"): text becomes text nodes, never markup.
function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Control and direction characters would be invisible or reorder the text around them: show their names.
function display(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g,
    (c) => "⟨U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");
}

// What a function of the server's says. Where the server is gone, Gradio throws nothing and hands over nothing.
async function answerOf(call, otherwise = "The server did not answer. Is it still running?") {
  try {
    return (await call) ?? { error: otherwise };
  } catch {
    return { error: otherwise };
  }
}
