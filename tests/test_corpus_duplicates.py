"""Documents that repeat earlier ones are noted, exact and near, as comparing all pairs would find them."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexing.corpus import Document, Report
from indexing.corpus import duplicates as module
from indexing.corpus.duplicates import NEARLY, normalised, noting_repeats, sketch
from indexing.errors import CorpusError

BEGINS = ("tor", "bel", "mun", "ska", "dri", "pon", "gul")
WORDS = [begin + end for begin in BEGINS for end in ("an", "eth", "ix", "or", "u")]


def text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(WORDS) + chance.choice(WORDS) for _ in range(words))


def edited(chance: random.Random, original: str, share: float) -> str:
    return " ".join(chance.choice(WORDS) if chance.random() < share else word for word in original.split())


def runs(text: str) -> set[str]:
    return {text[i : i + 8] for i in range(max(1, len(text) - 7))}


def jaccard(a: str, b: str) -> float:
    a, b = runs(normalised(a)), runs(normalised(b))
    return len(a & b) / len(a | b)


def noted(texts: list[str]) -> Report:
    report = Report()
    documents = [Document(str(i), "t", each, f"a.csv, line {i + 2}") for i, each in enumerate(texts)]
    assert list(noting_repeats(iter(documents), report)) == documents
    assert report.compared == len(texts)
    return report


def test_repeats_are_those_that_comparing_all_pairs_finds():
    chance = random.Random(5)
    texts: list[str] = []
    for _ in range(170):
        kind = chance.random()
        if texts and kind < 0.1:
            texts.append("  " + chance.choice(texts).replace(" ", "\n ").upper())
        elif texts and kind < 0.4:
            texts.append(edited(chance, chance.choice(texts), chance.choice((0.01, 0.02, 0.3))))
        else:
            texts.append(text(chance, chance.choice((40, 90))))
    report = noted(texts)
    exact = sure = impossible = 0
    told = {sentence.split(" repeats ")[0] for sentence in report.repeats.first}
    shingles = [runs(normalised(each)) for each in texts]
    seen: set[str] = set()
    for i, each in enumerate(texts):
        clean = normalised(each)
        if clean in seen:
            exact += 1
            assert exact > 20 or f"a.csv, line {i + 2}" in told
        else:
            mine = shingles[i]
            most = max((len(mine & other) / len(mine | other) for other in shingles[:i]), default=0)
            sure += most > 0.92
            impossible += most < 0.65
        seen.add(clean)
    assert exact > 5 and report.repeats.count == exact
    # A sketch of 64 hashes is sure of what is far from the border only.
    others = len(texts) - exact
    assert sure > 8 and impossible > 50
    assert sure <= report.near_repeats.count <= others - impossible


def test_sketches_agree_in_the_share_that_the_texts_share():
    chance = random.Random(6)
    differences = []
    for share in (0.0, 0.02, 0.05, 0.1, 0.2, 1.0) * 20:
        a = normalised(text(chance, chance.choice((11, 60, 400))))
        b = normalised(edited(chance, a, share))
        alike = (sketch([a, "東京", b])[[0]] == sketch([b])).mean()  # whatever is sketched beside them
        differences.append(alike - jaccard(a, b))
    assert abs(np.mean(differences)) < 0.02 and np.abs(differences).max() < 0.3


def test_the_earlier_document_is_named():
    long = text(random.Random(7), 100)
    documents = [
        Document("1", "t", long, "notes/b.md"),
        Document("2", "t", "Short.", "a.csv, line 2"),
        Document("3", "t", long + " Edited.", "a.csv, line 17"),
        Document("4", "t", " short. ", "c.parquet, row 19"),
        Document("5", "t", "東京", "d.txt"),
        Document("6", "t", "東", "e.txt"),
    ]
    report = Report()
    list(noting_repeats(documents, report))
    assert report.sentences() == [
        "1 document repeats an earlier one:",
        "– c.parquet, row 19 repeats a.csv, line 2",
        "1 document nearly repeats an earlier one:",
        "– a.csv, line 17 is nearly notes/b.md",
    ]
    assert NEARLY == 0.8


def test_memory_is_bounded_and_the_newest_are_still_compared(monkeypatch):
    monkeypatch.setattr(module, "_WINDOW", 64)
    monkeypatch.setattr(module, "_SLOTS", 128)
    monkeypatch.setattr(module, "_EXACT_SLOTS", 256)
    monkeypatch.setattr(module, "_EXACT_MOST", 192)
    chance = random.Random(8)
    texts = [text(chance, 40) for _ in range(1000)]
    changed = [edited(chance, texts[990], 0.01), edited(chance, texts[500], 0.01)]
    report = noted([*texts, *changed, texts[100], texts[999]])
    # That of 500 is out of the window; of exact ones, those of the first 192 are known, and the near ones.
    assert (report.repeats.count, report.near_repeats.count) == (1, 2)


def test_good_documents_before_an_error_are_given_on():
    def broken():
        yield from (Document(str(i), "t", f"text {i}", "s") for i in range(300))
        raise CorpusError("Line 300 is bad.")

    got = []
    with pytest.raises(CorpusError):
        for document in noting_repeats(broken(), Report()):
            got.append(document.id)
    assert got == [str(i) for i in range(300)]


def test_results_do_not_depend_on_the_process():
    code = "from indexing.corpus.duplicates import sketch; print(sketch(['the same text']).tolist())"
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", code]
    told = [subprocess.run(command, cwd=root, capture_output=True, text=True).stdout for _ in "ab"]
    assert told[0] == told[1] and len(told[0]) > 64
