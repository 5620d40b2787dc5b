"""What Explore runs in the page besides the lens: the first example, links, saved files and pictures."""

import base64
import json
import struct
from urllib.parse import parse_qsl, urlsplit

import pytest
from browsing import page_tests as pytestmark  # noqa: F401
from hostile_texts import ALL
from script_page import ORIGIN, blank  # noqa: F401
from synthetic_trace import synthetic_view

from app import address, explore, policy
from app.explore import FactSwap, Recorded
from app.lens import RetroLens

SCRIPTS = tuple(f"explore/{name}.js" for name in ("fact_swap", "recorded", "link", "save", "picture"))

AROUND = """document.querySelector(".main").insertAdjacentHTML("beforeend",
  `<div id="tabs"><div class="tab-wrapper">
  <button role="tab" aria-selected="true">Explore</button>
  <button role="tab" aria-selected="false">Train</button></div></div><button id="run">Run</button>
  <div id="recorded"><button id="recorded-a">A</button><button id="recorded-b">B</button>
  <button id="recorded-c">C</button></div><div class="retro-lens" data-trace="recorded-b"></div>`);
  window.clicked = []; for (const one of document.querySelectorAll("#recorded button")) one.onclick = () => {
    clicked.push(one.id); document.querySelector(".retro-lens").dataset.trace = one.id; }; 0"""


def swap(**more):
    def side(name, text):
        return {
            "id": f"recorded-{name}",
            "edition": f"the book of {text}",
            "given": "Rwanda\n — People",
            "source": "Rwanda",
            "written": [[" total: ", ""], [text, "said copied"], ["; male", "copied"]],
            "read": [[text, "said"], [" was", ""]],
        }

    return {
        "lead": "Two books",
        "sides": [side("a", "11,262"), side("b", "<img src=x onerror=top.__pwned.push(1)>")],
        "news": 1,
        **more,
    }


def test_the_two_books_stand_beside_each_other_and_follow_what_the_lens_shows(blank):  # noqa: F811
    page = blank.page
    page.evaluate(AROUND)
    part = blank.put(FactSwap(), swap())
    sides = page.locator(".swap-side")
    assert sides.count() == 2
    assert (
        "With the book of 11,262" in sides.nth(0).inner_text()
        and "Rwanda · — People" in sides.nth(0).text_content()
    )
    assert "<img src=x" in sides.nth(1).inner_text()
    marks = (
        sides.nth(0)
        .locator(".swap-text span")
        .evaluate_all("(all) => all.map((one) => [one.textContent, one.className])")
    )
    assert marks[-3:] == [[" total: ", ""], ["11,262", "swap-said swap-copied"], ["; male", "swap-copied"]]

    def pressed():
        return sides.evaluate_all("(all) => all.map((one) => one.getAttribute('aria-pressed'))")

    assert pressed() == ["false", "true"]  # as the lens says
    sides.nth(0).focus()
    page.keyboard.press("Enter")
    assert page.evaluate("clicked") == ["recorded-a"] and pressed() == ["true", "false"]
    page.evaluate("document.querySelector('.retro-lens').dataset.trace = 'mine'")
    assert pressed() == ["false", "false"]
    # Room for whatever else is looked at; one of the two brings it back.
    assert page.evaluate("document.querySelector('.fact-swap details').open")
    for button, is_open in (("#run", False), ("#recorded-b", True), ("#recorded-c", False)):
        page.click(button)
        assert page.evaluate("document.querySelector('.fact-swap details').open") is is_open
    part.give(None)
    page.wait_for_function("document.querySelector('.fact-swap').children.length === 0")
    page.click("#run")
    part.give(swap(sides=[]))
    page.wait_for_selector(".swap-lead")


