async () => {
  // A picture of the lens as it is seen, painted from what the browser has laid out: colours, words and lines of
  // the page itself, in the theme of now. Nothing is fetched, so the canvas may be read on every browser.
  const MARGIN = 24;
  const LARGEST = 16000; // pixels of a side that all browsers can draw
  // What only the page can do, and what is folded or not chosen.
  const LEFT_OUT = ".lens-picker, .lens-switch, .lens-map-tip, .lens-hint, details:not([open]), dialog, [hidden], input, "
    + "[role=radio]:not([aria-checked=true]), button:not([role]):not(.lens-rank)";
  const lens = document.querySelector(".retro-lens");
  if (!lens || !lens.dataset.trace) return { text: "There is no result to draw yet. Run a prompt first.", tone: "bad" };

  // A copy that shows all of what scrolls; canvases are painted from the originals.
  const copy = lens.cloneNode(true);
  const canvases = new Map([...copy.querySelectorAll("canvas")].map((one, i) => [one, lens.querySelectorAll("canvas")[i]]));
  const place = document.createElement("div");
  place.inert = true;
  place.setAttribute("aria-hidden", "true");
  place.style.cssText = "position: absolute; left: -100000px; top: 0; width: " + Math.max(340, lens.getBoundingClientRect().width) + "px";
  for (const one of copy.querySelectorAll(LEFT_OUT)) one.remove();
  for (const one of copy.querySelectorAll("[id]")) one.removeAttribute("id");
  for (const one of copy.querySelectorAll("canvas")) {
    const from = canvases.get(one).getBoundingClientRect();
    Object.assign(one.style, { width: from.width + "px", height: from.height + "px" });
  }
  for (const one of copy.querySelectorAll(".lens-text, .lens-cards, .lens-passage, .lens-strip")) {
    Object.assign(one.style, { maxHeight: "none", height: "auto", overflow: "visible", flexWrap: "wrap" });
  }
  place.append(make("style", ".retro-pictured::before, .retro-pictured::after { content: none !important; }"), copy);
  lens.parentElement.append(place);
  try {
    spellOut(copy);
    await document.fonts.ready;
    const box = copy.getBoundingClientRect();
    const width = box.width + 2 * MARGIN;
    const height = box.height + 2 * MARGIN;
    const scale = Math.min(2, LARGEST / height, LARGEST / width);
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = ground(lens);
    pen.fillRect(0, 0, width, height);
    pen.translate(MARGIN - box.left, MARGIN - box.top);
    paint(copy, pen, canvases);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    const title = lens.querySelector(".lens-title")?.textContent || "retro";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = (title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "retro") + ".png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    return { text: "Saved " + link.download + " (" + canvas.width + " × " + canvas.height + ").", tone: "good" };
  } catch (error) {
    return { text: "This browser could not draw the picture. Save the result instead.", tone: "bad" };
  } finally {
    place.remove();
  }

  function make(tag, text) {
    const node = document.createElement(tag);
    node.textContent = text;
    return node;
  }

  // What a style sheet writes before and after an element has no place that could be asked for: as elements.
  function spellOut(copy) {
    const added = [];
    for (const element of copy.querySelectorAll("*")) {
      for (const which of ["::before", "::after"]) {
        const style = getComputedStyle(element, which);
        const said = /^"(.*)"$/.exec(style.content);
        if (!said || style.display === "none") continue;
        const node = make("span", said[1]);
        for (const name of ["display", "width", "height", "margin", "padding", "color", "backgroundColor", "border", "borderRadius", "font", "verticalAlign"]) {
          node.style[name] = style[name];
        }
        added.push([element, which, node]);
      }
    }
    for (const [element, which, node] of added) {
      element.classList.add("retro-pictured");
      if (which === "::before") element.prepend(node);
      else element.append(node);
    }
  }

  function ground(element) {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!/^rgba\(.*, 0\)$|^transparent$/.test(colour)) return colour;
    }
    return "white";
  }

  function paint(element, pen, canvases) {
    const style = getComputedStyle(element);
    if (style.display === "none" || style.visibility === "hidden") return;
    pen.save();
    pen.globalAlpha *= Number(style.opacity);
    for (const box of element.getClientRects()) paintBox(pen, box, style);
    const drawn = canvases.get(element);
    const box = element.getBoundingClientRect();
    if (drawn && drawn.width && drawn.height) pen.drawImage(drawn, box.left, box.top, box.width, box.height);
    else if (element.tagName.toLowerCase() === "svg") paintSvg(pen, element, box);
    else {
      for (const child of element.childNodes) {
        if (child.nodeType === Node.TEXT_NODE) paintText(pen, child, style);
        else if (child.nodeType === Node.ELEMENT_NODE) paint(child, pen, canvases);
      }
    }
    pen.restore();
  }

  function paintBox(pen, box, style) {
    if (!box.width || !box.height) return;
    const round = Math.min(parseFloat(style.borderTopLeftRadius) || 0, box.width / 2, box.height / 2);
    pen.beginPath();
    pen.roundRect(box.left, box.top, box.width, box.height, round);
    pen.fillStyle = style.backgroundColor;
    pen.fill();
    const gradient = gradientOf(pen, style.backgroundImage, box);
    if (gradient) {
      pen.fillStyle = gradient;
      pen.fill();
    }
    const sides = ["Top", "Right", "Bottom", "Left"].map((side) => ({
      width: style["border" + side + "Style"] === "none" ? 0 : parseFloat(style["border" + side + "Width"]) || 0,
      colour: style["border" + side + "Color"],
      dashes: dashes(style["border" + side + "Style"]),
    }));
    if (sides.every((side) => side.width && side.width === sides[0].width && side.colour === sides[0].colour)) {
      const half = sides[0].width / 2;
      pen.beginPath();
      pen.roundRect(box.left + half, box.top + half, box.width - 2 * half, box.height - 2 * half, Math.max(0, round - half));
      stroke(pen, sides[0]);
    } else {
      const [top, right, bottom, left] = sides;
      line(pen, box.left, box.top + top.width / 2, box.right, box.top + top.width / 2, top);
      line(pen, box.right - right.width / 2, box.top, box.right - right.width / 2, box.bottom, right);
      line(pen, box.left, box.bottom - bottom.width / 2, box.right, box.bottom - bottom.width / 2, bottom);
      line(pen, box.left + left.width / 2, box.top, box.left + left.width / 2, box.bottom, left);
    }
    const outline = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth) || 0;
    if (outline) {
      const grow = outline / 2 + (parseFloat(style.outlineOffset) || 0);
      pen.beginPath();
      pen.roundRect(box.left - grow, box.top - grow, box.width + 2 * grow, box.height + 2 * grow, round);
      stroke(pen, { width: outline, colour: style.outlineColor, dashes: [] });
    }
  }

  function gradientOf(pen, image, box) {
    const found = /^linear-gradient\((?:to right|90deg), (.*)\)$/.exec(image || "");
    if (!found) return null;
    const stops = found[1].split(/,(?![^(]*\))/).map((stop) => stop.trim().replace(/ [\d.]+%$/, ""));
    const gradient = pen.createLinearGradient(box.left, 0, box.right, 0);
    stops.forEach((stop, i) => gradient.addColorStop(stops.length > 1 ? i / (stops.length - 1) : 0, stop));
    return gradient;
  }

  function dashes(style) {
    return { dotted: [1.5, 2], dashed: [4, 3] }[style] || [];
  }

  function stroke(pen, { width, colour, dashes: pattern }) {
    if (!width) return;
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.setLineDash(pattern);
    pen.stroke();
    pen.setLineDash([]);
  }

  function line(pen, x0, y0, x1, y1, side) {
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    stroke(pen, side);
  }

  // Line by line as the browser broke it; letters that hang together stay together.
  function paintText(pen, node, style) {
    const text = node.data;
    if (!text.trim()) return;
    pen.font = [style.fontStyle, style.fontWeight, style.fontSize, style.fontFamily].join(" ");
    pen.textBaseline = "alphabetic";
    pen.fillStyle = style.color;
    const upper = style.textTransform === "uppercase";
    const range = document.createRange();
    const size = parseFloat(style.fontSize);
    let row = null;
    const flush = () => {
      if (!row || !row.text.trim()) return;
      const words = upper ? row.text.toUpperCase() : row.text;
      const metrics = pen.measureText("Mg");
      const rise = metrics.fontBoundingBoxAscent ?? size * 0.8;
      const fall = metrics.fontBoundingBoxDescent ?? size * 0.2;
      const base = row.top + (row.height - rise - fall) / 2 + rise;
      pen.fillText(words.replace(/\s+$/, ""), row.left, base);
      const under = decoration(node.parentElement);
      if (under) line(pen, row.left, base + 3, row.right, base + 3, under);
    };
    for (let i = 0; i < text.length; ) {
      const next = i + String.fromCodePoint(text.codePointAt(i)).length;
      range.setStart(node, i);
      range.setEnd(node, next);
      const at = range.getClientRects()[0];
      if (at && at.width) {
        if (row && Math.abs(at.top - row.top) < 2 && at.left >= row.right - 2) {
          row.text += text.slice(i, next);
          row.right = at.right;
        } else {
          flush();
          row = { text: text.slice(i, next), left: at.left, right: at.right, top: at.top, height: at.height };
        }
      } else if (row && at) row.text += text.slice(i, next);
      i = next;
    }
    flush();
  }

  function decoration(element) {
    for (let one = element; one && one !== place; one = one.parentElement) {
      const style = getComputedStyle(one);
      if (style.textDecorationLine.includes("underline")) {
        return { width: 1.3, colour: style.textDecorationColor, dashes: dashes(style.textDecorationStyle) };
      }
      if (style.display !== "inline") return null;
    }
    return null;
  }

  function paintSvg(pen, image, box) {
    const view = image.viewBox.baseVal;
    if (!view || !view.width || !box.width) return;
    pen.save();
    pen.translate(box.left, box.top);
    pen.scale(box.width / view.width, box.height / view.height);
    for (const path of image.querySelectorAll("path")) {
      const style = getComputedStyle(path);
      const shape = new Path2D(path.getAttribute("d"));
      if (style.fill !== "none") {
        pen.fillStyle = style.fill;
        pen.fill(shape);
      }
      if (style.stroke !== "none") {
        pen.lineWidth = parseFloat(style.strokeWidth) || 1;
        pen.strokeStyle = style.stroke;
        pen.stroke(shape);
      }
    }
    pen.restore();
  }
}
