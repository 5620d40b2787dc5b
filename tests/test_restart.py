"""A reload, and a server killed and started again, while a text is written, a datastore is built and a model
is trained: what comes back, what the page says, which buttons can be pressed, what lies on the disk."""

import pytest
import unhurried_app
from browsing import page_tests
from live_app import live_app

from indexing.datastore import Datastore
from retro_core import run_folder

pytestmark = page_tests

PROMPT = "The keeper of the lamp at Skerryvore wrote in his book that"
TEXT = "".join(
    f"{i} The Quibbling Heron is an inn at Marrow Ford, kept by Ada Brisket. " for i in range(9000)
)


def until(page, script, patience=120_000):
    page.wait_for_function(script, timeout=patience)


def says(selector, words):
    return f"document.querySelector({selector!r})?.innerText.includes({words!r})"


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def buttons(page, **wanted):
    """Wait until each of them can be pressed, or cannot: an answer may set one a moment before another."""
    until(
        page,
        " && ".join(
            f"document.querySelector('#{name}').disabled === {str(not can).lower()}"
            for name, can in wanted.items()
        ),
    )


def write_a_lot(page):
    page.locator("#prompt textarea").fill(PROMPT)
    if not page.locator("#max_new_tokens").is_visible():
        page.locator("#settings button").first.click()
    page.locator("#max_new_tokens input[type=number]").fill("1000")
    page.locator("#run").click()
    until(page, says(".lens-stage", "writing"))
    buttons(page, run=False, stop=True)


def build_inns(page, pasted):
    """From the first step of the wizard to its last."""
    page.locator("#pasted textarea").fill(pasted)
    page.locator("#text-told").get_by_text("of 64 tokens").wait_for()
    page.locator("#to-chunks").click()
    page.locator("#to-index").click()
    page.locator("#to-build").click()
    page.locator("#corpus-name input, #corpus-name textarea").fill("inns")
    page.locator("#index").click()


def opened(page, address):
    page.goto(address, wait_until="commit")
    page.wait_for_selector(".lens-token")
    until(page, "window.retroIsBack")


@pytest.fixture(scope="module")
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    yield page
    context.close()


def test_what_a_reload_and_a_killed_server_leave(tmp_path, page, monkeypatch):
    home = tmp_path / "served"
    home.mkdir()
    for file in (unhurried_app.SLOWLY, unhurried_app.PRETEND):
        (home / file).touch()
    with live_app(home) as first:
        opened(page, first.address)
        write_a_lot(page)

        opened(page, first.address)  # anew, in the middle of it
        until(page, "document.querySelector('#prompt textarea').value.includes('Skerryvore')")
        buttons(page, run=False, stop=True)  # it goes on, and can be stopped
        page.locator("#stop").click()
        until(page, says("#progress", "Stopped after"))

        tab(page, "Train")
        page.wait_for_selector("#train-start")
        page.locator("#train-settings button").first.click()
        page.get_by_label("Name of the run").fill("mine")
        page.get_by_label("Steps", exact=True).fill("100000")
        page.locator("#train-start").click()
        until(page, says("[data-run='mine'] .run-state", "running"))
        tab(page, "Corpus")
        build_inns(page, TEXT)
        until(page, says("#index-progress", "chunks/s"))
        tab(page, "Explore")
        write_a_lot(page)
        first.process.kill()
        first.process.wait()
        before = run_folder.read_status(home / "runs" / "mine")

        with live_app(home, first.port) as second:
            opened(page, second.address)
            until(page, "document.querySelector('#prompt textarea').value.includes('Skerryvore')")
            buttons(page, run=True, stop=False)
            until(page, says(".lens-stage", "cut off after"))
            assert "Skerryvore" in page.locator(".lens-text").inner_text()

            tab(page, "Corpus")
            until(page, says("#index-progress", "started anew"))
            assert "It was not finished" in page.locator("#index-progress").inner_text()
            buttons(page, index=True, cancel=False)
            assert not (home / "datastores" / "inns").exists()
            page.get_by_role("tab", name="Look into one").click()
            listed = page.locator("#listing [role=gridcell]")
            listed.filter(has_text="factbook", visible=True).first.wait_for()
            assert listed.filter(has_text="inns").count() == 0
            page.get_by_role("tab", name="Make a datastore").click()

            tab(page, "Train")
            until(page, says("[data-run='mine'] .run-state", "running"))
            page.locator("#run-stop").wait_for()
            page.locator("#run-resume").wait_for(state="hidden")
            now = run_folder.read_status(home / "runs" / "mine")
            assert now.pid == before.pid and now.step >= before.step
            page.locator("#run-stop").click()
            until(page, says("[data-run='mine'] .run-state", "stopped"))

            # What was begun can be begun again, and ends.
            (home / unhurried_app.SLOWLY).unlink()
            tab(page, "Corpus")
            page.locator("#steps button", has_text="Text").first.click()
            build_inns(page, TEXT[:20_000])
            until(page, says("#store-progress", "Built"))
            tab(page, "Explore")
            (home / unhurried_app.SLOWLY).touch()
            write_a_lot(page)
            page.locator("#stop").click()
            until(page, says("#progress", "Stopped after"))
            assert second.tracebacks() == []
    monkeypatch.setenv("RETRO_HOME", str(home))
    assert Datastore.open("inns").num_documents == 1  # its sizes and hashes are compared
