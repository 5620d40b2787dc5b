// What all components of ours are made with: elements of text only, text that hides nothing, answers.

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