def test_a_recorded_example_comes_from_the_page_or_is_fetched_once(blank):  # noqa: F811
    page = blank.page
    part = blank.put(Recorded({"recorded-a": '{"id": "recorded-a"}'}, fetch=dict))
    page.evaluate(
        "window.come = []; window.want = (id) => retroRecorded(id).then((view) =>"
        " void come.push([id, JSON.parse(view)])); 0"
    )

    def come(*ids):
        page.evaluate("(ids) => ids.forEach((id) => void want(id))", list(ids))
        return page.evaluate("new Promise((done) => setTimeout(() => done(come.splice(0)), 30))")

    assert come("recorded-a") == [["recorded-a", {"id": "recorded-a"}]] and part.asked("recorded") == []
    assert come("recorded-b", "recorded-c", "constructor") == []
    assert part.asked("recorded") == [{}]  # for all of them
    part.silence("recorded")
    said = "The server did not answer. Is it still running?"
    assert come() == [[name, {"refused": said}] for name in ("recorded-b", "recorded-c", "constructor")]
    page.evaluate("window.retroIsBack = true")  # later, when nothing else is to be done, it is asked again
    page.wait_for_function("staged[0].calls.length === 2")
    part.answer("recorded", {"views": {"recorded-b": '{"id": "b"}'}})
    assert come("recorded-b") == [["recorded-b", {"id": "b"}]]
    assert come("recorded-c") == [] and len(part.asked("recorded")) == 1
    part.answer("recorded", {"views": {}})
    assert come() == [["recorded-c", {"refused": "There is no such example here."}]]


NAMES = ["prompt", "task", "datastore", "retrieval", "temperature", "seed", "stop_strings"]
USUAL = {"task": "continue", "datastore": "factbook", "retrieval": True, "temperature": 0.0, "seed": 0}


@pytest.fixture
def link(blank):  # noqa: F811
    source = explore.LINK.read_text(encoding="utf-8")
    source = source.replace("{names}", json.dumps(NAMES)).replace("{usual}", json.dumps(USUAL))

    def run(*values):
        return blank.page.evaluate(f"(given) => ({source})(...given)", list(values))

    return run


USUALLY = ["", "continue", "factbook", True, 0.0, 0, ""]
PROMPTS = [
    "Rwanda — Geography",
    "a&b=c#d?e%41+ \n\t“ü” 東京 👩‍👩‍👧",
    "__theme=dark&tab=train",
    ALL[0],
    "x" * 4000,
]


def test_a_link_leads_back_to_the_prompt_and_to_what_was_set(link, blank):  # noqa: F811
    for prompt in PROMPTS:
        told = link(prompt, "score", "factbook", False, 0.7, 12, None)
        copied = blank.page.evaluate("navigator.clipboard.readText()")
        assert told["tone"] == "good" and told["text"].startswith("Link copied: " + copied[:100])
        assert copied.startswith(ORIGIN + "?") and urlsplit(copied).fragment == ""
        query = dict(parse_qsl(urlsplit(copied).query))
        expected = {
            "prompt": prompt,
            "task": "score",
            "retrieval": "false",
            "temperature": "0.7",
            "seed": "12",
        }
        assert query == expected
        read = address.of_query({**query, "task": "continue"}, policy.visitor(None)).values
        assert read["prompt"] == prompt
        assert [read[name] for name in ("retrieval", "temperature", "seed")] == [False, 0.7, 12]


