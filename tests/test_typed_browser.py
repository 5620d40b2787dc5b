"""What is typed the moment that a fold or a tab opens stays, though frames and moments come late. (Train has
a test of its own, where answers come late as well.)"""

import pytest
from browsing import LATE_FRAMES, LATE_MOMENTS, page_tests, settled

pytestmark = page_tests
COMPARE = ["Compare", "Same text, other reading"]
LOOK = ["Corpus", "Look into one"]


@pytest.mark.parametrize("late", [[LATE_FRAMES], [LATE_FRAMES, LATE_MOMENTS]], ids=["frames", "moments"])
@pytest.mark.parametrize(
    ("tabs", "opened", "typed"),
    [
        ([], "#settings", {"#seed": "17", "#stop_strings": "river"}),
        (COMPARE, None, {"#same-beginning": "Rivers", "#same-scored": "freeze", "#same-edit": "in winter"}),
        (["Corpus"], None, {"#pasted": "Rivers freeze."}),
        (LOOK, "#remove-fold", {"#remove-name": "rivers"}),
    ],
)
def test_what_is_typed_as_soon_as_it_can_be_stays(open_page, tabs, opened, typed, late):
    page = open_page()
    ways = [page.get_by_role("tab", name=tab) for tab in tabs]
    ways += [page.locator(f"{opened} button").first] if opened else []
    for way in ways[:-1]:
        way.click()
        settled(page)
    for script in late:
        page.evaluate(script)
    ways[-1].click()
    if LATE_MOMENTS in late:  # so late that Gradio fills it before it has noted what is typed
        page.wait_for_timeout(1600 if opened else 1000)
    fields = {name: page.locator(f"{name} input, {name} textarea").first for name in typed}
    for name, words in typed.items():
        fields[name].fill(words)
    page.wait_for_timeout(4000 if LATE_MOMENTS in late else 1600)  # what is late has come
    assert {name: field.input_value() for name, field in fields.items()} == typed
