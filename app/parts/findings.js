// value: {rows: [{title, source, offset, chunk, measured, closeness, before, text, continuation}], note, busy}
const holder = element.querySelector(".findings");

function finding(row, rank) {
  const head = make("div", "finding-head",
    make("b", "finding-rank", "#" + rank), make("b", "", display(row.title)), make("span", "finding-measured", row.measured));
  const text = make("p", "finding-text", display(row.text.trim()));
  const rest = row.continuation.trim()
    ? make("p", "finding-rest", make("span", "finding-mark", "continues"), display(row.continuation.trim()))
    : make("p", "finding-rest", "– the document ends here");
  const source = make("details", "finding-source", make("summary", "", "Source: " + display(row.source) + ", from character " + row.offset.toLocaleString("en")));
  const whole = make("p", "finding-text");
  if (row.before) whole.append(make("span", "finding-around", display(row.before)));
  whole.append(make("mark", "", display(row.text)));
  if (row.continuation) whole.append(make("span", "finding-around", display(row.continuation)));
  if (!row.before) source.append(make("p", "finding-rest", "– the document begins here"));
  source.append(whole);
  const item = make("li", "finding", head, text, rest, source);
  if (typeof row.closeness === "number") {
    const bar = make("div", "finding-bar", make("i", ""));
    bar.firstChild.style.width = Math.max(0, Math.min(1, row.closeness)) * 100 + "%";
    head.after(bar);
  }
  return item;
}

function show() {
  const value = given();
  holder.replaceChildren();
  if (!value) {
    holder.append(make("p", "findings-empty", "Chunks that the model would read stand here, nearest first, each with what follows it in its document."));
    return;
  }
  if (value.busy) {
    holder.append(make("p", "findings-empty", value.busy));
    return;
  }
  if (value.note) holder.append(make("p", "findings-note", value.note));
  holder.append(make("ol", "", ...(value.rows || []).map((row, i) => finding(row, i + 1))));
}

watch("value", show);
show();
