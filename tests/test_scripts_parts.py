"""Small parts that show texts of others: findings, chunks in a text, facts, colours, a line of state."""

from browsing import page_tests as pytestmark  # noqa: F401
from hostile_texts import ALL
from script_page import blank, texts  # noqa: F401

from app.parts import ChunkPreview, Facts, Findings, Legend, StatusLine

SCRIPTS = tuple(f"parts/{name}.js" for name in ("facts", "findings", "legend", "preview", "status"))


def drawn(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_a_line_of_state_shows_words_a_share_and_a_tone(blank):  # noqa: F811
    page = blank.page
    line = blank.put(StatusLine())
    for value, text, tone, wide in (
        ("plain words", "plain words", "idle", None),
        ({"text": "half", "fraction": 0.5, "tone": "busy"}, "half", "busy", "50%"),
        ({"text": "too much", "fraction": 7, "tone": "good", "news": []}, "too much", "good", "100%"),
        ({"text": "none", "fraction": 0}, "none", "idle", "0%"),
        ({"fraction": "0.5", "tone": "bad"}, "", "bad", None),
        ({"text": ALL[0], "fraction": None}, ALL[0], "idle", None),
        (None, "", "idle", None),
        ([], "", "idle", None),
    ):
        line.give(value)
        drawn(page)
        assert page.text_content(".status-line > span") == text
        assert page.get_attribute(".status-line", "data-tone") == tone
        found = page.evaluate(
            "[document.querySelector('.status-line > div').style.display, "
            "document.querySelector('.status-line i').style.width]"
        )
        assert found == (["none", "0%"] if wide is None else ["", wide]), value
    assert page.get_attribute(".status-line", "role") == "status"
    line.give({"text": "busy", "tone": "busy"})
    drawn(page)
    running = "document.getAnimations().filter((one) => one.playState === 'running').length"
    assert page.evaluate(running) > 0
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(running) == 0


def finding(**more):
    return {
        "title": "T",
        "source": "a/b.txt",
        "offset": 12345,
        "chunk": 7,
        "measured": "L2 0.41",
        "closeness": 0.8,
        "before": "before ",
        "text": " the chunk ",
        "continuation": " goes on",
        **more,
    }


def test_findings_stand_in_their_order_each_in_its_place(blank):  # noqa: F811
    page = blank.page
    part = blank.put(Findings())
    assert "nearest first" in page.inner_text(".findings-empty")
    rows = [
        finding(),
        finding(title=ALL[0], source=ALL[1], text=ALL[2], before="", continuation="  ", closeness=None),
        finding(measured="BM25 7.1\u202e", closeness=1.7),
    ]
    part.give({"rows": rows, "note": "Nothing <b>near</b>.", "news": 1})
    drawn(page)
    assert texts(page, ".finding-rank") == ["#1", "#2", "#3"]
    assert texts(page, ".finding-head")[0] == "#1TL2 0.41"
    assert page.eval_on_selector_all(".finding-bar i", "(all) => all.map((one) => one.style.width)") == [
        "80%",
        "100%",
    ]
    assert texts(page, ".finding > .finding-text")[:2] == ["the chunk", ALL[2]]
    assert texts(page, ".finding > .finding-rest")[:2] == ["continuesgoes on", "– the document ends here"]
    assert texts(page, ".finding-source summary")[0] == "Source: a/b.txt, from character 12,345"
    assert texts(page, ".finding-source .finding-text")[0] == "before  the chunk  goes on"
    assert "– the document begins here" in texts(page, ".finding-source")[1]
    assert page.inner_text(".findings-note") == "Nothing <b>near</b>."
    page.focus("summary >> nth=0")
    page.keyboard.press("Enter")
    assert page.is_visible("mark >> nth=0")
    for value, words in (
        ({"busy": "Searching…", "rows": rows}, "Searching…"),
        ({"note": "Nothing here."}, "Nothing here."),
        (None, "nearest first"),
    ):
        part.give(value)
        drawn(page)
        assert words in page.inner_text(".findings") and page.locator(".finding").count() == 0


def test_chunks_are_drawn_into_the_text_with_their_numbers(blank):  # noqa: F811
    page = blank.page
    part = blank.put(ChunkPreview())
    assert "before anything is indexed" in page.inner_text(".preview-empty")
    documents = [
        {
            "title": ALL[0],
            "note": "2 chunks",
            "chunks": [
                {"text": "one\n two", "tokens": 64, "number": 1},
                {"text": ALL[1] + "\u202e", "tokens": 3, "number": 2},
            ],
        }
    ]
    value = {
        "summary": "1 document",
        "lengths": [["1–64", 4], ["65–128", 1]],
        "notes": ["Read as text.", "– " + ALL[2]],
        "documents": documents,
        "rest": "and 3 more",
        "news": {},
    }
    part.give(value)
    drawn(page)
    assert texts(page, ".preview-chunk") == ["1one\n two", "2" + ALL[1].replace("\u202e", "") + "⟨U+202E⟩"]
    titles = page.eval_on_selector_all(".preview-mark", "(all) => all.map((one) => one.title)")
    assert titles == ["Chunk 1: 64 tokens", "Chunk 2: 3 tokens"]
    assert page.eval_on_selector_all(".preview-bar i", "(all) => all.map((one) => one.style.width)") == [
        "100%",
        "25%",
    ]
    said = page.text_content(".chunk-preview")
    for words in ("1 document", "and 3 more", ALL[2], ALL[0], "2 chunks", "Read as text"):
        assert words in said
    for value in ({"summary": "s", "documents": []}, {}, None, "words"):
        part.give(value)
        drawn(page)
        assert page.locator(".preview-chunk").count() == 0 and page.text_content(".chunk-preview")


def test_facts_and_commands_can_be_copied(blank):  # noqa: F811
    page = blank.page
    part = blank.put(Facts())
    assert page.text_content(".facts") == ""
    command = "python -m indexing build my-notes --chunk-size 64 'a  b'"
    part.give(
        {
            "title": "T <b>",
            "facts": [["chunks", "9,001"], [ALL[0], ALL[1]]],
            "notes": [ALL[2]],
            "commands": [command],
            "x": 1,
        }
    )
    drawn(page)
    assert texts(page, ".facts dt") == ["chunks", ALL[0]] and texts(page, ".facts dd") == ["9,001", ALL[1]]
    assert page.text_content(".facts-command code") == command
    copy = page.locator(".facts-command button")
    assert copy.get_attribute("aria-label") == f"Copy: {command}"
    copy.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.facts-command button').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == command
    page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error()))")
    copy.click()
    page.wait_for_function("document.querySelector('.facts-command button').textContent === 'Ctrl+C'")
    assert page.evaluate("getSelection().toString()") == command
    part.give({"facts": []})
    drawn(page)
    assert page.text_content(".facts") == ""


def test_a_legend_takes_colours_and_nothing_else_for_colours(blank):  # noqa: F811
    page = blank.page
    part = blank.put(Legend())
    items = [
        {"colour": "#12ab9f", "name": ALL[0], "count": 12345},
        {"colour": "url(http://tracker.invalid/1)", "name": "b", "count": 0},
        {"colour": "red", "name": "c", "count": "7"},
    ]
    part.give({"badge": "92 % of neighbours stay", "items": items, "notes": ["n"]})
    drawn(page)
    assert texts(page, ".legend li") == [ALL[0] + "12,345", "b0", "c7"]
    painted = page.eval_on_selector_all(".legend li i", "(all) => all.map((one) => one.style.background)")
    assert painted == ["rgb(18, 171, 159)", "", ""]
    assert page.inner_text(".legend-badge") == "92 % of neighbours stay"
    for value in ({}, None, {"items": []}):
        part.give(value)
        drawn(page)
        assert page.text_content(".legend") == ""
