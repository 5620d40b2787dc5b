// Pictures as SVG, drawn at the width that there is, in colours that follow the page.

function drawn(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// At most `count` round numbers from low to high.
function ticksOf(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough) || 10 * power;
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step * 1e-6 ? 0 : at);
  return found;
}

function short(value) {
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

// options: {
//   label: for who cannot see it, x: {label, log, ticks?: [[at, text]]}, y: {label},
//   lines: [{name, tone, points: [{x, y, low?, high?, words, note?}]}], joined: whether points are,
//   dots: [[x, y]], zero: whether 0 is a line with words at both sides, bars: [[x, count]] below, mark: an x
// } -> a <figure> with `draw(width)` and `mark(x)`
function chart(options) {
  const figure = make("figure", "measure-figure");
  let marked = options.mark, place = null, line = null;
  figure.mark = (x) => {
    marked = x;
    if (line && place) for (const end of ["x1", "x2"]) line.setAttribute(end, place(x));
  };
  figure.draw = (width) => {
    const left = 52, right = 12, top = 10, foot = 42, below = options.bars ? 44 : 0;
    const height = 190 + below, floor = height - foot - below;
    const points = options.lines.flatMap((one) => one.points);
    const dots = options.dots || [];
    const xs = [...points.map((p) => p.x), ...dots.map((d) => d[0])];
    // Single dots may lie far out; what counts are the means.
    const ys = points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]);
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    if (options.zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
    if (dots.length) [low, high] = [low - 0.35 * (high - low), high + 0.35 * (high - low)];
    const room = (high - low || 1) * 0.08;
    [low, high] = [low - room, high + room];
    const scale = options.x.log ? Math.log : (x) => x;
    let [first, last] = [scale(Math.min(...xs)), scale(Math.max(...xs))];
    const side = (last - first || 1) * 0.04;
    [first, last] = [first - side, last + side];
    const px = (x) => left + ((scale(x) - first) / (last - first)) * (width - left - right);
    const py = (y) => top + ((high - Math.max(low, Math.min(high, y))) / (high - low)) * (floor - top);
    const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label });
    const write = (words, x, y, anchor, extra) => drawn("text", { x, y, "text-anchor": anchor, ...extra }, words);

    for (const at of ticksOf(low, high, 5)) {
      svg.append(drawn("line", { x1: left, x2: width - right, y1: py(at), y2: py(at), class: "measure-grid" }),
        write(short(at), left - 6, py(at) + 4, "end"));
    }
    let end = -Infinity;
    const ticks = options.x.ticks || (options.x.log ? [...new Set(xs)].sort((a, b) => a - b) : ticksOf(first, last, width / 80)).map((at) => [at, short(at)]);
    for (const [at, words] of ticks) {
      const x = px(at), half = words.length * 3.6;
      if (x - half < end || x < left - 1 || x > width - right + 1) continue;
      end = x + half + 6;
      svg.append(write(words, x, floor + 16 + below, x + half > width ? "end" : "middle"));
    }
    svg.append(write(options.x.label, (left + width - right) / 2, height - 6, "middle"),
      write(options.y.label, 0, 0, "middle", { transform: `translate(11 ${(top + floor) / 2}) rotate(-90)` }));
    if (options.zero) {
      svg.append(drawn("line", { x1: left, x2: width - right, y1: py(0), y2: py(0), class: "measure-zero" }),
        write("↑ helped", width - right - 2, Math.max(top + 12, py(0) - 5), "end", { class: "measure-word" }));
      if (py(0) < floor - 14) svg.append(write("↓ hurt", width - right - 2, py(0) + 14, "end", { class: "measure-word" }));
    }
    for (const [x, y] of dots) svg.append(drawn("circle", { cx: px(x), cy: py(y), r: 1.7, class: "measure-dot " + (y < 0 ? "measure-hurt" : "measure-helped") }));
    for (const one of options.lines) {
      const band = one.points.filter((p) => typeof p.low === "number" && typeof p.high === "number");
      if (options.joined && band.length > 1) {
        const edge = [...band.map((p) => px(p.x) + " " + py(p.high)), ...band.slice().reverse().map((p) => px(p.x) + " " + py(p.low))];
        svg.append(drawn("path", { d: "M" + edge.join("L") + "Z", class: "measure-band measure-" + one.tone }));
      }
      if (options.joined) svg.append(drawn("path", { d: "M" + one.points.map((p) => px(p.x) + " " + py(p.y)).join("L"), class: "measure-line measure-" + one.tone }));
      for (const p of one.points) {
        const tone = one.tone === "sign" ? (p.y < 0 ? "hurt" : "helped") : one.tone;
        if (!options.joined && typeof p.low === "number") svg.append(drawn("line", { x1: px(p.x), x2: px(p.x), y1: py(p.low), y2: py(p.high), class: "measure-whisker measure-" + tone }));
        const mark = tone === "off" ? drawn("rect", { x: px(p.x) - 4, y: py(p.y) - 4, width: 8, height: 8, class: "measure-mark measure-off" })
          : drawn("circle", { cx: px(p.x), cy: py(p.y), r: 4.5, class: "measure-mark measure-" + tone });
        mark.append(drawn("title", {}, p.words));
        svg.append(mark);
        if (p.note) svg.append(write(p.note, Math.min(px(p.x), width - 18), py(p.y) - 9, "middle"));
      }
    }
    if (options.bars) {
      const most = Math.max(1, ...options.bars.map(([, count]) => count)), wide = Math.max(4, (width - left - right) / options.bars.length * 0.45);
      for (const [x, count] of options.bars) {
        const tall = (count / most) * 28;
        svg.append(drawn("rect", { x: px(x) - wide / 2, y: floor + below - tall, width: wide, height: tall, class: "measure-count" }, drawn("title", {}, count.toLocaleString("en") + " chunks")));
      }
      svg.append(write("chunks", left - 6, floor + below - 10, "end"));
    }
    line = null;
    place = px;
    if (marked !== undefined) {
      line = drawn("line", { x1: px(marked), x2: px(marked), y1: top, y2: floor + below, class: "measure-marked" });
      svg.append(line);
    }
    figure.replaceChildren(svg);
  };
  return figure;
}
