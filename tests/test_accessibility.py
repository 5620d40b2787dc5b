"""Every tab, in light and in dark: what axe-core finds on our components, the keyboard alone, the width of a
phone, no motion. Tabs are found on the page, so a new one is checked too."""

import json
from pathlib import Path

import pytest
from browsing import in_both_themes, page_tests, settled, unreadable

pytestmark = page_tests

axe = pytest.importorskip("axe_playwright_python", reason="needs axe-core: pip install axe-playwright-python")
AXE = Path(axe.__file__).with_name("axe.min.js")

# Rule -> selectors of Gradio's own elements that break it and cannot be mended by theme or style.
GRADIO = {
    "aria-prohibited-attr": [".empty"],  # a plot before it is drawn: aria-label on a plain div
    "scrollable-region-focusable": [".cm-scroller"],  # code that is only shown; its Copy button is reached
}

_RULES = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
    "dark": {"type": "rule", "values": ["color-contrast"]},  # all else is as in light
}
_RUN = """async ([gradio, rules]) => {
  const found = await axe.run(document, { resultTypes: ["violations"], runOnly: rules });
  return found.violations
    .filter((one) => ["critical", "serious"].includes(one.impact))
    .flatMap((one) => one.nodes.map((node) => ({ rule: one.id, impact: one.impact, at: node.target.join(" "),
      html: node.html.slice(0, 160), why: node.failureSummary.slice(0, 300),
      known: (gradio[one.id] || []).some((selector) => {
        try { return document.querySelector(node.target.at(-1))?.matches(selector); } catch { return false; }
      }) })));
}"""


@pytest.fixture(scope="module")
def pages(server, browser):
    """A page by its width, opened once."""
    opened = {}

    def page(width=1280):
        if width not in opened:
            context = browser.new_context(
                viewport={"width": width, "height": 900}, bypass_csp=True, reduced_motion="reduce"
            )
            opened[width] = made = context.new_page()
            made.set_default_timeout(60_000)
            made.goto(f"{server.address}?__theme=light")
            made.wait_for_selector(".lens-token")
            made.wait_for_function("window.retroIsBack")
        return opened[width]

    yield page
    for made in opened.values():
        made.context.close()


_NAMES = """() => {
  const own = document.querySelector("#tabs");
  const list = [...own.querySelectorAll("[role=tablist]")].find((one) => one.closest(".tabs") === own);
  return [...new Set([...list.querySelectorAll("[role=tab]")].map((tab) => tab.textContent.trim()))];
}"""


def tab_names(page):
    return page.evaluate(_NAMES)


def show(page, name):
    page.evaluate(
        "name => [...document.querySelectorAll('#tabs [role=tab]')]"
        ".find((tab) => tab.textContent.trim() === name).click()",
        name,
    )
    settled(page)


def unfold(page):
    page.evaluate(
        "() => { for (const e of document.querySelectorAll('details')) e.open = true;"
        " for (const e of document.querySelectorAll('.fold > button')) if (!e.classList.contains('open'))"
        " e.click(); }"
    )
    settled(page)


def screens(page):
    """Each tab, and each tab within it, with all that is folded opened."""
    for name in tab_names(page):
        show(page, name)
        unfold(page)
        inner = page.locator("#tabs [role=tabpanel] .tab-container[role=tablist] > [role=tab]:visible")
        for number in range(inner.count()):
            inner.nth(number).evaluate("tab => tab.click()")
            settled(page)
            unfold(page)
            yield f"{name}, {inner.nth(number).inner_text()}"
        if not inner.count():
            yield name


def test_axe_finds_nothing_serious_and_our_words_can_be_read_in_light_and_dark(pages):
    page = pages()
    page.add_script_tag(path=AXE)
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; }")
    found, low = {}, []
    for screen in screens(page):
        for theme in in_both_themes(page):
            for one in page.evaluate(_RUN, [GRADIO, _RULES[theme]]):
                if not one.pop("known"):
                    found.setdefault((one["rule"], one["at"]), {"screen": screen, "theme": theme, **one})
            # Where axe cannot tell what is behind a word, it says nothing.
            ours = unreadable(page, "#header *, #tabs .html-container *")
            low += [f"{screen}, {theme}, {one}" for one in ours]
    assert not found, json.dumps(list(found.values()), indent=1, ensure_ascii=False)
    assert not low, "\n".join(low[:20])


_FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const near = [e, e.parentElement, e.parentElement?.parentElement].filter(Boolean);
  const look = () => near.map((one) => {
    const style = getComputedStyle(one);
    return [style.outlineStyle, style.outlineWidth, style.outlineColor, style.boxShadow, style.borderColor,
      style.backgroundColor, style.textDecoration].join();
  }).join("|");
  const on = look();
  e.blur();
  const off = look();
  e.focus({ focusVisible: true });
  window.__places ??= new Map();
  if (!window.__places.has(e)) window.__places.set(e, window.__places.size);
  const box = e.getBoundingClientRect();
  return {
    place: window.__places.get(e),
    what: e.outerHTML.slice(0, 160),
    seen: e.checkVisibility({ visibilityProperty: true }) && (box.width > 0 || e.matches("input")),
    marked: on !== off,
    own: Boolean(e.closest(".html-container, .retro-lens, [class*=lens], .chips, #header, .folds")),
    inside: Boolean(e.closest("[role=tabpanel]")),
  };
}"""


def test_the_keyboard_alone_reaches_every_tab_and_its_buttons_and_shows_where_it_is(pages):
    page = pages()
    names = tab_names(page)
    for place, name in enumerate(names):
        page.evaluate(
            "name => { window.scrollTo(0, 0); [...document.querySelectorAll('#tabs [role=tab]')]"
            ".find((tab) => tab.textContent.trim() === name && tab.checkVisibility()).focus(); }",
            names[max(0, place - 1)],
        )
        page.keyboard.press("ArrowRight" if place else "Home")
        page.keyboard.press("Enter")
        settled(page)
        chosen = page.locator("#tabs [role=tab][aria-selected=true]").first.inner_text()
        assert chosen.strip() == name
        wanted = page.evaluate(
            "() => [...document.querySelectorAll('[role=tabpanel] button.primary')]"
            ".filter((e) => e.checkVisibility() && !e.disabled).map((e) => e.outerHTML.slice(0, 160))"
        )
        seen, hidden, unmarked = {}, [], []
        for _ in range(120):
            page.keyboard.press("Tab")
            now = page.evaluate(_FOCUSED)
            if now is None or now["place"] in seen:
                break
            seen[now["place"]] = now["what"]
            if not now["seen"]:
                hidden.append(now["what"])
            if not now["marked"]:
                unmarked.append(now["what"])
        assert not hidden, f"{name}: {hidden[:5]}"
        assert not unmarked, f"{name}: {unmarked[:5]}"
        if len(seen) < 119:  # all the way round
            missed = [one for one in wanted if one not in seen.values()]
            assert not missed, f"{name}: {missed[:5]}"


_WIDE = """() => document.documentElement.scrollWidth <= 390 ? [] : [...document.querySelectorAll("body *")]
  .filter((e) => e.getBoundingClientRect().right > 391 && e.checkVisibility())
  .map((e) => e.outerHTML.slice(0, 120)).slice(-4)"""
_MOVING = """() => document.getAnimations()
  .filter((one) => one.playState === "running" && one.effect.getComputedTiming().duration > 50)
  .filter((one) => one.effect.target?.checkVisibility())
  .map((one) => one.effect.target.outerHTML.slice(0, 160))"""


def test_nothing_scrolls_sideways_on_a_phone_and_nothing_moves_where_that_is_not_wanted(pages):
    page = pages(390)
    for screen in screens(page):
        wide = page.evaluate(_WIDE)
        assert not wide, f"{screen}: {wide}"
        moving = page.evaluate(_MOVING)
        assert not moving, f"{screen}: {moving[:4]}"
