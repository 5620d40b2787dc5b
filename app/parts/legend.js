// value: {badge, items: [{colour, name, count}], notes: [text]}
const holder = element.querySelector(".legend");

function show() {
  const value = given() || {};
  holder.replaceChildren();
  if (value.badge) holder.append(make("p", "legend-badge", value.badge));
  const items = (value.items || []).map((item) => {
    const dot = make("i", "");
    if (/^#[0-9a-f]{6}$/.test(item.colour)) dot.style.background = item.colour;
    return make("li", "", dot, make("span", "", item.name), make("small", "", Number(item.count).toLocaleString("en")));
  });
  if (items.length) holder.append(make("ul", "", ...items));
  for (const note of value.notes || []) holder.append(make("p", "", note));
}

watch("value", show);
show();
