"""The lens and the small parts show untrusted text: nothing of it may reach a template or markup."""

import re
import shutil
import subprocess

import pytest

from app.lens import RetroLens, script
from app.parts import ChunkPreview, StatusLine


def parts():
    return [RetroLens(None, fetch_map=lambda request: {}), StatusLine(), ChunkPreview()]


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
