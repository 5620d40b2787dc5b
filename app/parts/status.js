const line = element.querySelector(".status-line");
const [words, track] = line.children;

function show() {
  const value = props.value && typeof props.value === "object" ? props.value : { text: props.value || "" };
  words.textContent = value.text || "";
  line.dataset.tone = value.tone || "idle";
  const measured = typeof value.fraction === "number";
  track.style.display = measured ? "" : "none";
  track.firstElementChild.style.width = (measured ? Math.max(0, Math.min(1, value.fraction)) * 100 : 0) + "%";
}

watch("value", show);
show();
