"""A file costs what it may cost and no more: time, memory, output; and the process that reads it survives."""

import os
import subprocess
import sys
import textwrap
import time
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import SENTENCES
from corpus_files import archive, page, parquet, pdf

from indexing.corpus import Document, Limits, documents, read_files
from indexing.corpus.archives import MAX_UNPACKED
from indexing.corpus.child import Child
from indexing.corpus.documents import PIECE
from indexing.errors import CorpusError

ROOT = Path(__file__).parent.parent


def refusal(path, name: str, content: bytes, **options) -> str:
    (path / name).write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        list(read_files([path / name], **options))
    assert len(str(caught.value)) <= 200 and str(path) not in str(caught.value)
    return str(caught.value)


def many_operators(count: int) -> bytes:
    """A page that takes long to read and little room: its text is shown letter by letter."""
    return b"BT /F 12 Tf " + b"1 0 0 1 9 9 Tm (x) Tj " * count + b"ET"


def test_a_page_that_takes_long_is_stopped_and_the_next_file_is_read(tmp_path):
    long = pdf(many_operators(200_000))
    assert len(long) < 60_000
    assert "reading it took over 1 s" in refusal(tmp_path, "a.pdf", long, limits=Limits(cpu_seconds=1))
    # The same page, but short, within the same limit: it is the time and not the page that was refused.
    (tmp_path / "b.pdf").write_bytes(pdf(many_operators(400)))
    (document,) = read_files([tmp_path / "b.pdf"], limits=Limits(cpu_seconds=1))
    assert document.text.count("x") == 400
    with Child(Limits()) as child:
        os.mkfifo(tmp_path / "never")
        child._limits = Limits(seconds=0.5)
        begin = time.monotonic()
        with pytest.raises(CorpusError, match="reading it took over 0.5 s"):
            list(child.answers("html", tmp_path / "never", "never"))
        assert time.monotonic() - begin < 5
        child._limits = Limits()
        (tmp_path / "c.html").write_text("<p>text")
        assert {"piece": "text"} in child.answers("html", tmp_path / "c.html", "c.html")


REFUSE = """
    import sys
    from indexing.corpus import Limits, read_files
    from indexing.errors import CorpusError
    for name, limits in ("a.docx", Limits(memory=220 << 20)), ("b.html", Limits(characters=1_000_000)):
        try:
            list(read_files([sys.argv[1] + "/" + name], limits=limits))
        except CorpusError as error:
            assert "more than 220 MB of memory" in str(error) or "more than 1,000,000 char" in str(error)
        else:
            sys.exit("taken")
"""


def test_memory_and_output_are_bounded(tmp_path):
    """The reader stays small whatever its child does."""
    with (
        zipfile.ZipFile(tmp_path / "a.docx", "w", zipfile.ZIP_DEFLATED) as bomb,
        bomb.open("[Content_Types].xml", "w") as member,
    ):
        for _ in range(120):
            member.write(b" " * 1_000_000)
    (tmp_path / "b.html").write_bytes(b"<p>" + b"word " * 240_000)
    (peak,) = measured(tmp_path, REFUSE)
    assert peak < 80_000_000
    # The control: it is the limit that refuses the page.
    assert list(read_files([tmp_path / "b.html"], limits=Limits(characters=1_300_000)))


def test_a_table_that_says_the_same_without_end_is_refused(tmp_path):
    content = parquet({"text": ["x" * 1000] * 4001}, rows_a_group=4001)
    assert len(content) < 10_000
    told = refusal(tmp_path, "a.parquet", content, limits=Limits(characters=10_000))
    assert "its text is over 100 times as long as the file" in told
    assert len(list(read_files([tmp_path / "a.parquet"]))) == 4001


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pdf(page("x"))[:-400], "it is damaged, or no pdf file"),
        (pdf(b"BT ET"), "there is no text in it, only pictures"),
        (pdf(zlib.compress(b"0" * 100_000_000)), "there is no text in it"),
    ],
    ids=["cut", "no text", "packed twice"],
)
def test_useless_pages(tmp_path, content, sentence):
    assert sentence in refusal(tmp_path, "a.pdf", content)