def test_a_link_names_a_recorded_example_and_its_chunk_or_the_tab(link, blank):  # noqa: F811
    page = blank.page
    read = "navigator.clipboard.readText()"
    link(*USUALLY)
    assert page.evaluate(read) == ORIGIN  # nothing but the usual
    page.evaluate(AROUND)
    page.evaluate("document.querySelector('.retro-lens').dataset.trace = 'recorded-3-ghana'")
    link("typed meanwhile", *USUALLY[1:])
    assert page.evaluate(read) == ORIGIN + "?example=3-ghana"
    page.evaluate("""document.querySelector(".retro-lens").innerHTML =
      '<div class="lens-strip"><button aria-selected="true" data-chunk="1"></button></div>'""")
    link(*USUALLY)
    assert page.evaluate(read) == ORIGIN + "?example=3-ghana&chunk=2"
    page.evaluate(
        "document.querySelectorAll('[role=tab]').forEach((one, i) => one.setAttribute('aria-selected', i))"
    )
    page.evaluate("document.querySelectorAll('[role=tab]')[1].setAttribute('aria-selected', 'true')")
    link(*USUALLY)
    assert page.evaluate(read) == ORIGIN + "?tab=train"
    page.evaluate("document.querySelector('#tabs').remove(); document.querySelector('.retro-lens').remove()")
    assert link("x" * 4001, *USUALLY[1:])["tone"] == "bad"
    page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
    assert link("p", *USUALLY[1:]) == {"text": ORIGIN + "?prompt=p", "tone": "good"}
    page.evaluate("void Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    assert link("p", *USUALLY[1:]) == {"text": ORIGIN + "?prompt=p", "tone": "good"}


def test_a_file_is_saved_as_it_is(blank, tmp_path):  # noqa: F811
    source = explore.SAVE.read_text(encoding="utf-8")
    saved = {
        "name": "Ghana — a.tokens.csv",
        "type": "text/csv;charset=utf-8",
        "text": '\ufeff\'=1+1,ü\r\n"a\nb"\r\n',
    }
    with blank.page.expect_download() as download:
        blank.page.evaluate(f"(saved) => ({source})(saved)", saved)
    assert download.value.suggested_filename == saved["name"]
    download.value.save_as(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == saved["text"].encode()
    blank.page.evaluate(f"({source})(null)")  # an error was shown instead: nothing to save


def test_a_picture_is_of_the_lens_as_it_is_seen(blank, tmp_path):  # noqa: F811
    page = blank.page
    source = explore.PICTURE.read_text(encoding="utf-8")
    told = page.evaluate(f"({source})()")
    assert told["tone"] == "bad" and "no result" in told["text"]
    value = {**synthetic_view(num_chunks=1, pad=9), "id": "t", "title": f"  Größe & {ALL[0]} {'x' * 80}"}
    lens = blank.put(RetroLens(fetch_map=lambda *asked: {}), value, "lens")
    page.wait_for_selector(".lens-token")
    wide = page.evaluate("document.querySelector('.retro-lens').getBoundingClientRect().width")

    def picture(name):
        with page.expect_download() as download:
            told = page.evaluate(f"({source})()")
        download.value.save_as(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", data[16:24])
        file = download.value.suggested_filename
        assert told == {"text": f"Saved {file} ({width} × {height}).", "tone": "good"}
        assert (
            file.removesuffix(".png")
            == "gr-e-img-src-x-onerror-top-pwned-push-1-class-hostile-id-hos"[: len(file) - 4]
        )
        assert page.locator(".retro-lens").count() == 1 and page.locator("[inert]").count() == 0
        # How many pixels are of each ink, and the ground.
        counted = page.evaluate(
            """async (data) => { const image = new Image(); image.src = "data:image/png;base64," + data;
              await image.decode();
              const canvas = new OffscreenCanvas(image.width, image.height), pen = canvas.getContext("2d");
                pen.drawImage(image, 0, 0);
              const at = pen.getImageData(0, 0, image.width, image.height).data, found = { orange: 0,
                blue: 0, teal: 0, ink: 0, cyan: 0, pink: 0 };
              const ground = [...at.slice(0, 3)];
              for (let i = 0; i < at.length; i += 4) {
                const r = at[i], g = at[i + 1], b = at[i + 2];
                if (r < 40 && g > 220 && b > 220) found.cyan++;
                if (r > 220 && g < 40 && b > 220) found.pink++;
                if (r > b + 60 && r > g + 20) found.orange++;
                else if (b > r + 60 && b > g + 20) found.blue++;
                else if (g > r + 60) found.teal++;
                const apart = Math.abs(r - ground[0]) + Math.abs(g - ground[1]) + Math.abs(b - ground[2]);
                if (apart > 300) found.ink++;
              }
              return { ...found, ground }; }""",
            base64.b64encode(data).decode(),
        )
        return width, height, counted

    # Words in a colour of their own, and a corner of the map.
    page.evaluate("""() => { document.querySelector(".lens-text-note").style.color = "rgb(0, 255, 255)";
      const pen = document.querySelector(".lens-base").getContext("2d");
      pen.fillStyle = "rgb(255, 0, 255)"; pen.fillRect(40, 40, 20, 20); }""")
    width, height, light = picture("light.png")
    assert light["cyan"] > 100 and light["pink"] == pytest.approx(20 * 20 * 4, rel=0.1)
    scale = min(2, 16000 / (height / 2))
    assert abs(width - (wide + 48) * scale) <= 2 and height > 1200
    assert light["ground"] == [255, 255, 255] and min(light[ink] for ink in ("orange", "teal", "ink")) > 500
    page.click("[data-value=plain]")
    _, _, plain = picture("plain.png")
    assert plain["orange"] < 0.8 * light["orange"] and plain["ink"] > light["ink"] * 0.8
    blank.dark()
    page.set_viewport_size({"width": 390, "height": 800})
    width, height, dark = picture("dark.png")
    assert max(dark["ground"]) < 60 and dark["ink"] > 500
    assert width < 900 and height > width
    lens.give(None)
    page.wait_for_selector(".lens-empty")
