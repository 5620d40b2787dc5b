"""A trace file from anywhere is either what we promise the page, or one sentence that names what is wrong."""

import base64
import copy
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from synthetic_trace import synthetic_file

from indexing.errors import TraceError
from indexing.neighbours import PASTED, Neighbours
from retro_core.trace import (
    MIN_COPY,
    Trace,
    common_runs,
    describe_copies,
    neighbour_cards,
    pack_heads,
    pack_map,
)

# May be missing or null; what has no value then is shown as unknown.
OPTIONAL = {
    "title", "created", "datastore", "sampling", "sampling.max_new_tokens", "sampling.seed",
    "model.fingerprint", "datastore.fingerprint", "datastore.embedder", "datastore.metric",
    "tokens[-1].lp_on", "tokens[-1].lp_off", "tokens[-1].write", "chunks[-1].gain", "chunks[-1].seconds",
    "chunks[-1].seconds.retrieve", "chunks[-1].seconds.read", "chunks[-1].attention",
    "chunks[-1].attention_heads", "chunks[-1].neighbours[-1].distance", "chunks[-1].neighbours[-1].closeness",
    "chunks[-1].neighbours[-1].score", "chunks[-1].neighbours[-1].share",
    "chunks[-1].neighbours[-1].copied", "chunks[-1].overlap",
    "chunks[-1].neighbours[-1].chunk_id", "chunks[-1].neighbours[-1].offset",
    "chunks[-1].neighbours[-1].influence", "chunks[-1].neighbours[-1].influence.downstream",
    "chunks[-1].neighbours[-1].copies", "chunks[-1].neighbours[-1].changed",
}  # fmt: skip


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    return json.loads(json.dumps(synthetic_file(num_chunks=2)))


def fields_of(value: dict[str, Any], where: str = "") -> Iterator[str]:
    """Paths of all fields; of a list's items, only the last is followed."""
    for key, item in value.items():
        path = f"{where}.{key}" if where else key
        yield path
        if isinstance(item, dict):
            yield from fields_of(item, path)
        elif isinstance(item, list) and item and isinstance(item[-1], dict):
            yield from fields_of(item[-1], f"{path}[-1]")


FIELDS = [path for path in fields_of(synthetic_file(num_chunks=1)) if path not in ("format", "version")]


def changed(trace: dict[str, Any], path: str, *value: Any) -> dict[str, Any]:
    """A copy with one field replaced, or without it."""
    trace = copy.deepcopy(trace)
    *way, last = path.replace("[", ".[").split(".")
    place: Any = trace
    for step in way:
        place = place[int(step[1:-1])] if step.startswith("[") else place[step]
    last = int(last[1:-1]) if last.startswith("[") else last
    if value:
        place[last] = value[0]
    else:
        del place[last]
    return trace


def named(trace: dict[str, Any], path: str) -> str:
    """The path as messages write it: places counted from the start."""
    counts = {"tokens": len(trace["tokens"]), "chunks": len(trace["chunks"]), "neighbours": 2, "copies": 1}
    for key, count in counts.items():
        path = path.replace(f"{key}[-1]", f"{key}[{count - 1}]")
    return path


def refused(trace: Any) -> str:
    with pytest.raises(TraceError) as caught:
        Trace.from_json(trace)
    return str(caught.value)


def unpacked(found: dict[str, Any]) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(found["data"]), dtype=np.uint8)
    return data.reshape(found["rows"], found["cols"]) / 255 * found["scale"]


def test_saved_and_opened_it_is_the_same(valid):
    trace = Trace.from_json(valid)
    assert trace.to_json() == valid
    assert Trace.from_json(json.loads(json.dumps(trace.to_json()))).to_json() == valid


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_is_checked_and_named(valid, path):
    where = f": {named(valid, path)} must be "
    wrong = (
        "text"
        if path.endswith(("model", "datastore", "sampling", "seconds", "attention", "heads", "influence"))
        else {}
    )
    assert where in refused(changed(valid, path, wrong))
    for nothing in ((), (None,)):
        if path in OPTIONAL:
            again = Trace.from_json(changed(valid, path, *nothing))
            assert Trace.from_json(again.to_json()) == again
        else:
            assert where in refused(changed(valid, path, *nothing))


@pytest.mark.parametrize(
    "number", [float("nan"), json.loads("-1e400"), json.loads("Infinity"), 10**400, True]
)
@pytest.mark.parametrize("path", [
    "tokens[-1].lp_on", "tokens[-1].id", "tokens[-1].write[-1]", "tokens[-1].alts_off[-1][-1]", "pad",
    "sampling.seed", "chunks[-1].gain", "chunks[-1].read[-1]", "chunks[-1].neighbours[-1].distance",
    "chunks[-1].attention.scale", "chunks[-1].attention_heads.scales[-1]", "chunks[-1].seconds.read",
])  # fmt: skip
def test_numbers_that_are_none(valid, path, number):
    where = named(valid, path).split("[-1]")[0]
    assert f": {where} must be " in refused(changed(valid, path, number))


