"""2,000 files that nobody meant to make: each is taken or refused in a sentence, and nothing else happens.

Seeds of every kind are mutated, cut, joined and misnamed, and bytes are made up; the seed of chance is fixed.
`pytest -m slow tests/test_corpus_fuzz.py` is the whole of it, minutes; the fast tests have a share of it.
"""

import random
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import pytest
from corpus_files import HTML, archive, docx, page, parquet, pdf

from indexing.corpus import SUFFIXES, Limits, Report, read_files
from indexing.corpus import reading as module
from indexing.corpus.child import Child
from indexing.corpus.duplicates import noting_repeats
from indexing.errors import RetroError

LIMITS = Limits(seconds=20, cpu_seconds=10, memory=512 << 20, characters=5_000_000)
# Words of each format, which mutations of bytes alone would hardly ever make.
TOKENS = [
    b"\0", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\r\n", b"\n", b'"',
    b'""', b",", b";", b"{", b"}", b"[" * 3000, b"\\ud800", b"\\u0000", b'{"text": ', b"9" * 5000,
    b"NaN", b"null", b"<", b"</", b"<!--", b"<div>" * 3000, b"&#x110000;", b"<meta charset=utf-7>",
    b"<meta charset=hex>", b"<pre>", b"endobj", b"<meta charset=idna>", b"stream\n",
    b"/Length 9999999999", b"/Kids [2 0 R]", b"xref", b"PK\3\4", b"PK\1\2",
    b"/Filter [/FlateDecode /FlateDecode]", b"PK\5\6", b"PK\6\7", b"PAR1", b"\x15\x04\x15", b"/../",
    b"\xff" * 9, b"\x7f\xff\xff\xff",
]  # fmt: skip
NAMES = [
    "a",
    "über",
    "x" * 300,
    "..",
    "con",
    "a\u202eb",
    "a\nb",
    "<img src=x>",
    "'; drop",
    ".env",
    "%s{}",
    "a/b\\c",
]


def seeds() -> dict[str, list[bytes]]:
    """Files of each kind that are read as they are."""
    rows = b'{"text": "r\\u00e9al", "title": "T", "id": 7}\n{"text": "two \\ud83d\\ude00"}\n' * 30
    table = "id,text,title\n" + '1,"two\nlines",T\n2,plain,é\n' * 30
    french = "Les élèves étudient à l'école où ils reçoivent une éducation très sévère. " * 3
    tables = parquet(
        {"text": ["one", None, "three"] * 9, "title": ["A", "B", None] * 9, "id": list(range(27))}
    )
    return {
        ".txt": ["Zürich.\r\n".encode() * 20, "東京.\n".encode("utf-16"), french.encode("cp1252")],
        ".md": [b"# Heading\n\n* item\n"],
        ".html": [HTML.encode(), ('<meta charset="windows-1251">' + "Нил " * 9).encode("cp1251")],
        ".htm": [HTML.encode("utf-16")],
        ".pdf": [pdf(page("One page."), page("Two."), title="T"), pdf(page("x") * 500)],
        ".docx": [docx()],
        ".jsonl": [rows, rows.decode().encode("utf-16-le")],
        ".csv": [table.encode(), table.replace(",", ";").encode("cp1252"), table.encode("utf-16")],
        ".parquet": [tables],
        ".zip": [archive({"a/b.txt": b"text " * 99, "c.csv": table.encode(), "d.pdf": pdf(page("x"))})],
    }  # fmt: skip


def mutated(chance: random.Random, all_seeds: dict[str, list[bytes]]) -> tuple[str, bytes]:
    """(suffix, bytes) of a file that is nearly good, hardly good or noise."""
    suffix = chance.choice(SUFFIXES)
    kind = chance.random()
    if kind < 0.08:
        return suffix, chance.randbytes(chance.choice((0, 1, 2, 3, 50, 5000)))
    if kind < 0.12:
        return suffix, "".join(map(chr, chance.choices(range(0x110000), k=50))).encode(
            "utf-8", "surrogatepass"
        )
    data = bytearray(chance.choice(all_seeds[suffix if kind < 0.9 else chance.choice(SUFFIXES)]))
    for _ in range(chance.choice((0, 1, 1, 2, 5, 30))):
        at = chance.randrange(len(data) + 1)
        how = chance.random()
        if how < 0.35:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif how < 0.55:
            data[at : at + chance.randrange(20)] = chance.choice(TOKENS)
        elif how < 0.65:
            del data[at : at + chance.choice((1, 10, 1000))]
        elif how < 0.72:
            data[at:at] = data[: chance.randrange(2000)]
        elif how < 0.8:
            del data[at:]
        elif at < len(data):
            data[at] ^= 1 << chance.randrange(8)
    return suffix, bytes(data)


