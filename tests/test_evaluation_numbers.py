"""Summaries, the leakage curve, the relations of the gain: against numbers made by hand and plain loops."""

import dataclasses
import json
import math

import numpy as np
import pytest

from indexing.errors import InputError
from indexing.neighbours import Neighbours, longest_common_runs, overlap
from retro_core.evaluation.held_out import HeldOut, HeldOutDocument
from retro_core.evaluation.leakage import chunk_overlaps, leakage, leakage_curve, slope
from retro_core.evaluation.losses import TokenLosses
from retro_core.evaluation.relations import chunk_gains, jaccard, relations
from retro_core.evaluation.summary import difference, summarise, summarise_reading

M, K, WORDS = 5, 3, 11


def losses_of(document, position, num_bytes, **nats) -> TokenLosses:
    titles = tuple(f"title {i}" for i in range(1 + max(document)))
    arrays = (np.array(values) for values in (document, position, num_bytes))
    return TokenLosses("probe", titles, M, *arrays, {k: np.array(v, dtype=float) for k, v in nats.items()})


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    """Texts of eleven words, and neighbours that repeat pieces of them."""
    rng = np.random.default_rng(5)
    lengths = (23, 9, 31, 1, 17)
    documents = [HeldOutDocument(f"title {i}", rng.integers(1, WORDS, n)) for i, n in enumerate(lengths)]
    found = []
    for document in documents:
        count = -(-len(document.tokens) // M)
        tokens = rng.integers(0, WORDS, (count, K, 2 * M))
        for chunk in range(count):
            piece = document.tokens[chunk * M : chunk * M + int(rng.integers(0, M + 1))]
            start = int(rng.integers(0, 2 * M - len(piece) + 1))
            tokens[chunk, int(rng.integers(K)), start : start + len(piece)] = piece
        distances = np.sort(rng.random((count, K)), axis=1).astype(np.float32)
        found.append(Neighbours(np.ones((count, K), dtype=np.int64), distances, tokens))
    return HeldOut(
        "probe", documents, lambda number, k: found[number].first(k), chunk_size=M, pad_id=0,
        num_neighbours=K, window=2 * M, stride=2 * M,
    )  # fmt: skip


@pytest.fixture(scope="module")
def losses(held_out) -> TokenLosses:
    rng = np.random.default_rng(6)
    places = [(w.document, position) for w in held_out.windows for position in w.scored]
    document, position = zip(*places, strict=True)
    off = rng.random(len(places)) + 1
    on = off - rng.normal(0.2, 0.3, len(places))
    return losses_of(document, position, rng.integers(0, 4, len(places)), on=on, off=off)


def test_hand_made_means():
    found = summarise(
        losses_of([0, 0, 2], [1, 2, 1], [3, 1, 4], on=[1.0, 2.0, 0.5], off=[1.5, 2.0, 1.0], random=[2, 2, 2])
    )
    on, off, gain = found.readings["on"], found.readings["off"], found.differences["on-off"]
    assert (found.documents, found.tokens, found.bytes) == (2, 3, 8)
    assert on.nats == pytest.approx(3.5 / 3) and on.perplexity == pytest.approx(math.exp(3.5 / 3))
    assert on.bpb == pytest.approx(3.5 / math.log(2) / 8) and off.bpb == pytest.approx(4.5 / math.log(2) / 8)
    assert on.ci95 == pytest.approx((0.5, 1.5)), "two documents: either may be drawn twice"
    assert gain.nats == pytest.approx(-1 / 3) and gain.ratio == pytest.approx(on.perplexity / off.perplexity)
    assert gain.ci95 == pytest.approx((-0.5, -0.25)) and gain.ratio_ci95 == pytest.approx(
        np.exp([-0.5, -0.25])
    )
    assert gain.bpb == pytest.approx(on.bpb - off.bpb) and gain.worse == found.worse == 0
    assert found.differences["random-off"].worse == pytest.approx(2 / 3)
    assert set(found.differences) == {"on-off", "random-off"}
    first, second = found.per_document
    assert (second.document, second.title, second.tokens, second.bytes) == (2, "title 2", 1, 4)
    assert first.bits == pytest.approx(
        {"on": 3 / math.log(2), "off": 3.5 / math.log(2), "random": 4 / math.log(2)}
    )
    assert first.gain == pytest.approx(0.5 / math.log(2))
    json.dumps(dataclasses.asdict(found))


def test_without_bytes_or_off_there_is_less_to_say():
    only_on = summarise(losses_of([0, 1], [1, 1], [0, 0], on=[1, 2]))
    assert (only_on.bytes, only_on.readings["on"].bpb, only_on.worse) == (None, None, None)
    assert not only_on.differences and only_on.per_document[0].gain is None
    with pytest.raises(InputError, match="There is no reading 'off': this probe has on"):
        difference(losses_of([0], [1], [1], on=[1]), "on")
    with pytest.raises(InputError, match="'random'"):
        summarise_reading(losses_of([0], [1], [1], on=[1]), "random")


def test_readings_that_differ_by_a_constant_have_a_sure_difference(losses):
    on = losses.with_reading("on", losses.nats["off"] - 0.25)
    found = difference(on, "on")
    assert found.ci95 == pytest.approx((-0.25, -0.25)) and found.worse == 0
    low, high = summarise_reading(on, "on").ci95
    assert high - low > 0.01


def longest_run(a: list[int], b: list[int]) -> int:
    best = 0
    for i in range(len(a)):
        for j in range(len(b)):
            size = 0
            while i + size < len(a) and j + size < len(b) and a[i + size] == b[j + size] != 0:
                size += 1
            best = max(best, size)
    return best


def test_overlaps_of_many_chunks_are_those_of_each(held_out):
    for document, found in chunk_overlaps(held_out, range(5), 2).items():
        chunks, read = held_out.chunks(document), held_out.neighbours(document).tokens
        plain = [
            max(longest_run(chunk.tolist(), other.tolist()) for other in near[:2]) / (chunk != 0).sum()
            for chunk, near in zip(chunks, read, strict=True)
        ]
        assert found == pytest.approx(plain)
        assert longest_common_runs(chunks, read, 0).shape == (len(chunks), K)
    assert overlap(np.zeros(4, dtype=int), np.zeros((2, 7), dtype=int), 0) == 0


def test_the_leakage_curve_against_a_plain_loop(losses, held_out):
    found = leakage(losses, held_out, 2, alphas=(0.25, 0.5, 1.0), seed=3)
    shared = chunk_overlaps(held_out, range(5), 2)
    assert found.num_neighbours == 2
    for point in found.points:
        bits, num_bytes, chunks = {"on": 0.0, "off": 0.0}, 0, set()
        for row, (document, position) in enumerate(zip(losses.document, losses.position, strict=True)):
            if shared[document][position // M] <= point.alpha:
                chunks.add((document, position // M))
                num_bytes += losses.num_bytes[row]
                for name in bits:
                    bits[name] += losses.nats[name][row] / math.log(2)
        assert (point.chunks, point.bytes) == (len(chunks), num_bytes)
        assert point.bpb == pytest.approx({name: value / num_bytes for name, value in bits.items()})
        assert point.ci95["on"][0] <= point.bpb["on"] <= point.ci95["on"][1]
    last = found.points[-1].bpb
    assert last["on"] == pytest.approx(summarise(losses).readings["on"].bpb), "all chunks: the usual number"
    x, y = [point.alpha for point in found.points], [point.bpb["on"] for point in found.points]
    assert found.slope["on"].value == pytest.approx(np.polyfit(x, y, 1)[0])
    apart = found.slope["on"].value - found.slope["off"].value
    assert found.slope["on-off"].value == pytest.approx(apart)
    assert found.slope["on-off"].ci95[0] < apart < found.slope["on-off"].ci95[1]
    json.dumps(dataclasses.asdict(found))


def test_a_model_that_copies_has_a_steeper_curve():
    # Eight chunks a document, of which On makes those easy that have more in common.
    documents, chunks = 20, 8
    document, chunk = np.repeat(np.arange(documents), chunks), np.tile(np.arange(chunks), documents)
    shared = (chunk + 1) / 8
    off = np.full(len(chunk), 2.0) + np.random.default_rng(1).normal(0, 0.01, len(chunk))
    losses = losses_of(
        document, chunk * M + 1, np.ones(len(chunk), dtype=int), on=off * (1 - shared / 2), off=off
    )
    found = leakage_curve(losses, shared)
    assert [point.chunks for point in found.points] == [20 * n for n in range(1, 9)]
    low, high = found.slope["on-off"].ci95
    assert low < high < 0 and abs(found.slope["off"].value) < 0.1
    assert slope(np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0, 9.0])) == pytest.approx(2)
    empty = leakage_curve(losses, shared + 0.5, alphas=(0.125, 1.0)).points[0]
    assert (empty.chunks, empty.bytes, empty.bpb, empty.ci95) == (
        0, 0, {"on": None, "off": None}, {"on": None, "off": None},
    )  # fmt: skip


def test_leakage_needs_bytes(losses, held_out):
    bare = dataclasses.replace(losses, num_bytes=np.zeros(len(losses), dtype=int))
    with pytest.raises(InputError, match="have no byte counts. Score them again, with a tokenizer"):
        leakage(bare, held_out)
    with pytest.raises(InputError, match="have no reading 'bm25'"):
        leakage(losses, held_out, names=("on", "bm25"))


def test_gains_are_of_what_was_read(losses, held_out):
    found = {(c.document, c.chunk): c for c in chunk_gains(losses, held_out, 2)}
    # Windows of two chunks that do not overlap: the second chunk of each has read something. The last token
    # of the third text, alone in its chunk, is predicted in the window before.
    expected = {(2, 6)}
    for document, each in enumerate(held_out.documents):
        expected |= {(document, u) for u in range(1, -(-len(each.tokens) // M), 2)}
    assert set(found) == expected
    for (document, chunk), one in found.items():
        rows = (losses.document == document) & (losses.position // M == chunk)
        tokens = held_out.chunks(document)[chunk]
        read = held_out.neighbours(document).tokens[chunk - 1, :2]
        assert one.tokens == rows.sum()
        assert one.gain == pytest.approx((losses.nats["off"] - losses.nats["on"])[rows].sum())
        runs = [longest_run(tokens.tolist(), other.tolist()) for other in read]
        assert one.overlap == pytest.approx(max(runs) / (tokens != 0).sum())
        mine, theirs = set(tokens.tolist()) - {0}, set(read.ravel().tolist()) - {0}
        assert one.jaccard == pytest.approx(len(mine & theirs) / len(mine | theirs))
        assert one.distance == held_out.neighbours(document).distances[chunk - 1, 0]
    assert jaccard(np.zeros(3, dtype=int), np.zeros(3, dtype=int), 0) == 0


def test_relations_find_what_is_there(losses, held_out):
    chunks = chunk_gains(losses, held_out)
    ordered = [dataclasses.replace(c, gain=c.overlap * c.tokens) for c in chunks]
    found = relations(ordered)
    assert set(found) == {"overlap", "jaccard", "distance"} and found["overlap"].chunks == len(chunks)
    assert found["overlap"].spearman == pytest.approx(1) and found["overlap"].pearson == pytest.approx(1)
    assert found["overlap"].spearman_ci95 == pytest.approx((1, 1))
    for relation in found.values():
        assert sum(one.items for one in relation.bins) == len(chunks)
        means = sum(one.mean * one.weight for one in relation.bins if one.items)
        assert means == pytest.approx(sum(c.gain for c in ordered))
    unknown = relations([dataclasses.replace(c, distance=math.inf) for c in chunks])
    assert set(unknown) == {"overlap", "jaccard"}
    json.dumps({name: dataclasses.asdict(relation) for name, relation in found.items()})
    with pytest.raises(InputError, match="A gain is Off less On, got the readings on"):
        chunk_gains(dataclasses.replace(losses, nats={"on": losses.nats["on"]}), held_out)
