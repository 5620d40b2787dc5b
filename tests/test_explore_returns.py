"""What was looked at comes back, in a browser: by a link, after a reload, after a restart; and it leaves as
a picture. Nothing of a link becomes part of the page but as text."""

import struct
from urllib.parse import urlencode

from browsing import PAYLOAD, page_tests
from live_app import free_port, live_app
from unhurried_app import SLOWLY

from app import text

pytestmark = page_tests

PROMPT = "The keeper of the lamp at Skerryvore wrote in his book that"
WRITTEN = (
    "n => Number(/writing · (\\d+) of/.exec(document.querySelector('.lens-stage').textContent)?.[1]) >= n"
)
CAN_RUN = "!document.querySelector('#run').disabled && document.querySelector('#stop').disabled"
CAN_STOP = "document.querySelector('#run').disabled && !document.querySelector('#stop').disabled"
SHOWN = "id => document.querySelector('.retro-lens')?.dataset.trace === id"


def test_a_result_comes_back_by_link_reload_and_restart_and_leaves_as_a_picture(browser, tmp_path):
    port = free_port()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    troubles = []
    page.on("pageerror", lambda error: troubles.append(str(error)))

    def open_(query=""):
        page.goto(f"http://127.0.0.1:{port}/{query}", wait_until="commit")
        page.wait_for_function("window.retroIsBack")

    def write(tokens):
        """Begin, and see the first words."""
        page.goto("about:blank")
        open_("?" + urlencode({"prompt": PROMPT, "max_new_tokens": tokens}))
        page.locator("#run").click()
        page.wait_for_function(WRITTEN, arg=2, timeout=120_000)

    def copied(button):
        page.locator("#progress").get_by_text("Link copied").wait_for(state="hidden")
        page.locator(button).click()
        page.locator("#progress").get_by_text("Link copied").wait_for()
        return page.evaluate("navigator.clipboard.readText()")

    with live_app(tmp_path / "home", port):
        # A recorded example at a chunk, and the way back: the history has not grown
        open_("?example=3-ghana&chunk=2")
        page.wait_for_function(SHOWN, arg="recorded-3-ghana")
        assert "Chunk 2" in page.locator(".lens-card-tab[aria-selected=true]").inner_text()
        length = page.evaluate("history.length")
        page.locator(".lens-card-tab").nth(2).click()
        assert copied("#share").endswith("/?example=3-ghana&chunk=3")

        # The picture of it, in the colours of the page
        with page.expect_download() as download:
            page.locator("#picture").click()
        drawn = tmp_path / "lens.png"
        download.value.save_as(drawn)
        data = drawn.read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(b"\x89PNG") and width > 1000 and height > 1000 and len(data) > 100_000

        # Arrow keys between tabs; the tab is in the address
        page.locator("#tabs [role=tab][aria-selected=true]").first.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("location.search.includes('tab=compare')")
        assert page.evaluate("document.activeElement.dataset.tabId") == "compare"
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("!location.search.includes('tab=')")
        assert page.evaluate("history.length") == length

        # A hostile prompt in a link is text, and settings come along
        page.goto("about:blank")
        open_(
            "?"
            + page.evaluate(
                "p => new URLSearchParams({prompt: p, seed: 7, task: 'read', top_k: -4}) + ''", PAYLOAD
            )
        )
        page.locator("#progress").get_by_text(text.LINKED).wait_for()
        assert "left out: top_k" in page.locator("#progress").inner_text()
        assert page.locator("#prompt textarea").input_value() == PAYLOAD
        assert page.locator("#task input:checked").get_attribute("value") == "read"

        # Read it; a reload brings back result, text and settings
        page.locator("#run").click()
        page.locator("#progress").get_by_text("Bits per byte").wait_for(timeout=120_000)
        page.wait_for_function("localStorage.getItem('retro-explore-seen')")
        kept = page.locator(".retro-lens").get_attribute("data-trace")
        assert not kept.startswith("recorded")
        open_()
        page.wait_for_function(SHOWN, arg=kept)
        assert page.locator("#prompt textarea").input_value() == PAYLOAD
        assert page.locator("#task input:checked").get_attribute("value") == "read"
        assert not page.locator("#notice").is_visible()

        # Loaded anew in the midst of writing: it goes on, before the same visitor's eyes, and can be stopped
        (tmp_path / "home" / SLOWLY).touch()
        write(1000)
        before = page.locator(".lens-text").inner_text()[:60]
        open_()
        page.wait_for_function(WRITTEN, arg=4)
        assert page.locator(".lens-text").inner_text().startswith(before)
        page.wait_for_function(CAN_STOP)
        page.locator("#stop").click()
        page.locator("#progress").get_by_text("Stopped after").wait_for()
        page.wait_for_function(CAN_RUN)
        kept = page.locator(".retro-lens").get_attribute("data-trace")

        # Ended while the page was away: it comes back with what there is
        write(40)
        page.goto("about:blank")
        (tmp_path / "home" / SLOWLY).unlink()
        page.wait_for_timeout(4000)
        open_()
        page.locator("#progress").get_by_text("Wrote").wait_for()
        assert page.locator(".retro-lens").get_attribute("data-trace") != kept
        page.wait_for_function(CAN_RUN)
        assert not page.locator("#notice").is_visible()

        (tmp_path / "home" / SLOWLY).touch()
        write(1000)
        page.goto("about:blank")

    # A restart cuts it off: prompt, settings and what was written are there, and why it ends there
    with live_app(tmp_path / "home", port):
        open_()
        page.locator("#notice").get_by_text("restarted while a text was being written").wait_for()
        page.locator(".lens-stage").get_by_text("cut off after").wait_for()
        assert page.locator(".lens-text").inner_text().startswith(before)
        assert page.locator("#prompt textarea").input_value() == PROMPT
        assert page.evaluate(CAN_RUN)
        page.locator("#dismiss").click()
        page.locator("#notice").wait_for(state="hidden")
        open_()
        page.wait_for_function(SHOWN, arg="recorded-1-population-2025")
        assert page.locator("#lost").inner_text() == text.RESTARTED, "of what was looked at before; once"
    assert page.evaluate("window.__pwned") is None
    assert troubles == []
    context.close()
