// value: {run, steps: [step], gains: [[of each sample]] at the steps, empty}. What was written at a step is fetched
// when it is looked at, and kept. Event: `see` {run, step, number} leads to the sample in Explore's lens.
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

// The gain of one sample at all evaluations; a dot at the one that is looked at.
function track(number) {
  const points = (given()?.gains || []).map((row, place) => [place, row[number]]).filter(([, gain]) => Number.isFinite(gain));
  if (points.length < 2) return null;
  const [wide, high] = [150, 30];
  const last = (given()?.steps || []).length - 1;
  const all = points.map(([, gain]) => gain);
  const [low, top] = [Math.min(0, ...all), Math.max(0, ...all)];
  const x = (place) => 4 + (place / Math.max(1, last)) * (wide - 8);
  const y = (gain) => high - 4 - ((gain - low) / (top - low || 1)) * (high - 8);
  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const picture = svg("svg", { class: "samples-track", viewBox: "0 0 " + wide + " " + high, role: "img" });
  picture.setAttribute("aria-label", "Gain of this text at each evaluation: " + all.map(signed).join(", "));
  const line = points.map(([place, gain], i) => (i ? "L" : "M") + x(place).toFixed(1) + " " + y(gain).toFixed(1)).join("");
  picture.append(svg("line", { class: "curve-zero", x1: 0, x2: wide, y1: y(0), y2: y(0) }), svg("path", { class: "samples-line", d: line }));
  const here = points.find(([place]) => place === state.place);
  if (here) picture.append(svg("circle", { class: "samples-here", cx: x(here[0]), cy: y(here[1]), r: 3.5 }));
  return picture;
}

function gainWords(number) {
  const [now, before] = [state.place, state.place - 1].map((place) => given()?.gains?.[place]?.[number]);
  if (!Number.isFinite(now)) return "";
  const step = given().steps[state.place - 1];
  return "gain " + signed(now) + " nats per token" + (Number.isFinite(before) ? ", " + signed(before) + " at step " + step.toLocaleString("en") : "");
}

// A text with the words marked that the text of the evaluation before has not, in this order.
function changed(text, before) {
  if (typeof before !== "string") return [display(text)];
  const [words, old] = [text, before].map((one) => one.split(/(?<=\s)/).slice(0, 400));
  const common = Array.from({ length: words.length + 1 }, () => new Uint16Array(old.length + 1));
  for (let i = words.length - 1; i >= 0; i--) {
    for (let j = old.length - 1; j >= 0; j--) {
      common[i][j] = words[i].trim() === old[j].trim() ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const parts = [];
  for (let i = 0, j = 0; i < words.length; i++) {
    while (j < old.length && words[i].trim() !== old[j].trim() && common[i][j] === common[i][j + 1]) j++;
    const stays = j < old.length && words[i].trim() === old[j].trim();
    if (stays) j++;
    parts.push(stays ? display(words[i]) : make("span", "samples-new", display(words[i])));
  }
  return parts;
}

function column(title, remark, ...children) {
  return make("div", "samples-column", make("h5", "", title, remark ? make("small", "", remark) : null), make("p", "samples-text", ...children));
}

function card(sample, number, before) {
  const read = (sample.read || []).filter(Boolean);
  const box = make("article", "samples-card",
    make("p", "samples-prompt", make("span", "", "The text begins "), shorten(sample.prompt, 160)),
    make("div", "samples-columns",
      column("It writes on, reading", "", ...changed(sample.on, before?.on)),
      column("It writes on, without", "", ...changed(sample.off, before?.off)),
      column("How the text goes on", gainWords(number), ...painted(sample))));
  const foot = make("p", "samples-foot", track(number));
  if (sample.traced) {
    const step = (given()?.steps || [])[state.place];
    const open = make("button", "samples-open", "Open in Explore");
    open.type = "button";
    open.title = "This text at step " + step + " in the lens: attention, influence, what was copied";
    open.addEventListener("click", () => trigger("see", { run: state.run, step, number }));
    foot.append(open);
  }
  if (foot.childNodes.length) box.append(foot);
  if (read.length) {
    box.append(make("details", "", make("summary", "", "What it read: " + read.length + (read.length === 1 ? " neighbour" : " neighbours")),
      ...read.map((text, i) => make("p", "samples-text", make("b", "", "#" + (i + 1) + " "), display(text)))));
  }
  return box;
}

async function samplesAt(step) {
  const key = state.run + " " + step;
  if (kept.has(key)) return { samples: kept.get(key) };
  const answer = await answerOf(server.samples({ run: state.run, step }), "The server does not answer. Move the slider to try again.");
  if (answer.samples) kept.set(key, answer.samples);
  return answer;
}

async function go(place) {
  const steps = given()?.steps || [];
  if (!steps.length) return;
  state.place = Math.max(0, Math.min(place, steps.length - 1));
  state.newest = state.place === steps.length - 1;
  const step = steps[state.place];
  slider.value = String(state.place);
  slider.setAttribute("aria-valuetext", "step " + step);
  where.textContent = "step " + step.toLocaleString("en") + " (" + (state.place + 1) + " of " + steps.length + ")";
  const turn = ++state.asked;
  const [answer, before] = await Promise.all([samplesAt(step), state.place ? samplesAt(steps[state.place - 1]) : {}]);
  if (turn !== state.asked) return;
  if (!answer.samples) {
    list.replaceChildren(make("p", "samples-empty", answer.error || "There are no samples."));
    return;
  }
  const open = [...list.querySelectorAll("details")].map((node) => node.open);
  list.replaceChildren(...answer.samples.map((sample, number) => card(sample, number, before.samples?.[number])));
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
