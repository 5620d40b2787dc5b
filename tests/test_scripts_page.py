"""The page's own script: keys, the theme, the tab in the address, details of errors."""

import re
from datetime import datetime

import pytest
from browsing import page_tests as pytestmark  # noqa: F401
from script_page import ORIGIN, blank  # noqa: F401

from app import ui

SCRIPTS = ("page.js",)

TABS = ("explore", "compare", "corpus")
PAGE = """() => { document.querySelector(".main").innerHTML = `<button id="theme">t</button>
  <div id="tabs"><div class="tab-wrapper"><div role="tablist">NAMES</div></div>
    <div id="prompt"><textarea></textarea></div><div id="settings"><input></div>
    <div id="compare-prompt"><textarea></textarea></div>
    <input id="elsewhere"><button id="run">Run</button>
    <button id="compare-run">Compare</button><button id="open">Open</button></div>`;
  window.clicked = [];
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (tab) => tabs.forEach((one) => one.setAttribute("aria-selected", String(one === tab)));
  tabs.forEach((one) => one.onclick = () => choose(one)); choose(tabs[0]);
  for (const one of document.querySelectorAll("#run, #compare-run")) one.addEventListener("click", () =>
    clicked.push(one.id)); }""".replace(
    "NAMES", "".join(f'<button role="tab" data-tab-id="{name}">{name}</button>' for name in TABS)
)
SOURCE = (ui._HERE / "page.js").read_text(encoding="utf-8")


@pytest.fixture
def page(blank):  # noqa: F811
    def begin(query=""):
        blank.page.goto(ORIGIN + query)
        blank.page.evaluate(PAGE)
        blank.page.evaluate(f"({SOURCE})()")

    blank.page.begin = begin
    begin()
    return blank.page


def test_the_theme_is_kept_and_the_address_can_ask_for_another(page):
    dark = "document.body.classList.contains('dark')"
    page.click("#theme")
    assert page.evaluate(dark)
    page.begin()
    assert page.evaluate(dark)
    page.begin("?__theme=light")
    assert not page.evaluate(dark)
    page.begin()
    page.click("#theme")
    page.begin()
    assert not page.evaluate(dark)


def test_control_and_enter_run_what_is_on_the_tab(page):
    for place, keys, expected in (
        ("#prompt textarea", "Control+Enter", ["run"]), ("#settings input", "Meta+Enter", ["run"]),
        ("#compare-prompt textarea", "Control+Enter", ["compare-run"]), ("#elsewhere", "Control+Enter", []),
        ("#prompt textarea", "Enter", []),
    ):  # fmt: skip
        page.focus(place)
        page.keyboard.press(keys)
        assert page.evaluate("clicked.splice(0)") == expected, (place, keys)


def test_tabs_are_one_stop_and_arrow_keys_go_round(page):
    def now():
        return page.evaluate("""() => [document.activeElement.dataset.tabId,
          document.querySelector("[aria-selected=true]").dataset.tabId,
          [...document.querySelectorAll("[role=tab]")].map((one) => one.tabIndex)]""")

    page.focus("[role=tab] >> nth=0")
    for key, at in (
        ("ArrowRight", 1),
        ("End", 2),
        ("ArrowRight", 0),
        ("ArrowLeft", 2),
        ("Home", 0),
        ("Control+ArrowRight", 0),
    ):
        page.keyboard.press(key)
        stops = [0 if n == at else -1 for n in range(3)]
        assert now() == [TABS[at], TABS[at], stops], key


def test_the_address_names_the_tab_and_forgets_what_a_link_asked_for(page):
    page.begin("?prompt=a&seed=3&__theme=dark#x")

    def query():
        return page.evaluate("new Promise(requestAnimationFrame).then(() => location.search + location.hash)")

    long = page.evaluate("history.length")
    page.click("[role=tab] >> nth=1")
    assert query() == "?prompt=a&seed=3&__theme=dark#x"  # the page has not come back to where it was
    page.evaluate("window.retroIsBack = true")
    page.click("[role=tab] >> nth=2")
    assert query() == "?prompt=a&seed=3&__theme=dark&tab=corpus#x"
    page.click("#open")
    assert query() == "?__theme=dark&tab=corpus#x"
    page.click("[role=tab] >> nth=0")
    assert query() == "?__theme=dark#x" and page.evaluate("history.length") == long


@pytest.mark.parametrize("later", [True, False])
def test_the_details_of_an_error_can_be_copied(page, later):
    toast = """(kind) => { let wrap = document.querySelector(".toast-wrap");
      if (!wrap) { wrap = document.createElement("div"); wrap.className = "toast-wrap";
        document.querySelector(".main").append(wrap); }
      wrap.insertAdjacentHTML("beforeend",
        `<div data-testid="toast-body" class="${kind}"><div class="toast-messages">
        <div data-testid="toast-text">Expected a number. [E7]</div></div></div>`); }"""
    if not later:
        page.evaluate(PAGE)
        page.evaluate(
            "document.querySelector('.main').insertAdjacentHTML('beforeend', '<div class=toast-wrap></div>')"
        )
        page.evaluate(f"({SOURCE})()")
    page.evaluate(toast, "info")
    page.evaluate(toast, "error")
    page.wait_for_selector(".copy-details")
    page.evaluate("new Promise(requestAnimationFrame)")
    assert page.locator(".copy-details").count() == 1 and page.locator(".info .copy-details").count() == 0
    page.click(".copy-details")
    page.wait_for_function("document.querySelector('.copy-details').textContent === 'Copied'")
    message, when, where, browser_name = (
        page.evaluate("navigator.clipboard.readText()").replace("\r", "").split("\n")
    )
    assert message == "Expected a number. [E7]" and where == ORIGIN and browser_name.startswith("Mozilla/")
    assert re.fullmatch(r"[\d-]{10}T[\d:.]+Z", when) and datetime.fromisoformat(when.replace("Z", "+00:00"))
    page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error()))")
    page.click(".copy-details")
    page.wait_for_function(
        "document.querySelector('.copy-details').textContent === 'Not allowed to copy here'"
    )