def forged(size: int) -> bytes:
    """A zip whose member is longer or shorter than both of its records say."""
    data = bytearray(archive({"a.txt": b"text " * 1000}))
    for at in (22, data.rfind(b"PK\1\2") + 24):
        data[at : at + 4] = size.to_bytes(4, "little")
    return bytes(data)


def with_member(name: str, content: bytes = b"text", mode: int = 0o100644, encrypted: bool = False) -> bytes:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    data = bytearray(archive({"x.txt": b"text", member: content}))
    if encrypted:
        at = data.rfind(b"PK\1\2")
        data[at + 8] |= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\3\4 and no more", "it is damaged or no zip archive"),
        (archive({"a.txt": b"text"})[:-30], "it is damaged or no zip archive"),
        (archive({}), "there are no files in it that can be read"),
        (archive({f"{i}.txt": b"x" for i in range(1001)}), "it has over 1,000 entries"),
        (archive({"a.txt": b"\0" * 11_000_000}), "unpacked it is over 100 times as large"),
        (archive({"a.txt": b"no harm " * 1000}), None),
        (with_member("../../up.txt"), '"../../up.txt" in it leads out of the folder'),
        (with_member("/etc/cron.d/x.txt"), "leads out of the folder"),
        (with_member("C:\\windows\\x.txt"), "leads out of the folder"),
        (with_member("x.txt", b"/etc/passwd", mode=0o120777), "is a symbolic link"),
        (with_member("s.txt", encrypted=True), "is encrypted"),
        (forged(10), "is damaged, or not as long as it says"),
        (forged(5001), "is damaged, or not as long as it says"),
        (forged(MAX_UNPACKED + 1), "unpacked it has 200,000,001 bytes, the most is 200,000,000"),
        (forged(5000), None),
    ],
)
def test_archives_that_may_do_harm_are_refused_before_anything_is_unpacked(tmp_path, content, sentence):
    folder = tmp_path / "in"
    folder.mkdir()
    if sentence:
        assert sentence in refusal(folder, "a.zip", content, bad_rows="none")
    else:
        (folder / "a.zip").write_bytes(content)
        assert list(read_files([folder / "a.zip"], bad_rows="none"))
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.zip"]


def test_a_million_entries_are_not_looked_at(tmp_path):
    """What an archive says of its length is read before its directory is."""
    data = archive({"a.txt": b"x"})
    at = data.rfind(b"PK\5\6")
    entry = data[data.rfind(b"PK\1\2") : at]
    end = bytearray(data[at:])
    end[12:16] = (200_000 * len(entry)).to_bytes(4, "little")  # the count still says 1
    begin = time.monotonic()
    assert "it has over 1,000 entries" in refusal(
        tmp_path, "a.zip", data[: -len(end) - len(entry)] + entry * 200_000 + bytes(end)
    )
    assert time.monotonic() - begin < 1


