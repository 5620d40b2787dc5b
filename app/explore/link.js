(...values) => {
  // The address of what is seen: a recorded example and its chunk, or the prompt with all settings that are
  // not the usual ones; on other tabs the tab. What an address may say: app/address.py.
  const names = {names};
  const usual = {usual};
  const LONGEST = 4000; // of a prompt in an address
  const seen = new URLSearchParams();
  const tab = document.querySelector("#tabs > .tab-wrapper [role=tab][aria-selected=true]")?.textContent.trim().toLowerCase() || "explore";
  const lens = document.querySelector(".retro-lens");
  const recorded = /^recorded-(.+)$/.exec(lens?.dataset.trace || "");
  const changed = tab === "explore" && JSON.parse(lens?.dataset.shows || "{}").changed;
  const without = changed ? " It leads to the text before your change, which a saved file holds." : "";
  if (tab !== "explore") seen.set("tab", tab);
  else if (recorded) {
    seen.set("example", recorded[1]);
    const chunk = document.querySelector(".lens-strip [aria-selected=true]")?.dataset.chunk;
    if (chunk !== undefined) seen.set("chunk", Number(chunk) + 1);
  } else {
    const prompt = String(values[0] ?? "");
    if (prompt.length > LONGEST) return { text: "This prompt is too long for a link: save the result and send the file.", tone: "bad" };
    names.forEach((name, i) => {
      const value = values[i];
      if (value === null || value === undefined || value === "" || value === usual[name]) return;
      // Whose a datastore is, its visitor's cookie says and no address: others are told that it is not there.
      seen.set(name, name === "datastore" ? String(value).replace(/\.[uv]-[0-9a-f]{16}$/, "") : String(value));
    });
  }
  const address = location.origin + location.pathname + (seen.size ? "?" + seen : "");
  return navigator.clipboard?.writeText(address).then(
    () => ({ text: "Link copied: " + (address.length > 120 ? address.slice(0, 119) + "…" : address) + without, tone: "good" }),
  ).catch(() => ({ text: address + without, tone: "good" })) ?? { text: address + without, tone: "good" };
}
