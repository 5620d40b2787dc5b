// value: {summary, lengths: [[label, count]], notes: [text], documents: [{title, note, chunks: [{text, tokens, number}]}], rest}
const holder = element.querySelector(".chunk-preview");

function show() {
  const value = given();
  holder.replaceChildren();
  if (!value || !value.documents) {
    holder.append(make("p", "preview-empty", "Paste a text or choose files: the borders of the chunks are drawn here before anything is indexed."));
    return;
  }
  holder.append(make("p", "preview-summary", value.summary));
  if (value.lengths?.length) {
    const most = Math.max(...value.lengths.map(([, count]) => count));
    const bars = value.lengths.map(([label, count]) => {
      const bar = make("i", "");
      bar.style.width = (100 * count) / most + "%";
      return make("div", "", make("dt", "", label), make("dd", "", make("span", "preview-bar", bar), String(count)));
    });
    holder.append(make("p", "preview-rest", "How long the documents are:"), make("dl", "preview-lengths", ...bars));
  }
  for (const note of value.notes || []) holder.append(make("p", "preview-rest", display(note)));
  for (const item of value.documents) {
    const text = make("div", "preview-text");
    for (const chunk of item.chunks) {
      const mark = make("span", "preview-mark", String(chunk.number));
      mark.title = "Chunk " + chunk.number + ": " + chunk.tokens + " tokens";
      text.append(make("span", "preview-chunk", mark, display(chunk.text)));
    }
    const head = make("div", "preview-head", make("b", "", display(item.title)), make("span", "", item.note));
    holder.append(make("article", "", head, text));
  }
  if (value.rest) holder.append(make("p", "preview-rest", value.rest));
}

watch("value", show);
show();