def outcome(path: Path, name: str, bad_rows: str) -> tuple[str, list[str]]:
    """("taken" or "refused", every sentence that was told); whatever else is raised is a finding."""
    report = Report()
    told = []
    result = "taken"
    documents = noting_repeats(
        read_files([path], names=[name], bad_rows=bad_rows, report=report, limits=LIMITS), report
    )
    try:
        for document in documents:
            for value in (document.id, document.title, document.text, document.source):
                value.encode("utf-8")
            assert document.text.strip() and "\r" not in document.text and "\n" not in document.title
            assert str(path.parent) not in document.source + document.title + document.id
    except RetroError as error:
        result = "refused"
        told.append(str(error))
    kinds = (
        report.bad_rows,
        report.files_skipped,
        report.notes,
        report.guesses,
        report.repeats,
        report.near_repeats,
    )
    return result, told + [sentence for kind in kinds for sentence in kind.first]


@pytest.fixture(autouse=True)
def one_child(monkeypatch):
    """The child outlives each reading, which saves its start; it is replaced when it dies, as ever."""

    class Lasting(Child):
        def __exit__(self, *_) -> None:
            pass

    child = Lasting(LIMITS)
    monkeypatch.setattr(module, "Child", lambda limits: child)
    yield
    child.end()


def fuzz(folder: Path, count: int, seed: int) -> Counter:
    """How many files of each suffix were taken and refused."""
    chance = random.Random(seed)
    all_seeds = seeds()
    seen: Counter[tuple[str, str]] = Counter()
    for i in range(count):
        suffix, data = mutated(chance, all_seeds)
        path = folder / f"upload-{i}"
        path.write_bytes(data)
        name = chance.choice(NAMES) + suffix
        result, told = outcome(path, name, chance.choice(("few", "any", "none")))
        for sentence in told:
            assert len(sentence) <= 200, (len(sentence), sentence)
            assert str(folder) not in sentence and "upload-" not in sentence and "/tmp" not in sentence, (
                sentence
            )
            assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in sentence), repr(sentence)
        seen[suffix, result] += 1
        path.unlink()
    return seen


@pytest.mark.parametrize(
    ("count", "seed"), [(60, 4), pytest.param(2000, 5, marks=pytest.mark.slow, id="whole")]
)
def test_every_file_is_taken_or_refused_in_a_sentence(tmp_path, count, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # files that were not closed, too
        seen = fuzz(tmp_path, count, seed)
    print(seen)
    if count > 1000:
        for suffix in SUFFIXES:
            assert min(seen[suffix, "taken"], seen[suffix, "refused"]) >= 5, (suffix, seen)
    assert not list(tmp_path.iterdir())


def test_seeds_are_read_whole(tmp_path):
    """Otherwise mutations would be of files that are refused anyway."""
    for suffix, contents in seeds().items():
        for content in contents:
            (tmp_path / "upload").write_bytes(content)
            result, told = outcome(
                tmp_path / "upload", "a" + suffix, "none" if suffix != ".parquet" else "few"
            )
            assert result == "taken" or suffix in (".htm", ".jsonl"), (suffix, told)


def test_without_the_boundary_the_same_files_raise_other_errors(tmp_path, monkeypatch):
    """The negative control: a reader that trusts its files is found out."""

    def trusting(self, file):
        text = file.path.read_bytes().decode("utf-8")
        return module.Document(file.name, file.name, text, str(file.path))

    monkeypatch.setattr(module._Reader, "_text", trusting)
    with pytest.raises((UnicodeDecodeError, AssertionError)):
        fuzz(tmp_path, 60, 4)
