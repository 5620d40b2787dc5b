// Lesson: another book, another fact.

LENSES.swap = (data) => {
  const book = make("div", ""), written = make("div", ""), said = sentence();

  function show(i) {
    const { name, title, read, read_copied, written: tokens, copied } = data.books[i];
    const source = passage(read), text = passage(tokens, "learn-large");
    source.spans.forEach((span, j) => fill(span, TEAL, within(j, read_copied) ? 0.35 : 0));
    text.spans.forEach((span, j) => span?.classList.toggle("learn-copied", within(j, copied)));
    text.element.prepend(make("span", "learn-given", display(data.prompt)));
    book.replaceChildren(make("p", "learn-caption", "It reads " + display(title) + ", from " + display(name)), source.element);
    written.replaceChildren(make("p", "learn-caption", "It writes (dotted: copied)"), text.element);
    said.textContent = "With " + display(name) + " it writes " + quoted(tokens.join("").split(/[;(\n]/)[0]) + ".";
  }

  const picked = choice("Book to look things up in", data.books.map((one) => one.name), 0, show);
  show(0);
  return make("div", "", picked, written, book, said);
};
