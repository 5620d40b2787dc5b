// value: {summary, lengths: [[label, count]], notes: [text], documents: [{title, note, chunks: [{text, tokens, number}]}], rest}
const holder = element.querySelector(".chunk-preview");

const FEW = 6; // notes; more are folded, so that the text itself is seen

// [what and how many, "– one of them"…] as one line and a list.
function notes(lines) {
  const kinds = lines.filter((line) => !line.startsWith("– "));
  const details = make("details", "preview-notes", make("summary", "", kinds.map((line) => display(line.replace(/[.:]$/, ""))).join(" · ")));
  details.open = lines.length <= FEW;
  const listed = kinds.length === 1 ? lines.filter((line) => line !== kinds[0]) : lines;
  for (const line of listed) details.append(make("p", line.startsWith("– ") ? "preview-note" : "preview-kind", display(line)));
  return details;
}

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
  if (value.notes?.length) holder.append(notes(value.notes));
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