@pytest.mark.parametrize("path, value, sentence", [
    ("pad", 999, "pad must be a whole number from 0 to 172"),
    ("prompt_tokens", -1, "prompt_tokens must be a whole number from 0 to 172"),
    ("tokens", [None] * 20_000, "tokens must be a list of at most 16,384"),
    ("tokens[-1]", [], "tokens[171] must be an object"),
    ("tokens[-1].text", "x" * 100_001, "tokens[171].text must be text of at most 100,000 characters"),
    ("tokens[-1].alts_on", [["x", -1.0]] * 101, "tokens[171].alts_on must be a list of at most 100"),
    ("tokens[-1].alts_on", [["x"]], "tokens[171].alts_on must be pairs of a text and a number"),
    ("model.heads", 0, "model.heads must be a whole number from 1 to"),
    ("chunks[-1].index", 0, "chunks[1].index must be 1, its place"),
    ("chunks[-1].read", [128, 173], "chunks[1].read must be a whole number from 0 to 172"),
    ("chunks[-1].read", [130, 128], "chunks[1].read must be a start before its end"),
    ("chunks[-1].read", [128, 172, 172], "chunks[1].read must be two whole numbers"),
    ("chunks[-1].read", [128, 171], "rows must be 43, as many as tokens are read"),
    ("chunks[-1].neighbours", [{}] * 65, "chunks[1].neighbours must be a list of at most 64"),
    ("chunks[-1].neighbours[-1].rank", 1, "chunks[1].neighbours[1].rank must be 2, its place"),
    ("chunks[-1].neighbours[-1].tokens", [""] * 127, "chunks[1].neighbours[1].tokens must be 128 texts"),
    ("chunks[-1].neighbours[-1].f_len", 65, "neighbours[1].f_len must be a whole number from 0 to 64"),
    ("chunks[-1].neighbours[-1].copy_read", [[40, 45]], "copy_read must be a whole number from 0 to 44"),
    ("chunks[-1].neighbours[-1].influence.tokens", [0.5],
     "neighbours[1].influence.tokens must be 44 numbers, one for each token that is read"),
    ("chunks[-1].neighbours[-1].copies[-1].neighbour", [70, 71],
     "copies[0].neighbour must be as many tokens as read"),
    ("chunks[-1].neighbours[-1].copies[-1].part", "X", "copies[0].part must be one of N, F, NF"),
    ("chunks[-1].neighbours[-1].changed", ["muted"], "changed must be one of muted, edited, pasted, moved"),
    ("chunks[-1].attention.cols", 128, "chunks[1].attention.data must be 5,632 bytes in base64"),
    ("chunks[-1].attention.scale", 1e30, "chunks[1].attention.scale must be a number from 0 to 1"),
    ("chunks[-1].attention.data", "****", "chunks[1].attention.data must be 11,264 bytes in base64"),
    ("chunks[-1].attention_heads.rows", 1 << 20, "chunks[1].attention_heads.data must be"),
    ("chunks[-1].attention_heads.scales", [1.0], "scales must be one number for each layer and head"),
])  # fmt: skip
def test_values_that_do_not_fit(valid, path, value, sentence):
    assert sentence in refused(changed(valid, path, value))


def test_a_map_has_the_columns_of_all_neighbours(valid):
    one = pack_map(np.full((44, 128), 0.01))
    assert "attention.cols must be 128 for each neighbour" in refused(
        changed(valid, "chunks[-1].attention", one)
    )
    # Neighbours that were missing have no card but keep their columns, at the end.
    Trace.from_json(changed(valid, "chunks[-1].neighbours[-1]"))


@pytest.mark.parametrize("value", [None, [], "text", {}, {"format": "other"}, {"format": ["retro-trace"]}])
def test_what_is_no_trace(value):
    assert "This is not a trace" in refused(value)


def test_another_version(valid):
    assert "has version 3, this program reads versions 1 to 2" in refused(changed(valid, "version", 3))
    assert "has version None" in refused(changed(valid, "version"))


