"""Learn: what the lessons say and show, words of the documentation on the page, and all in a browser."""

import json
import re

import pytest
from browsing import in_a_browser

from app import documents, learn, lessons, services
from app.scripts import script
from app.tabs import learn as tab
from indexing import paths
from retro_core.trace import Trace


@pytest.fixture(scope="module")
def taught():
    return {lesson["lens"]: lesson for lesson in tab.all_lessons()["lessons"]}


def test_each_lesson_is_short_and_shows_something_recorded(taught):
    assert len(taught) == len(lessons.LESSONS) == 8
    for lesson in taught.values():
        assert 20 <= len(lesson["words"].split()) <= 80, lesson["title"]
        assert lesson["data"] and (learn._HERE / "lenses" / f"{lesson['lens']}.js").is_file()
    assert len(json.dumps([*taught.values()])) < 100_000


def test_what_a_lesson_shows_is_what_it_says(taught):
    """The recordings are made anew with each model: a lesson must not go on saying what is no longer so."""
    attended = max(taught["influence"]["data"]["neighbours"], key=lambda one: one["share"])
    assert attended["share"] > 0.5 and abs(attended["influence"]) < 0.05
    books = taught["swap"]["data"]["books"]
    assert [one["name"] for one in books] == ["the 2025 edition", "the 2015 edition"]
    assert books[0]["written"] != books[1]["written"] and all(one["copied"] for one in books)
    copies = taught["continuation"]["data"]["copies"]
    assert sum(copy["part"] == "F" for copy in copies) > sum(copy["part"] == "N" for copy in copies)
    tokens = taught["gain"]["data"]["tokens"]
    assert sum(token["lp_on"] - token["lp_off"] for token in tokens) / len(tokens) > 0.5
    assert any(text.strip().isdigit() for text in taught["attention"]["data"]["written"])
    assert taught["attention"]["data"]["map"]["cols"] == sum(
        len(one["tokens"]) for one in taught["attention"]["data"]["neighbours"]
    )
    chunks = taught["windows"]["data"]["chunks"]
    assert len(chunks) >= 2 and all(one["read"][0] == one["ask"][1] for one in chunks)


def test_the_limits_are_the_numbers_of_the_evaluation(taught):
    file = paths.model_dir(paths.DEMO_MODEL) / "evaluation.json"
    probes = json.loads(file.read_text(encoding="utf-8"))["probes"]
    kinds = taught["limits"]["data"]["kinds"]
    assert [kind["nats"]["on"] for kind in kinds] == [
        probe["readings"]["on"]["nats"] for probe in probes.values()
    ]
    assert all(name in lessons._PROBES for name in probes)


def test_without_recordings_the_other_lessons_remain(monkeypatch):
    assert [one["lens"] for one in lessons.all_lessons({})] == ["chunks", "limits"]
    empty = Trace({"chunks": [], "tokens": [], "pad": 0, "model": {"chunk_size": 64}, "prompt_tokens": 0})
    assert [one["number"] for one in lessons.all_lessons({"recorded-1": empty})] == [1, 2]


def test_the_glossary_is_the_one_of_the_documentation():
    words = dict((word, meaning) for word, meaning, _ in documents.glossary())
    page = (paths.ASSETS.parent / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert len(words) == page.count("\n| ") - 1 > 30
    assert words["gain"].startswith("log-probability On minus Off")
    assert not [said for said in words.values() if re.search(r"[`*|]", said)]


def test_the_snippets_are_those_that_the_test_of_the_documentation_runs():
    page = (paths.ASSETS.parent / "docs" / "api.md").read_text(encoding="utf-8")
    found = documents.snippets()
    assert [one["language"] for one in found] == ["bash", "python", "python", "python", "bash", "bash"]
    assert all(f"```{one['language']}\n{one['code']}\n```" in page for one in found)


@pytest.mark.parametrize(
    "wanted", [None, [], "text", {}, {"text": None}, {"text": 7}, {"text": ["a"]}, {"text": "a" * 4001}]
)
def test_a_text_that_cannot_be_cut_is_refused_in_a_sentence(wanted):
    assert tab.tokens(wanted) == {"error": "Expected a text of up to 4,000 characters."}


def test_a_text_is_cut_as_the_model_cuts_it():
    found = tab.tokens({"text": "The Volta — <b>Ghana</b>\n"})["tokens"]
    assert "".join(found) == "The Volta — <b>Ghana</b>\n"
    assert len(found) == len(services.tokenizer().encode("The Volta — <b>Ghana</b>\n"))
    assert tab.tokens({"text": ""}) == {"tokens": []}
    assert "".join(tab.tokens({"text": "half a \ud83d character"})["tokens"]) == "half a \ufffd character"


def test_a_lesson_leads_to_its_recording_and_nowhere_else(taught):
    class Clicked:
        def __init__(self, data):
            self._data = data

    where = taught["influence"]["see"]
    tabs, view, _, trace_id = tab.see(Clicked({"number": taught["influence"]["number"]}))
    assert trace_id == where["example"][0] and view["opened_at"] == where["example"][1]
    assert tabs["selected"] == "explore" if isinstance(tabs, dict) else tabs.selected == "explore"
    for forged in (None, [], {}, {"number": "1"}, {"number": 99}, {"number": {"a": 1}}):
        with pytest.raises(Exception, match="There is no such lesson"):
            tab.see(Clicked(forged))


def test_no_script_of_learn_makes_markup():
    for file in (learn._HERE).rglob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", script(file)), (
            file
        )


