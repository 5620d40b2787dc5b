"""What a person changes in the lens: what shows at once is what the model says; what is forged is refused."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from app import services
from app.lens import script
from app.tabs import corpus_map, explore_change, explore_change_here, explore_result
from indexing.errors import InputError
from retro_core.trace import Trace

GHANA = "recorded-1-population-2025"  # one chunk, two neighbours
CLIMATE = "recorded-3-ghana"  # three chunks


@pytest.fixture(autouse=True, scope="module")
def recorded():
    assert {GHANA, CLIMATE} <= set(services.recorded())


def fulfilled(wish: dict, model: str = "demo", datastore: str = "factbook") -> dict:
    """The last value of the lens."""
    values = [lens for lens, *_ in explore_change.fulfil({"wish": wish}, model, datastore)]
    assert values, "the lens was never told anything"
    return values[-1]


def lp(view: dict) -> np.ndarray:
    return np.array([np.nan if t["lp_on"] is None else t["lp_on"] for t in view["tokens"]])


def mute(chunk: int = 0, rank: int = 1) -> dict:
    return {"kind": "mute", "chunk": chunk, "rank": rank}


@pytest.mark.skipif(not shutil.which("node"), reason="needs node to run the lens's pure functions")
def test_what_the_page_shows_at_once_is_what_the_model_says_then():
    for trace_id, u, rank in ((GHANA, 0, 1), (CLIMATE, 1, 2), (CLIMATE, 0, 1)):
        view = services.view(trace_id)
        values = script().split("// The document's side of the lens")[0]
        values += f"console.log(JSON.stringify(withoutNeighbour({json.dumps(view)}, {u}, {rank - 1})))"
        told = subprocess.run(["node"], input=values, capture_output=True, text=True, check=True)
        here = json.loads(told.stdout)
        saved = Trace.from_json(services.trace(trace_id).without(u, rank).to_json()).view()
        for kept in (*view, "tokens", "chunks"):
            assert kept in ("title", "id") or saved[kept] == here[kept], "what is shown is what is saved"
        there = fulfilled({"kind": "change", "trace": trace_id, "changes": [mute(u, rank)]})
        window = slice(*view["chunks"][u]["read"])
        np.testing.assert_allclose(lp(here)[window], lp(there)[window], atol=2e-3)
        assert here["chunks"][u]["gain"] == pytest.approx(there["chunks"][u]["gain"], abs=2e-3)
        assert there["chunks"][u]["neighbours"][rank - 1]["changed"] == "muted"
        assert np.abs(lp(there)[window] - lp(view)[window]).max() > 0.1, "something was muted"
        assert np.nanmax(np.abs(np.array(there["change"]["before"]["lp_on"], dtype=float) - lp(view))) < 1e-3


def test_what_leaves_the_page_is_what_is_shown():
    shows = {"trace": GHANA, "without": {"chunk": 0, "rank": 1}}
    saved = explore_result.save_trace(CLIMATE, shows)
    trace = Trace.from_json(json.loads(saved["text"]))
    assert trace.data["title"].endswith("without #1 of chunk 1") and "without" in saved["name"]
    assert [card["changed"] for card in trace.data["chunks"][0]["neighbours"]] == ["muted", None]
    changed, whole = (explore_result.token_table(GHANA, one)["text"] for one in (shows, None))
    assert changed != whole == explore_result.token_table(CLIMATE, {"trace": GHANA, "without": None})["text"]
    assert "muted" in explore_result.neighbour_table(GHANA, shows)["text"]
    for forged, told in (
        ({"writing": True}, "not finished yet"),
        ({**shows, "without": {"chunk": 0, "rank": 9}}, "does not say"),
        ({**shows, "without": [1]}, "Expected named"),
        ({"trace": "another's", "without": None}, "no longer has"),
        ({"trace": 7}, "no finished trace"),
    ):
        with pytest.raises(Exception, match=told):
            explore_result.save_trace(None, forged)


def test_a_neighbour_edited_pasted_and_swapped_is_read_as_it_is_now():
    words = "Ghana — People and Society\nPopulation: total: 11,111,111 (2025 est.)"
    edit = {"kind": "edit", "chunk": 0, "rank": 1, "text": words}
    view = fulfilled({"kind": "change", "trace": GHANA, "changes": [edit]})
    card = view["chunks"][0]["neighbours"][0]
    assert card["changed"] == "edited" and "".join(card["tokens"]) == words
    assert view["change"]["of"] == GHANA and view["change"]["requests"] == [edit]
    window = slice(*view["chunks"][0]["read"])
    assert (lp(view) - lp(services.view(GHANA)))[window].mean() < -0.5, "the number is no longer there"
    assert services.view(view["id"])["change"] == view["change"], "it is found again by its id"

    swap = {"kind": "swap", "chunk": 0, "rank": 1, "other_chunk": 2, "other_rank": 1}
    paste = {"kind": "paste", "chunk": 1, "rank": 2, "text": "Nothing of the kind."}
    view = fulfilled({"kind": "change", "trace": CLIMATE, "changes": [swap, paste]})
    before = services.view(CLIMATE)
    assert view["chunks"][0]["neighbours"][0]["tokens"] == before["chunks"][2]["neighbours"][0]["tokens"]
    assert [n["changed"] for c in view["chunks"] for n in c["neighbours"]] == [
        "moved", None, None, "pasted", "moved", None,
    ]  # fmt: skip
    # A saved trace of it can be changed further, and what was done to it stays.
    kept = services.keep(Trace.from_json(services.trace(view["id"]).to_json()))
    further = fulfilled({"kind": "change", "trace": kept, "changes": [mute(2, 2)]})
    assert further["chunks"][1]["neighbours"][1]["changed"] == "pasted"
    assert further["chunks"][2]["neighbours"][1]["changed"] == "muted"


def test_a_text_is_written_on_from_a_chunk_and_from_another_token():
    original = services.view(CLIMATE)
    wish = {
        "kind": "branch",
        "trace": CLIMATE,
        "chunk": 1,
        "changes": [mute(1, 1)],
        "seed": 5,
        "temperature": 0,
    }
    view = fulfilled(wish)
    assert view["change"]["kind"] == "branch" and view["change"]["at"] == 128 == view["prompt_tokens"]
    texts = [[token["text"] for token in each["tokens"]] for each in (view, original)]
    assert texts[0][:128] == texts[1][:128] and texts[0][128:] != texts[1][128:]
    assert view["change"]["before"]["text"] == "".join(texts[1][128:])
    assert view["sampling"]["temperature"] == 0 and view["sampling"]["seed"] == 5

    position = 70
    other = next(text for text, _ in original["tokens"][position]["alts_on"] if text != texts[1][position])
    view = fulfilled({"kind": "fork", "trace": CLIMATE, "position": position, "token": other})
    assert "".join(t["text"] for t in view["tokens"][: position + 1]) == "".join(texts[1][:position]) + other
    assert view["prompt_tokens"] == position + 1
    assert view["chunks"][0]["neighbours"][0]["tokens"] == original["chunks"][0]["neighbours"][0]["tokens"]
    refused = fulfilled({"kind": "fork", "trace": CLIMATE, "position": position, "token": "no such token"})
    assert "not among the likeliest" in refused["refused"]


FORGED = [
    None, 7, "change", [], {}, {"kind": []}, {"kind": "delete", "trace": GHANA},
    {"kind": "change", "trace": None}, {"kind": "change", "trace": "x" * 1000},
    {"kind": "change", "trace": "../../etc/passwd"},
    {"kind": "change", "trace": GHANA},
    {"kind": "change", "trace": GHANA, "changes": "mute"},
    {"kind": "change", "trace": GHANA, "changes": [None]},
    {"kind": "change", "trace": GHANA, "changes": [{"kind": {}}]},
    {"kind": "change", "trace": GHANA, "changes": [{**mute(), "rank": True}]},
    {"kind": "change", "trace": GHANA, "changes": [{**mute(), "rank": 1.5}]},
    {"kind": "change", "trace": GHANA, "changes": [mute(0, 9)]},
    {"kind": "change", "trace": GHANA, "changes": [mute(99, 1)]},
    {"kind": "change", "trace": GHANA, "changes": [mute()] * 65},
    {"kind": "change", "trace": GHANA, "changes": [{**mute(), "kind": "edit", "text": "a" * 9000}]},
    {"kind": "change", "trace": GHANA, "changes": [{**mute(), "kind": "edit", "text": "  "}]},
    {"kind": "change", "trace": GHANA, "changes": [{**mute(), "kind": "edit", "text": "\ud800 " * 900}]},
    {"kind": "branch", "trace": GHANA}, {"kind": "branch", "trace": GHANA, "chunk": 50},
    {"kind": "branch", "trace": GHANA, "chunk": 0, "temperature": "hot"},
    {"kind": "branch", "trace": GHANA, "chunk": 0, "temperature": float("nan")},
    {"kind": "branch", "trace": GHANA, "chunk": 0, "temperature": -4},
    {"kind": "branch", "trace": GHANA, "chunk": 0, "seed": -1},
    {"kind": "fork", "trace": GHANA, "position": 0, "token": "a"},
    {"kind": "fork", "trace": GHANA, "position": 4000, "token": "a"},
    {"kind": "fork", "trace": GHANA, "position": 70, "token": ["a"]},
]  # fmt: skip


@pytest.mark.parametrize("wish", FORGED, ids=range(len(FORGED)))
def test_what_the_lens_never_sends_is_refused_in_a_sentence(wish):
    said = fulfilled(wish)
    assert set(said) == {"refused"} and said["refused"].endswith(".") and "/" not in said["refused"]
    assert "our side" not in said["refused"], "refused by luck only"
    for answer in (explore_change_here.standing, explore_change_here.source, explore_change_here.heads):
        told = answer(wish)
        assert isinstance(told, dict) and ("error" in told or wish and wish.get("trace") == GHANA)


def test_the_event_takes_nothing_else():
    with pytest.raises(Exception, match="Expected one of change"):
        explore_change.take(SimpleNamespace(_data={"kind": "erase", "trace": GHANA}))
    with pytest.raises(Exception, match="no longer has this trace"):
        explore_change.restore(SimpleNamespace(_data={"trace": "someone-elses"}))


def test_a_trace_of_another_model_is_not_changed_but_can_be_read_again():
    value = services.trace(GHANA).to_json()
    services.model()
    forged = services.keep(Trace.from_json({**value, "model": {**value["model"], "fingerprint": "0" * 64}}))
    standing = explore_change_here.standing({"trace": forged})
    assert not standing["can"] and standing["differs"][0]["then"] == "00000000"
    assert standing["differs"][0]["here"] == services.model().fingerprint[:8]
    said = fulfilled({"kind": "change", "trace": forged, "changes": [mute()]})
    assert "is not the one that made this trace" in said["refused"]
    again = fulfilled({"kind": "again", "trace": forged}, datastore="factbook-2025")
    assert again["model"]["fingerprint"] == services.model().fingerprint
    assert again["chunks"][0]["neighbours"] and "change" not in again

    gone = services.keep(Trace.from_json({**value, "datastore": {**value["datastore"], "name": "gone"}}))
    assert "'gone'" in explore_change_here.standing({"trace": gone})["why"]
    assert "'gone'" in explore_change_here.source({"trace": gone, "chunk": 0, "rank": 1})["error"]


def test_far_neighbours_are_far_for_their_datastore():
    near, far = (
        explore_change_here.standing({"trace": trace})["far"] for trace in (GHANA, "recorded-5-off-topic")
    )
    assert near[0][0] < 0.5 and min(far[0]) >= 0.95


def test_a_neighbour_is_shown_where_it_stands_in_its_document():
    card = services.view(CLIMATE)["chunks"][0]["neighbours"][0]
    found = explore_change_here.source({"trace": CLIMATE, "chunk": 0, "rank": 1})
    spelled = "".join(card["tokens"])
    assert (found["text"] + found["continuation"]).split() == spelled.split()
    assert found["title"] == card["title"] and found["offset"] == card["offset"]


def test_a_neighbour_is_marked_on_the_map_of_its_datastore_and_on_no_other():
    marked = corpus_map.place_of({"trace": GHANA, "chunk": 0, "rank": 1})
    assert (marked.name, "Ghana" in marked.words) == ("factbook-2025", True)
    _, picture, legend = next(corpus_map.show(marked.name, "pca", marked, marked.query))
    drawn = corpus_map._map(services.snapshot(marked.name), "pca")
    star = picture.data[-1]
    vector = services.snapshot(marked.name).embeddings[[marked.chunk]]
    assert np.allclose([star.x[0], star.y[0]], drawn.place(vector)[0], atol=1e-3)
    assert legend["notes"][1].startswith("★ is neighbour #1 of chunk 1")
    for name, query in (("factbook-2025", ""), ("factbook-2015", marked.query)):
        _, legend = corpus_map.draw(name, query, "source", "pca", marked)
        assert "★" not in str(legend), "something else is looked at"
    assert explore_change_here.standing({"trace": GHANA})["map"] == ""
    value = services.trace(GHANA).to_json()
    gone = services.keep(Trace.from_json({**value, "datastore": {**value["datastore"], "name": "gone"}}))
    assert "'gone'" in explore_change_here.standing({"trace": gone})["map"]
    for forged in (None, {"trace": gone, "chunk": 0, "rank": 1}, {"trace": GHANA, "chunk": 9, "rank": 1}):
        with pytest.raises(Exception, match=r"Expected named|'gone'|no neighbour 1"):
            corpus_map.place_of(forged)


def test_all_heads_come_in_small():
    found = explore_change_here.heads({"trace": CLIMATE, "chunk": 0})
    assert (found["layers"], found["heads"]) == (2, 4) and found["rows"] <= 14 and found["cols"] <= 40
    assert all(0 <= focus <= 1 for layer in found["focus"] for focus in layer)


def test_wishes_are_kept_apart_from_what_they_are_not():
    wish = explore_change.wish_of({"kind": "fork", "trace": GHANA, "position": 70, "token": "a", "extra": 1})
    assert (wish.position, wish.token, wish.chunk) == (70, "a", None)
    with pytest.raises(InputError):
        explore_change.wish_of({"kind": "branch", "trace": GHANA, "chunk": 1, "seed": 2**40})
