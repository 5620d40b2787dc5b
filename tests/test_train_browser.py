"""The tab Train in a real browser: a run from its button on, through a reload, to stop, resume and delete."""

import os
import signal

import run_worker
import unhurried_app
from browsing import LATE_FRAMES, frames, in_both_themes, page_tests, unreadable

from retro_core import run_folder

pytestmark = page_tests


def train(page):
    page.wait_for_selector("#header")
    if page.viewport_size["width"] > 600:
        page.get_by_role("tab", name="Train").click()
    page.wait_for_selector("#train-start")


def until(page, words, of):
    page.wait_for_function(
        "([words, of]) => document.querySelector(of)?.innerText.includes(words)",
        arg=[words, of],
        timeout=90_000,
    )


def state(page, name, words):
    until(page, words, f"[data-run='{name}'] .run-state")


def test_a_run_is_begun_watched_stopped_resumed_killed_compared_and_deleted(open_page, server):
    home = server.home
    (home / unhurried_app.PRETEND).touch()
    page = open_page()
    train(page)
    until(page, "recorded example", "#curves")
    page.wait_for_selector(".samples-card")
    until(page, "parameters", "#estimate")
    page.get_by_role("button", name="The exact command").click()
    until(page, "retro_core train", "#train-command")
    until(page, "--data-spec assets/training-sets/two-editions/train/data.spec.json", "#train-command")
    page.locator("#train-settings button").first.click()
    page.get_by_label("Name of the run").fill("mine")
    until(page, "--run mine", "#train-command")
    page.get_by_label("Steps", exact=True).fill("100000")
    until(page, "--steps 100000", "#train-command")
    page.locator("#train-start").click()
    until(page, "mine is being trained", "#train-progress")
    state(page, "mine", "running")
    page.wait_for_selector(".samples-card")
    page.wait_for_function("document.querySelectorAll('.curve-bold').length > 2")
    until(page, run_worker.UNTRUSTED, ".samples")
    assert not page.locator("#run-resume").is_visible()
    page.locator(".samples input[type=range]").fill("0")
    until(page, "step 50 (1 of", ".samples-where")
    until(page, "On at 50 ", ".samples")
    page.get_by_role("button", name="Open in Explore").first.click()
    until(page, "A held-out text", "#progress")
    page.wait_for_selector(".lens-map canvas")
    page.get_by_role("tab", name="Train").click()
    page.locator(".curve-plot").first.hover(position={"x": 200, "y": 80})
    until(page, "step ", ".curve-read")
    page.get_by_text("The numbers as a table").click()
    page.locator(".curve-table td", has_text="3.050").first.wait_for()
    page.locator(".curve-table th", has_text="layer 4").wait_for()
    until(page, "layer 1 0.2", ".curve:nth-child(3) .curve-read")

    page = open_page()  # as after a reload: nothing of the run hangs on the page it was begun on
    train(page)
    state(page, "mine", "running")
    page.locator("#run-stop").click()
    state(page, "mine", "stopped")
    page.locator("#run-resume").click()
    state(page, "mine", "running")
    page.wait_for_selector("#run-resume", state="hidden")
    folder = home / "runs" / "mine"
    os.kill(run_folder.read_status(folder).pid, signal.SIGKILL)
    state(page, "mine", "failed")
    until(page, "The process was killed", "#run-facts")
    page.wait_for_function("/step [0-9]+/.test(document.querySelector('#run-log textarea')?.value)")

    page.locator("#train-settings button").first.click()
    page.get_by_label("Name of the run").fill("other")
    page.get_by_label("Steps", exact=True).fill("120")
    page.locator("#train-start").click()
    state(page, "other", "finished")
    page.get_by_label("Compare mine").check()
    page.get_by_label("Compare other").check()
    until(page, "What differs", ".curve-note")
    until(page, "steps: mine 100000, other 120", ".curve-note")
    page.locator("[data-run='mine']").click()
    until(page, "mine", "#run-facts h4")
    page.locator("#run-delete").click()
    until(page, "cannot be got back", "#run-question")
    page.locator("#run-delete-no").click()
    assert folder.is_dir()
    page.locator("#run-delete").click()
    page.locator("#run-delete-yes").click()
    until(page, "Deleted mine", "#run-told")
    page.wait_for_function("document.querySelector(\"[data-run='mine']\") === null")
    assert not folder.exists() and (home / "runs" / "other").is_dir()
    (home / unhurried_app.PRETEND).unlink()


# What is asked of the server is held back until `window.held`.
HELD_BACK = """() => {
  const ask = window.fetch;
  window.held = new Promise((free) => { window.free = free; });
  window.asked = 0;
  window.fetch = async (...what) => {
    if (what[1]?.method === "POST" && /queue\\/join|\\/run\\//.test(what[0]?.url ?? what[0])) {
      window.asked += 1;
      await window.held;
    }
    return ask(...what);
  };
}"""


def test_what_is_typed_stays_while_a_fold_opens_and_answers_come_late(open_page):
    page = open_page()
    train(page)
    until(page, "parameters", "#estimate")
    page.evaluate(LATE_FRAMES)
    page.evaluate(HELD_BACK)
    page.get_by_label("Small", exact=False).first.check()
    page.wait_for_function("window.asked > 0")
    page.locator("#train-settings button").first.click()
    typed = {"#train-run": "mine", "#train-steps": "777", "#train-learning_rate": "0.007"}
    fields = {name: page.locator(f"{name} input, {name} textarea").first for name in typed}
    for name, words in typed.items():
        fields[name].fill(words)
    page.wait_for_timeout(1600)  # two late frames
    page.evaluate("window.free()")
    page.get_by_role("button", name="The exact command").click()
    until(page, "--run mine --steps 777", "#train-command")
    until(page, "--learning-rate 0.007", "#train-command")
    assert {name: field.input_value() for name, field in fields.items()} == typed


def test_it_fits_a_phone_and_its_words_can_be_read(open_page):
    page = open_page(width=390, query="?tab=train")
    train(page)
    until(page, "parameters", "#estimate")
    page.wait_for_selector(".samples-card")
    frames(page, 10)
    for _ in in_both_themes(page):
        assert not unreadable(page, ".run-list *, .curves *, .samples *, .facts *")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