def test_a_file_of_version_1_opens_and_what_it_lacks_is_unknown(valid):
    old = changed(valid, "version", 1)
    expected = copy.deepcopy(valid)
    for chunk, filled in zip(old["chunks"], expected["chunks"], strict=True):
        del chunk["overlap"]
        filled["overlap"] = None
        for card, full in zip(chunk["neighbours"], filled["neighbours"], strict=True):
            for field in ("influence", "copies", "changed"):
                del card[field]
                full[field] = None
    assert Trace.from_json(old).to_json() == expected


def test_unknown_fields_are_dropped_at_any_depth(valid):
    junk = copy.deepcopy(valid)

    def add(value: Any) -> None:
        items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        for item in items:
            add(item)
        if isinstance(value, dict):
            value["__proto__"] = {"html": "<img>"}

    add(junk)
    assert Trace.from_json(junk).to_json() == valid


def test_half_a_surrogate_pair_becomes_a_question_mark(valid):
    broken = changed(changed(valid, "title", "a\ud800b"), "tokens[-1].text", "\udfff")
    trace = Trace.from_json(broken).to_json()
    assert trace["title"] == "a?b" and trace["tokens"][-1]["text"] == "?"
    json.dumps(trace, ensure_ascii=False).encode("utf-8")


def test_the_view_has_no_weights_of_single_heads(valid):
    trace = Trace.from_json(valid)
    view = trace.view()
    assert all("attention_heads" not in chunk for chunk in view["chunks"])
    assert view == changed(changed(valid, "chunks[0].attention_heads"), "chunks[1].attention_heads")
    assert trace.to_json() == valid, "the trace keeps them"


def test_a_map_is_a_head_or_a_mean_over_heads(valid):
    trace = Trace.from_json(valid)
    stored = valid["chunks"][1]["attention_heads"]
    data = np.frombuffer(base64.b64decode(stored["data"]), dtype=np.uint8).reshape(2, 4, 44, 256)
    heads = data / 255 * np.reshape(stored["scales"], (2, 4, 1, 1))
    for layer, head, expected in [
        (0, 3, heads[0, 3]),
        (1, None, heads[1].mean(axis=0)),
        (None, 2, heads[:, 2].mean(axis=0)),
        (None, None, heads.mean(axis=(0, 1))),
    ]:
        found = trace.attention_map(1, layer, head)
        assert np.abs(unpacked(found) - expected).max() <= found["scale"] / 255 + 1e-6
    for chunk, layer, head in [(2, 0, 0), (-1, 0, 0), (None, 0, 0), (1, 2, 0), (1, 0, 4), (1, -1, 0)]:
        with pytest.raises(
            TraceError, match="Choose another chunk|Expected a layer below 2 and a head below 4"
        ):
            trace.attention_map(chunk, layer, head)


def test_packed_weights_are_off_by_less_than_a_step_and_rows_keep_their_sums():
    weights = np.random.default_rng(0).gamma(0.05, size=(2, 3, 5, 256))  # a few peaks, much that is small
    weights[..., 100:120] = 0.0  # padding
    weights /= weights.sum(axis=-1, keepdims=True)
    weights[1, 2] = 0.0
    packed = pack_heads(weights)
    data = np.frombuffer(base64.b64decode(packed["data"]), dtype=np.uint8).reshape(weights.shape)
    scales = np.reshape(packed["scales"], (2, 3, 1, 1))
    found = data / 255 * scales
    assert (np.abs(found - weights) <= scales / 255 + 1e-9).all() and not found[..., 100:120].any()
    assert np.abs(found.sum(axis=-1) - weights.sum(axis=-1)).max() <= 1 / 510 + 1e-9
    assert np.abs(unpacked(pack_map(weights[0, 0])) - found[0, 0]).max() < 1e-9
    assert pack_map(np.zeros((0, 7))) == {"rows": 0, "cols": 7, "scale": 0.0, "data": ""}


def brute_runs(read: list[int], neighbour: list[int]) -> set[tuple[int, int, int]]:
    """Every pair of places with equal tokens there, none of them padding (0), that is in no longer pair."""
    found = set()
    for i in range(len(read)):
        for j in range(len(neighbour)):
            if i and j and read[i - 1] == neighbour[j - 1] != 0:
                continue
            size = 0
            while i + size < len(read) and j + size < len(neighbour):
                if read[i + size] != neighbour[j + size] or read[i + size] == 0:
                    break
                size += 1
            if size:
                found.add((i, j, size))
    return found


