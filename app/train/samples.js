// value: {run, steps: [step], empty}. What was written at a step is fetched when it is looked at, and kept.
const holder = element.querySelector(".samples");
const kept = new Map();
const state = { run: null, place: 0, newest: true, asked: 0 };

const slider = make("input", "");
Object.assign(slider, { type: "range", min: "0", step: "1", value: "0" });
slider.setAttribute("aria-label", "Evaluation whose samples are shown");
const where = make("output", "samples-where");
const play = make("button", "samples-play", "▶ Play");
play.type = "button";
const head = make("div", "samples-head", slider, where, play);
const empty = make("p", "samples-empty");
const list = make("div", "samples-list");
list.setAttribute("aria-live", "polite");
holder.append(empty, head, list);

slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });

let timer = null;
function stop() {
  clearInterval(timer);
  timer = null;
  play.textContent = "▶ Play";
}
play.addEventListener("click", () => {
  if (timer) return stop();
  const last = (given()?.steps || []).length - 1;
  go(state.place >= last ? 0 : state.place + 1);
  play.textContent = "❚❚ Pause";
  timer = setInterval(() => {
    if (state.place >= (given()?.steps || []).length - 1) return stop();
    go(state.place + 1);
  }, 900);
});

// Each token with how much more, or less, it was expected with the neighbours than without.
function painted(sample) {
  const tokens = sample.tokens || [];
  if (!tokens.length) return [display(sample.original)];
  return tokens.map((text, i) => {
    const gain = gainOf({ lp_on: sample.lp_on[i], lp_off: sample.lp_off[i] });
    const node = make("span", "samples-token", displayToken(text));
    if (gain !== null) {
      const colour = gain > 0 ? "214 121 24" : "37 99 235";
      const opacity = FILL * strength(Math.abs(gain), FULL_GAIN);
      if (opacity > 0.04) node.style.backgroundColor = "rgb(" + colour + " / " + opacity.toFixed(2) + ")";
      node.title = "with neighbours " + percent(Math.exp(sample.lp_on[i])) + ", without " + percent(Math.exp(sample.lp_off[i]));
    }
    return node;
  });
}

function meanGain(sample) {
  const gains = (sample.tokens || []).map((_, i) => gainOf({ lp_on: sample.lp_on[i], lp_off: sample.lp_off[i] })).filter((g) => g !== null);
  return gains.length ? gains.reduce((a, b) => a + b, 0) / gains.length : null;
}

function column(title, remark, ...children) {
  return make("div", "samples-column", make("h5", "", title, remark ? make("small", "", remark) : null), make("p", "samples-text", ...children));
}

function card(sample) {
  const gain = meanGain(sample);
  const read = (sample.read || []).filter(Boolean);
  const box = make("article", "samples-card",
    make("p", "samples-prompt", make("span", "", "The text begins "), shorten(sample.prompt, 160)),
    make("div", "samples-columns",
      column("It writes on, reading", "", display(sample.on)),
      column("It writes on, without", "", display(sample.off)),
      column("How the text goes on", gain === null ? "" : "gain " + signed(gain) + " nats per token", ...painted(sample))));
  if (read.length) {
    box.append(make("details", "", make("summary", "", "What it read: " + read.length + (read.length === 1 ? " neighbour" : " neighbours")),
      ...read.map((text, i) => make("p", "samples-text", make("b", "", "#" + (i + 1) + " "), display(text)))));
  }
  return box;
}

async function go(place) {
  const steps = given()?.steps || [];
  if (!steps.length) return;
  state.place = Math.max(0, Math.min(place, steps.length - 1));
  state.newest = state.place === steps.length - 1;
  const step = steps[state.place];
  const key = state.run + " " + step;
  slider.value = String(state.place);
  slider.setAttribute("aria-valuetext", "step " + step);
  where.textContent = "step " + step.toLocaleString("en") + " (" + (state.place + 1) + " of " + steps.length + ")";
  const turn = ++state.asked;
  if (!kept.has(key)) {
    const answer = await answerOf(server.samples({ run: state.run, step }), "The server does not answer. Move the slider to try again.");
    if (answer.samples) kept.set(key, answer.samples);
    else if (turn === state.asked) list.replaceChildren(make("p", "samples-empty", answer.error || "There are no samples."));
  }
  if (turn !== state.asked || !kept.has(key)) return;
  const open = [...list.querySelectorAll("details")].map((node) => node.open);
  list.replaceChildren(...kept.get(key).map(card));
  list.querySelectorAll("details").forEach((node, i) => { node.open = Boolean(open[i]); });
}

function show() {
  const value = given() || {};
  const steps = value.steps || [];
  if (value.run !== state.run || steps.length < state.place) {
    kept.clear();
    stop();
    Object.assign(state, { run: value.run, place: 0, newest: true });
    list.replaceChildren();
  }
  empty.textContent = steps.length ? "" : value.empty || "";
  empty.hidden = !empty.textContent;
  head.hidden = !steps.length;
  if (!steps.length) { list.replaceChildren(); return; }
  slider.max = String(steps.length - 1);
  play.hidden = steps.length < 2;
  go(state.newest ? steps.length - 1 : state.place);
}

watch("value", show);
show();
