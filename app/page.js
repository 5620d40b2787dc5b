() => {
  // Runs once when the page is there: keys, the theme, the tab in the address, details of errors.
  const remember = (name, value) => { try { localStorage.setItem("retro-" + name, value); } catch { /* private mode */ } };
  const recall = (name) => { try { return localStorage.getItem("retro-" + name); } catch { return null; } };

  if (!new URLSearchParams(location.search).has("__theme") && recall("theme")) {
    document.body.classList.toggle("dark", recall("theme") === "dark");
  }
  document.querySelector("#theme")?.addEventListener("click", () => {
    const dark = document.body.classList.toggle("dark");
    remember("theme", dark ? "dark" : "light");
  });

  // Ctrl+Enter runs what is on the tab, wherever one types in it; what is in a tab comes and goes.
  const RUNS = { "#compare-prompt": "#compare-run", "#prompt, #settings, #task": "#run" };
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const [, button] = Object.entries(RUNS).find(([place]) => event.target.closest(place)) || [];
    if (!button) return;
    event.preventDefault();
    document.querySelector(button).click();
  });

  // Gradio notes what is typed (app/typed.py) a moment after it is. Where it fills what a fold or a tab holds
  // within that moment, what was there before comes back; then it is typed anew.
  const FRAMES = 5; // the noting takes one, the filling two
  const typing = new Map();
  let again = false;
  document.addEventListener("input", ({ target }) => {
    if (again || !target.matches("textarea, input[type=text], input[type=number]")) return;
    const typed = target.value;
    typing.set(target, typed);
    let left = FRAMES;
    const look = () => {
      if (left-- === 0 || typing.get(target) !== typed) return;
      if (target.value === typed) return requestAnimationFrame(look);
      again = true;
      target.value = typed;
      target.dispatchEvent(new Event("input", { bubbles: true }));
      again = false;
    };
    requestAnimationFrame(look);
  }, true);
  // What a key or a click does to the field meanwhile is meant.
  for (const meant of ["keydown", "pointerdown"]) document.addEventListener(meant, () => typing.clear(), true);

  // Arrow keys move between tabs, and one of a row of tabs is reached by the Tab key.
  const rowOf = (tab) => [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]:not([aria-disabled=true])")];
  const isOurs = (target) => target.matches?.("[role=tab]") && target.closest(".tab-wrapper");
  const rove = () => {
    for (const tab of document.querySelectorAll(".tab-wrapper [role=tab]")) {
      tab.tabIndex = tab.getAttribute("aria-selected") === "true" ? 0 : -1;
    }
  };
  document.addEventListener("keydown", (event) => {
    if (!isOurs(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = rowOf(event.target);
    const at = row.indexOf(event.target);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: row.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const tab = row[(next + row.length) % row.length];
    tab.focus();
    tab.click();
  });

  // The address names the tab, so that a reload comes back to it; it never adds to the history. What a link
  // asked for leaves the address once something else is looked at.
  const readdress = (change) => {
    const query = new URLSearchParams(location.search);
    change(query);
    const text = query.toString();
    history.replaceState(history.state, "", location.pathname + (text ? "?" + text : "") + location.hash);
  };
  const tabs = document.querySelector("#tabs > .tab-wrapper");
  const nameTab = () => {
    rove();
    const chosen = tabs.querySelector("[role=tab][aria-selected=true]")?.dataset.tabId;
    if (!chosen || !window.retroIsBack) return;
    readdress((query) => (chosen === "explore" ? query.delete("tab") : query.set("tab", chosen)));
  };
  if (tabs) new MutationObserver(nameTab).observe(tabs, { subtree: true, childList: true, attributeFilter: ["aria-selected"] });
  rove();
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#run, #recorded button, #open, .swap-side")) return;
    readdress((query) => {
      for (const name of [...query.keys()]) if (name !== "tab" && !name.startsWith("__")) query.delete(name);
    });
  });

  // Whoever tells us of an error can say all that we need: the message, its number, when and where.
  const details = (message) => [message, new Date().toISOString(), location.href.split("?")[0], navigator.userAgent].join("\n");
  const offer = (toast) => {
    if (!toast.matches(".error") || toast.querySelector(".copy-details")) return;
    const holder = toast.querySelector(".toast-messages");
    if (!holder) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-details";
    button.textContent = "Copy details";
    button.addEventListener("click", async (event) => {
      event.stopPropagation(); // a click elsewhere on it folds the message
      try {
        await navigator.clipboard.writeText(details([...holder.querySelectorAll("[data-testid=toast-text]")].map((one) => one.textContent).join("\n")));
        button.textContent = "Copied";
      } catch { // a page without https may not write there
        button.textContent = "Not allowed to copy here";
      }
    });
    holder.append(button);
  };
  const watchToasts = (wrap) =>
    new MutationObserver(() => wrap.querySelectorAll("[data-testid=toast-body]").forEach(offer)).observe(wrap, { subtree: true, childList: true });
  const main = document.querySelector(".gradio-container .main");
  const wrap = document.querySelector(".toast-wrap");
  if (wrap) watchToasts(wrap);
  else if (main) {
    const waiting = new MutationObserver(() => {
      const found = main.querySelector(":scope > .toast-wrap");
      if (!found) return;
      waiting.disconnect();
      watchToasts(found);
      found.querySelectorAll("[data-testid=toast-body]").forEach(offer);
    });
    waiting.observe(main, { childList: true });
  }
}
