// value: {first: {id: trace}}: what the lens draws of some recorded examples, as JSON text. The others are fetched
// once, when the page has come up and the browser has nothing else to do, and kept: a click waits for nothing.
const views = new Map(Object.entries(given()?.first || {}));
let fetching = null;

function fetchAll() {
  fetching ??= answerOf(server.recorded({})).then((answer) => {
    fetching = null;
    for (const [id, view] of Object.entries(answer.views || {})) views.set(id, view);
    return answer;
  });
  return fetching;
}

// What a button of this row puts into the lens.
window.retroRecorded = async (id) => {
  const { error } = views.has(id) ? {} : await fetchAll();
  return views.get(id) ?? JSON.stringify({ refused: error || "There is no such example here." });
};

function fetchSoon() {
  if (!window.retroIsBack) return setTimeout(fetchSoon, 300);
  if (navigator.connection?.saveData) return;
  if (window.requestIdleCallback) requestIdleCallback(fetchAll);
  else setTimeout(fetchAll, 300);
}
fetchSoon();
