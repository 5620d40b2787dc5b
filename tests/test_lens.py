"""The lens and the small parts show untrusted text: nothing of it may reach a template or markup."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.lens import RetroLens, script
from app.parts import ChunkPreview, Drawn, StatusLine

APP = Path(__file__).parent.parent / "app"


def parts():
    return [RetroLens(None, fetch_map=lambda request: {}), StatusLine(), ChunkPreview()]


def test_a_value_travels_as_one_text_that_only_one_function_reads():
    value = {"columns": [["<b>", 1.5, None]], "text": "\u2028 ${x} </script>"}
    for part in (Drawn(value), RetroLens(value, fetch_map=lambda request: {})):
        assert isinstance(part.value, str) and json.loads(part.value) == value
    assert Drawn(None).value is None
    for path in APP.rglob("*.js"):
        reads = path.name in ("elements.js", "status.js")  # the latter's is small, and travels as it is
        assert reads == ("props.value" in path.read_text(encoding="utf-8")), path


@pytest.mark.skipif(not shutil.which("node"), reason="needs node to run the function")
def test_what_cannot_be_read_is_a_sentence_until_something_can_be():
    checks = """
    const assert = require("node:assert");
    const said = [];
    const node = () => ({ append(words) { said.words = words; }, remove() { said.pop(); } });
    const document = { createElement: node };
    const element = { querySelector: () => said[0] ?? null, prepend: (node) => said.push(node) };
    const props = { value: "" };
    assert.strictEqual(given(), null);
    props.value = '{"a": [1, "<b>"]}';
    const first = given();
    assert.deepStrictEqual(first, { a: [1, "<b>"] });
    assert.strictEqual(given(), first, "parsed once");
    props.value = '{"a": ';
    assert.strictEqual(given() ?? given(), null);
    const sentence = "What came from the server cannot be read. Reload the page.";
    assert.deepStrictEqual([said.length, said.words], [1, sentence]);
    props.value = '{"a": 2}';
    assert.deepStrictEqual([given(), said.length], [{ a: 2 }, 0]);
    """
    elements = (APP / "elements.js").read_text(encoding="utf-8")
    done = subprocess.run(["node", "-e", elements + checks], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("part", parts(), ids=lambda part: type(part).__name__)
def test_templates_are_static(part):
    # gr.HTML runs what stands in {{…}} and ${…} as code and reads a backslash as an escape.
    for template in (part.html_template, part.css_template):
        assert not re.search(r"\{\{|\$\{|\\|`", template)


@pytest.mark.parametrize("part", parts(), ids=lambda part: type(part).__name__)
def test_scripts_write_text_only(part):
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|\beval\b|\$\{"
    )
    assert not re.search(forbidden, part.js_on_load)


@pytest.mark.parametrize("part", parts(), ids=lambda part: type(part).__name__)
def test_templates_hold_no_script_or_remote_address(part):
    assert not re.search(r"<script|on\w+=|https?:|//", part.html_template)


def test_the_lens_asks_under_the_name_that_its_script_calls():
    def told(wanted, request):
        return {"got": wanted}

    lens = RetroLens(None, fetch_map=told, fetch_heads=told, fetch_standing=told, fetch_source=told)
    for name in ("attention_map", "heads", "standing", "source"):
        assert f"server.{name}(" in script()
        assert getattr(lens, name)({"chunk": 1}) == {"got": {"chunk": 1}}
    assert set(re.findall(r'trigger\("(\w+)"', script())) == {"wish", "restore", "place"}


@pytest.mark.skipif(not shutil.which("node"), reason="needs node to run the lens's pure functions")
def test_values_are_unpacked_and_shown_as_they_are():
    values = script().split("// The document's side of the lens")[0]
    checks = """
    const assert = require("node:assert");
    const data = Buffer.from([255, 0, 51, 102]).toString("base64");
    const map = unpack({ rows: 2, cols: 2, scale: 0.5, data });
    assert.deepStrictEqual([...map.weights].map((w) => +w.toFixed(3)), [0.5, 0, 0.1, 0.2]);
    assert.strictEqual(map.max, 0.5);
    assert.deepStrictEqual([...map.rowMax].map((w) => +w.toFixed(3)), [0.5, 0.2]);
    assert.strictEqual(unpack(null), null);
    assert.strictEqual(display("a\\u202eb\\u0000<b>"), "a⟨U+202E⟩b⟨U+0000⟩<b>");
    assert.strictEqual(displayWord(" \\n"), "↵");
    assert.strictEqual(gainOf({ lp_on: -1, lp_off: -3 }), 2);
    assert.strictEqual(gainOf({ lp_on: -1, lp_off: null }), null);
    assert.strictEqual(signed(-0.001), "+0.00");
    assert.strictEqual(difference(-0.001) + difference(-0.02), "±0.00−0.02");
    const said = "without it −0.12 nats per token here, +0.01 later";
    assert.strictEqual(withoutIt({ own: 0.12, downstream: -0.01 }), said);
    assert.strictEqual(withoutIt({ own: -0.12, downstream: null }), "without it +0.12 nats per token here");
    const card = (rank, share, own) => ({ rank, share, influence: own === null ? null : { own } });
    const apart = [card(1, 0.6, 0.1), card(2, 0.4, 0.3), card(3, 0.1, null)];
    assert.deepStrictEqual([0, 1, 2].map((j) => disagreement(apart, j)), [
      "more attention than #2, but less influence", "less attention than #1, but more influence", ""]);
    assert.strictEqual(disagreement([card(1, 0.6, 0.3), card(2, 0.4, 0.1)], 0), "");
    assert.strictEqual(disagreement([card(1, 0.505, 0.1), card(2, 0.495, 0.3)], 0), "", "as good as equal");
    assert.strictEqual(disagreement([card(1, 0.6, null), card(2, 0.4, null)], 0), "");
    assert.ok(strength(0.5, 1) > 0.5 && strength(2, 1) === 1 && strength(0, 1) === 0);
    """
    done = subprocess.run(["node", "-e", values + checks], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
