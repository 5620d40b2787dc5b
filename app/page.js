() => {
  // Runs once when the page is there: Ctrl+Enter, and what a reload must not lose.
  const remember = (name, value) => { try { localStorage.setItem("retro-" + name, value); } catch { /* private mode */ } };
  const recall = (name) => { try { return localStorage.getItem("retro-" + name); } catch { return null; } };

  if (!new URLSearchParams(location.search).has("__theme") && recall("theme")) {
    document.body.classList.toggle("dark", recall("theme") === "dark");
  }
  document.querySelector("#theme")?.addEventListener("click", () => {
    const dark = document.body.classList.toggle("dark");
    remember("theme", dark ? "dark" : "light");
  });

  document.addEventListener("keydown", (event) => { // what is in another tab comes and goes
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !event.target.closest("#compare-prompt")) return;
    event.preventDefault();
    document.querySelector("#compare-run").click();
  });

  const prompt = document.querySelector("#prompt textarea");
  if (!prompt) return;
  if (!prompt.value && recall("prompt")) {
    prompt.value = recall("prompt");
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
  }
  prompt.addEventListener("input", () => remember("prompt", prompt.value.slice(0, 100000)));
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    document.querySelector("#run").click();
  });
}
