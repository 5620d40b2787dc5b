// value: {title, facts: [[name, text]], notes: [text], commands: [text]}
const holder = element.querySelector(".facts");

function command(text) {
  // A line may end before an option, not inside one.
  const words = make("code", "", ...text.split(/(?<= )(?=--)/).map((part) => make("span", "", part)));
  const copy = make("button", "", "Copy");
  copy.type = "button";
  copy.setAttribute("aria-label", "Copy: " + text);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch { // a page without https may not write there
      getSelection().selectAllChildren(words);
      copy.textContent = "Ctrl+C";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });
  return make("div", "facts-command", words, copy);
}

function show() {
  const value = given() || {};
  const facts = (value.facts || []).map(([name, text]) => make("div", "", make("dt", "", name), make("dd", "", text)));
  holder.replaceChildren();
  if (value.title) holder.append(make("h4", "", value.title));
  if (facts.length) holder.append(make("dl", "", ...facts));
  for (const note of value.notes || []) holder.append(make("p", "", note));
  if (value.commands?.length) holder.append(make("div", "facts-commands", ...value.commands.map(command)));
}

watch("value", show);
show();