def test_copies_are_the_longest_common_runs_and_cover_every_copied_token():
    random = np.random.default_rng(1)
    for _ in range(300):
        read, neighbour = (random.integers(0, 4, size).tolist() for size in random.integers(1, 13, 2))
        runs = common_runs(read, neighbour, 0)
        assert set(runs) == brute_runs(read, neighbour) and len(runs) == len(set(runs))
        assert [size for *_, size in runs] == sorted((size for *_, size in runs), reverse=True)
        split = len(neighbour) // 2
        found = describe_copies(runs, len(read), len(neighbour), split)
        long = [run for run in runs if run[2] >= MIN_COPY]
        mine = {i + s for i, _, size in long for s in range(size)}
        theirs = {j + s for _, j, size in long for s in range(size)}
        for name, expected in (("copy_read", mine), ("copy_neighbour", theirs)):
            spans = found[name]
            assert [i for start, stop in spans for i in range(start, stop)] == sorted(expected)
            assert all(spans[n][1] < spans[n + 1][0] for n in range(len(spans) - 1))
        assert found["copied"] == len(mine) / len(read)
        covered = set()
        for copy_ in found["copies"]:
            (start, stop), (there, end) = copy_["read"], copy_["neighbour"]
            assert read[start:stop] == neighbour[there:end] and (start, there, stop - start) in long
            part = ("N" if there < split else "") + ("F" if end > split else "")
            assert copy_["part"] == part
            covered |= set(range(start, stop))
        assert covered == mine
        # The longest run of all is among them: nothing longer could have covered its tokens.
        if long:
            assert max(c["read"][1] - c["read"][0] for c in found["copies"]) == long[0][2]


def test_copies_by_hand():
    runs = common_runs([1, 2, 3, 4, 5], [9, 1, 2, 3, 9, 2, 3, 4, 5], 0)
    found = describe_copies(runs, 5, 9, 4)
    assert found == {
        "copied": 1.0,
        "copy_read": [[0, 5]],
        "copy_neighbour": [[1, 4], [5, 9]],
        "copies": [
            {"read": [0, 3], "neighbour": [1, 4], "part": "N"},
            {"read": [1, 5], "neighbour": [5, 9], "part": "F"},
        ],
    }
    assert describe_copies(common_runs([7, 8, 9], [7, 8, 9, 7, 8, 9], 0), 3, 6, 2)["copies"] == [
        {"read": [0, 3], "neighbour": [0, 3], "part": "NF"}  # once is enough
    ]


def test_cards_say_where_a_neighbour_comes_from_and_how_much_of_it_there_is(tokenizer):
    ids = tokenizer.encode("The river Nile flows north")[:8]
    tokens = np.zeros((1, 3, 10), dtype=np.int64)
    tokens[0, 0, :8], tokens[0, 1, :3] = ids, ids[:3]  # chunks of 5: a continuation of 3, a chunk of 3
    distances = np.array([[0.5, 1.0, np.inf]], dtype=np.float32)
    found = Neighbours(np.array([[7, 4, -1]]), distances, tokens)
    origins = SimpleNamespace(
        provenance=lambda chunk: SimpleNamespace(document_id=f"d{chunk}", title="Nile", offset=chunk * 2)
    )
    first, second = neighbour_cards(found, origins, tokenizer, 5)
    assert (first["rank"], first["chunk_id"], first["document_id"], first["offset"]) == (1, 7, "d7", 14)
    assert (first["n_len"], first["f_len"], second["n_len"], second["f_len"]) == (5, 3, 3, 0)
    assert (first["closeness"], second["closeness"]) == (0.75, 0.5)
    assert len(first["tokens"]) == 10 and "".join(first["tokens"]) == tokenizer.decode(ids)
    assert first["tokens"][8:] == ["", ""] and second["tokens"][3:] == [""] * 7
    gap = Neighbours(np.array([[-1, 7]]), np.array([[np.inf, 0.5]], dtype=np.float32), tokens[:, [2, 0]])
    hidden, seen = neighbour_cards(gap, origins, tokenizer, 5)
    assert (hidden["rank"], hidden["changed"], hidden["tokens"]) == (1, "muted", [""] * 10)
    assert (seen["rank"], seen["changed"], seen["chunk_id"]) == (2, None, 7)
    pasted = Neighbours(np.array([[PASTED]]), np.array([[np.inf]], dtype=np.float32), tokens[:, :1])
    (card,) = neighbour_cards(pasted, origins, tokenizer, 5)
    assert (card["chunk_id"], card["offset"], card["distance"], card["closeness"]) == (None,) * 4
    assert card["tokens"] == first["tokens"] and first["score"] is None
    scores = np.array([[7.25, 3.5, -np.inf]], dtype=np.float32)
    words = Neighbours(
        found.ids, np.full((1, 3), np.inf, dtype=np.float32), tokens, measure="BM25", scores=scores
    )
    cards = neighbour_cards(words, origins, tokenizer, 5)
    assert [(card["score"], card["distance"]) for card in cards] == [(7.25, None), (3.5, None)]
