// value: {runs: [{name, shown, state, fraction, line, colour}], chosen, compared: [name], empty, note}
const holder = element.querySelector(".run-list");
const marked = new Set();
const before = []; // what was marked before the last ticks: an answer that says so is from before them
const keyOf = (names) => JSON.stringify([...names].sort());

function chip(state) {
  const node = make("span", "run-state", state);
  node.dataset.state = state;
  return node;
}

function row(run, value) {
  const track = make("span", "run-track", make("i", ""));
  track.firstChild.style.width = 100 * Math.max(0, Math.min(1, run.fraction)) + "%";
  const button = make("button", "run-choose",
    make("span", "run-head", make("b", "", display(run.shown)), chip(run.state)),
    track, make("span", "run-line", display(run.line)));
  button.type = "button";
  button.dataset.run = run.name;
  button.setAttribute("aria-pressed", String(run.name === value.chosen));
  button.addEventListener("click", () => trigger("choose", { name: run.name }));
  const item = make("li", "", button);
  if (value.runs.length > 1) {
    const box = make("input", "");
    box.type = "checkbox";
    box.checked = marked.has(run.name);
    box.setAttribute("aria-label", "Compare " + run.shown);
    box.addEventListener("change", () => {
      before.push(keyOf(marked));
      if (box.checked) marked.add(run.name);
      else marked.delete(run.name);
      trigger("compare", { names: [...marked] });
    });
    const label = make("label", "run-compare", box, make("span", "", "compare"));
    if (/^#[0-9a-f]{6}$/.test(run.colour || "")) label.style.setProperty("--run-colour", run.colour);
    item.append(label);
  }
  return item;
}

function show() {
  const value = given() || { runs: [] };
  const active = element.contains(document.activeElement) ? document.activeElement : null;
  const focused = active?.dataset.run ?? active?.getAttribute("aria-label");
  const said = value.compared || [];
  if (!before.includes(keyOf(said))) {
    before.length = 0;
    marked.clear();
    for (const name of said) marked.add(name);
  }
  for (const name of [...marked]) if (!value.runs.some((run) => run.name === name)) marked.delete(name);
  holder.replaceChildren();
  if (!value.runs.length) {
    holder.append(make("p", "runs-empty", value.empty || ""));
    return;
  }
  holder.append(make("ul", "", ...value.runs.map((run) => row(run, value))));
  if (value.note) holder.append(make("p", "runs-note", value.note));
  if (focused) { // what is drawn anew keeps its place on the keyboard
    [...holder.querySelectorAll("button, input")]
      .find((node) => (node.dataset.run ?? node.getAttribute("aria-label")) === focused)?.focus();
  }
}

watch("value", show);
show();
