"""What tests in a browser share: when they can run, pages that are looked after, waiting, contrast. The
fixtures that give them a server and pages are in conftest.py."""

import shutil
from importlib.util import find_spec

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
page_tests = [
    pytest.mark.page,
    pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright: pip install playwright"),
]


def in_a_browser(test):
    """For a single test of a module."""
    for mark in page_tests:
        test = mark(test)
    return test


PAYLOADS = [
    "<img src=x onerror=\"window.__pwned='img'\">",
    "${window.__pwned='dollar'}",
    "{{constructor.constructor('window.__pwned=1')()}}",
    "`;window.__pwned='tick';//",
    "\\u{zz} \\frac{1}{2} \\x",
    "<script>window.__pwned='script'</script>",
    "<svg/onload=window.__pwned='svg'>",
    '<div style="position:fixed;inset:0" id=overlay>',
    "[x](javascript:window.__pwned=1)",
    "👩‍👩‍👧 zero​width",
]
PAYLOAD = " ".join(PAYLOADS)


class Pages:
    """Pages of a server, and what went wrong on them. Each has cookies and memory of its own."""

    def __init__(self, browser, address: str):
        self._browser, self._address = browser, address
        self._pages, self._troubles = [], []

    def open(self, width: int = 1280, query: str = ""):
        page = self._browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(60_000)
        page.on("console", lambda line: self._troubles.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self._troubles.append(str(error)))
        page.on("request", lambda sent: self._troubles.append(sent.url) if self._foreign(sent.url) else None)
        page.goto(self._address + query)
        page.wait_for_selector(".lens-token")
        self._pages.append(page)
        return page

    def _foreign(self, url: str) -> bool:
        return not url.startswith((self._address, "data:", "blob:"))

    def check(self) -> None:
        """No error was logged, no other host was asked and no payload has run."""
        for page in self._pages:
            assert page.evaluate("window.__pwned") is None
            assert page.locator("#overlay").count() == 0
        troubles, self._troubles = self._troubles, []
        assert troubles == []

    def close(self) -> None:
        for page in self._pages:
            page.close()


def frames(page, count=3):
    page.evaluate(
        "n => new Promise(done => { const f = () => n-- ? requestAnimationFrame(f) : done(); f(); })", count
    )


# Frames come late, as on a busy computer.
LATE_FRAMES = """() => {
  const frame = window.requestAnimationFrame;
  window.requestAnimationFrame = (then) => setTimeout(() => frame(then), 700);
}"""


# And what waits for a moment does so for longer than that, as on a computer that is busier still: Gradio has
# not noted yet what was typed when it fills what a fold holds.
LATE_MOMENTS = """() => {
  const later = window.setTimeout;
  window.setTimeout = (then, ms, ...more) => later(then, ms || 1000, ...more);
}"""


def settled(page, quiet=150, patience=3000):
    """Wait until nothing has changed on the page for `quiet` ms: what was clicked has been drawn."""
    page.evaluate(
        """([quiet, patience]) => new Promise((done) => {
          const end = () => { watch.disconnect(); clearTimeout(late); done(); };
          const late = setTimeout(end, patience);
          let calm = setTimeout(end, quiet);
          const watch = new MutationObserver(() => { clearTimeout(calm); calm = setTimeout(end, quiet); });
          const all = { subtree: true, childList: true, attributes: true, characterData: true };
          watch.observe(document.body, all);
        })""",
        [quiet, patience],
    )


def in_both_themes(page):
    """Once as the page is, once after a click on its own switch."""
    for _ in range(2):
        frames(page)
        page.evaluate(_FADED)
        yield "dark" if page.evaluate("document.body.classList.contains('dark')") else "light"
        page.locator("#theme").evaluate("button => button.click()")  # it may be scrolled away


_FADED = """() => Promise.all(document.getAnimations()
  .filter((one) => one instanceof CSSTransition).map((one) => one.finished.catch(() => {})))"""


def unreadable(page, selectors: str) -> list[str]:
    """Chosen elements with text whose contrast is below 4.5, fills blended over what is behind them."""
    return page.evaluate(_UNREADABLE, selectors)


_UNREADABLE = """(selectors) => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number).concat(1).slice(0, 4);
  const over = (top, base) => [0, 1, 2].map((i) => top[i] * top[3] + base[i] * (1 - top[3])).concat(1);
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((base, top) => over(top, base), [255, 255, 255, 1]);
  };
  const light = (c) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const low = [];
  let read = 0;
  for (const e of document.querySelectorAll(selectors)) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility({ visibilityProperty: true }) || e.closest("[disabled]")) continue;
    const base = behind(e);
    const [a, b] = [light(over(parse(getComputedStyle(e).color), base)), light(base)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    read += 1;
    if (contrast < 4.5) low.push(`${contrast.toFixed(2)}: ${e.outerHTML.slice(0, 160)}`);
  }
  return read ? low : ["nothing to read"];
}"""