# ------------------------------------------------------------------------------------- in a browser


@in_a_browser
def test_a_newcomer_goes_through_the_lessons_with_the_keyboard(open_page):
    page = open_page(query="?tab=learn")
    page.locator(".lesson").nth(7).wait_for()
    lesson = {name: page.locator(".lesson").nth(i) for i, name in enumerate(("cut", "ask", "follow", "look"))}
    gain, swap, leave, limits = (page.locator(".lesson").nth(i) for i in range(4, 8))

    box = lesson["cut"].get_by_role("textbox", name="Your text")
    box.fill("<img src=x onerror=\"window.__pwned='img'\"> ${window.__pwned=1} " + "one two three four " * 20)
    lesson["cut"].locator(".learn-cut", has_text="<img src=x onerror=").wait_for()
    assert "chunk 1" in lesson["cut"].locator(".learn-mark").first.inner_text()

    slid = lesson["ask"].get_by_label("Chunk that asks")
    slid.focus()
    before = lesson["ask"].locator(".learn-said").inner_text()
    page.keyboard.press("ArrowRight")
    assert lesson["ask"].locator(".learn-said").inner_text() != before

    lesson["follow"].get_by_label("F: how it went on").focus()
    page.keyboard.press("ArrowLeft")
    assert "stand in the neighbour (N)" in lesson["follow"].locator(".learn-said").inner_text()

    looked = lesson["look"].get_by_label("Token that looks")
    took = page.evaluate(
        """(input) => { const begun = performance.now();
          for (input.value = 0; input.value < 20; input.value++) {
            input.dispatchEvent(new Event("input"));
            input.offsetHeight;
          }
          return (performance.now() - begun) / 20; }""",
        looked.element_handle(),
    )
    assert took < 100
    looked.press("ArrowRight")
    assert "of its look" in lesson["look"].locator(".learn-said").inner_text()

    gain.get_by_label("Off", exact=True).check(force=True)
    assert "Off: surprise" in gain.locator(".learn-said").first.inner_text()
    swap.get_by_label("the 2015 edition").check(force=True)
    assert "26,327,649" in swap.locator(".learn-said").inner_text()
    leave.get_by_label("#2").check(force=True)
    assert "±0.00 nats per token" in leave.locator(".learn-said").inner_text()
    limits.get_by_label("Articles of Wikipedia").check(force=True)
    assert "become less likely" in limits.locator(".learn-said").inner_text()

    page.get_by_label("Find a word").fill("zzz")
    page.get_by_text("No word of the glossary has this in it.").wait_for()
    page.get_by_label("Find a word").fill("continuation")
    assert page.locator(".glossary dt", has_text="continuation (F)").is_visible()
    assert not page.locator(".glossary dt", has_text="checkpoint").is_visible()
    page.get_by_role("button", name="Copy: Over HTTP").click()
    page.wait_for_function(
        "[...document.querySelectorAll('.snippet button')].some((b) => b.textContent !== 'Copy')"
    )
    assert page.url.split("?")[0].rstrip("/") in page.locator(".snippet", has_text="Over HTTP").inner_text()

    assert page.get_by_role("button", name="All endpoints").is_visible()
    page.locator("footer .show-api").wait_for(state="attached")  # what it clicks, in Gradio's footer
    leave.get_by_role("link", name="Both beside each other in Explore ▸").press("Enter")
    page.locator(".lens-title", has_text="Ireland").wait_for()
    assert "Chunk 2" in page.locator(".lens-card-tab[aria-selected=true]").inner_text()
    page.wait_for_function("document.querySelector('#lens').getBoundingClientRect().top < innerHeight / 2")
