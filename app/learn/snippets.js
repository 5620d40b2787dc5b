// Programs to copy. What docs/api.md prints has one address; here it is the one of this page.

const PRINTED = "http://127.0.0.1:7860";
const holder = element.querySelector(".snippets");

function frame(snippet) {
  const code = snippet.code.replaceAll(PRINTED, location.origin + location.pathname.replace(/\/$/, ""));
  const words = make("code", "", display(code));
  const pre = make("pre", "", words);
  pre.tabIndex = 0; // wide ones scroll
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", snippet.title);
  const copy = make("button", "", "Copy");
  copy.type = "button";
  copy.setAttribute("aria-label", "Copy: " + snippet.title);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code);
      copy.textContent = "Copied";
    } catch { // not served over https, or not allowed
      const range = document.createRange();
      range.selectNodeContents(words);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      copy.textContent = "Ctrl+C copies";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 2500);
  });
  return make("section", "snippet", make("header", "", make("h3", "", snippet.title), copy), pre);
}

async function draw() {
  const answer = await answerOf(server.snippets({}), "The server did not answer. Load the page again.");
  if (answer.error) holder.replaceChildren(make("p", "learn-said", answer.error));
  else holder.replaceChildren(...answer.snippets.map(frame));
}

draw();