def test_the_child_starts_quickly():
    slow = "{'torch', 'faiss', 'gradio', 'pandas', 'numpy', 'pyarrow', 'pypdf'}"
    code = f"import sys, indexing.corpus.parse; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def measured(tmp_path, code: str) -> list[float]:
    """Run `code` in a new process; the numbers it prints and its peak memory in bytes."""
    code = textwrap.dedent(code) + textwrap.dedent("""
        (peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
        print(int(peak.split()[1]) * 1024)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


READ_LONG = """
    import sys
    from indexing.corpus import read_files
    (document,) = read_files([sys.argv[1] + "/a.txt"])
    lengths = [len(piece) for piece in document.pieces()]
    print(sum(lengths), max(lengths))
"""


@pytest.mark.parametrize("megabytes", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_long_text_is_never_in_memory_at_once(tmp_path, megabytes):
    lines = "".join(f"line {i} of Zürich\r\n" for i in range(40_000))
    with open(tmp_path / "a.txt", "w", encoding="utf-8", newline="") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write(lines)
    times = -(-megabytes * 1_000_000 // len(lines.encode()))
    file_characters = len(lines.replace("\r\n", "\n")) * times
    total, longest, peak = measured(tmp_path, READ_LONG)
    assert total == file_characters and longest <= PIECE
    assert peak < 60_000_000
    if megabytes == 30:  # the control: held at once it is more
        whole = READ_LONG.replace("document.pieces()", "[document.text]").replace("max(lengths)", "1")
        assert measured(tmp_path, whole)[-1] > 75_000_000


def test_the_pieces_of_a_file_are_those_of_its_text(tmp_path):
    """Cut before blanks, whatever the blocks; together they are the text, ends of lines apart."""
    words = ["tea", "東京", "\r\n", "  ", "é" * 40, "\r", "\n\n", "a\u2028b"]
    text = "".join(words[(i * i) % 7 + (i % 3 == 0)] + " " * (i % 5 == 0) for i in range(900_000))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (streamed,) = read_files([tmp_path / "a.txt"])
    clean = text.replace("\r\n", "\n").replace("\r", "\n")
    pieces = list(streamed.pieces())
    assert type(streamed).__name__ == "StreamedDocument" and len(pieces) > 3
    assert "".join(pieces) == clean == streamed.text
    for before, piece in pairwise(pieces):
        assert piece[0].isspace() and not before[-1].isspace()
    assert max(map(len, pieces)) <= PIECE and min(map(len, pieces[:-1])) > 0.99 * PIECE
    assert list(Document("a", "a", clean, "a").pieces()) == pieces
    blankless = Document("a", "a", "東" * 2_500_000, "a")
    assert [len(piece) for piece in blankless.pieces()] == 5 * [PIECE]
    assert list(Document("a", "a", "", "a").pieces()) == []


def test_a_text_has_the_same_tokens_whole_and_in_pieces(tokenizer, monkeypatch):
    text = "".join(
        f"{sentence}{blank}" for blank in (" ", "\n\n", "  \t", "\n ") for sentence in SENTENCES * 3
    )
    whole = tokenizer.encode(text)
    for piece in (61, 97, 1009):
        monkeypatch.setattr(documents, "PIECE", piece)
        pieces = list(documents.Document("a", "a", text, "a").pieces())
        assert len(pieces) > 3 and max(map(len, pieces)) <= piece
        assert [id for each in pieces for id in tokenizer.encode(each)] == list(whole)


def test_a_long_file_that_is_not_text_is_refused_with_its_byte(tmp_path):
    line = b"a line of text\n"
    content = bytearray(line * 700_000)
    content[9_000_001] = 0xE9
    assert "a.txt is not UTF-8 text: byte 9000001 is 0xe9" in refusal(tmp_path, "a.txt", bytes(content))
    content[9_000_001] = 0
    assert "a.txt looks binary" in refusal(tmp_path, "a.txt", bytes(content))


@pytest.mark.slow
def test_a_million_rows_in_flat_memory(tmp_path):
    """Reading and looking for repeats; less than 50 bytes a row beyond the tables' own size."""
    with open(tmp_path / "a.jsonl", "w") as file:
        file.writelines(
            f'{{"text": "row {i} of a table with a million of them"}}\n' for i in range(1_000_000)
        )
    peak = {}
    for count in (100_000, 1_000_000):
        code = f"""
            import sys
            from itertools import islice
            from indexing.corpus import Report, read_files
            from indexing.corpus.duplicates import noting_repeats
            report = Report()
            documents = noting_repeats(read_files([sys.argv[1] + "/a.jsonl"], report=report), report)
            print(sum(1 for _ in islice(documents, {count})))
        """
        got, peak[count] = measured(tmp_path, code)
        assert got == count
    assert (peak[1_000_000] - peak[100_000]) / 900_000 < 50
