"""Whatever people upload becomes documents, or one sentence that says what, where and what to do."""

import json

import pytest

from indexing.corpus import Document, display_name, read_files, read_text
from indexing.errors import CorpusError


def write(tmp_path, name: str, content: bytes | str):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(*values) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


GOOD_ROWS = [{"text": f"row {number}"} for number in range(1, 7)]


def test_the_three_formats(tmp_path):
    lines = rows({"text": "one", "title": "First", "id": 17}, {"text": "two\u2028still two", "extra": [1]})
    paths = [
        write(tmp_path, "a.TXT", b"\xef\xbb\xbfcaf\xc3\xa9\r\nline two\rthree"),
        write(tmp_path, "b.md", "# Heading\n\nbody"),
        write(tmp_path, "c.jsonl", "\ufeff" + lines.replace("\n", "\r\n") + "\n\n"),
    ]
    assert list(read_files(paths)) == [
        Document("a.TXT", "a.TXT", "café\nline two\nthree", "a.TXT"),
        Document("b.md", "b.md", "# Heading\n\nbody", "b.md"),
        Document("17", "First", "one", "c.jsonl, line 1"),
        Document("c.jsonl:2", "c.jsonl, line 2", "two\u2028still two", "c.jsonl, line 2"),
    ]


def test_uploads_show_their_own_name_and_never_the_path(tmp_path):
    path = write(tmp_path, "tmpab12", "text")
    (document,) = read_files([path], names=["C:\\Users\\me\\notes.md"])
    assert document.source == document.title == "notes.md"
    with pytest.raises(CorpusError) as caught:
        list(read_files([write(tmp_path, "tmpab13", b"\xff\xfe\xff")], names=["notes.txt"]))
    assert "notes.txt" in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "a.txt is empty: expected some text"),
        ("a.txt", " \n\t ", "a.txt is empty"),
        ("a.jsonl", "\n \n", "a.jsonl is empty"),
        ("a.txt", b"caf\xe9 au lait", "a.txt is not UTF-8 text: byte 3 is 0xe9.*save it as UTF-8"),
        ("a.txt", b"\xef\xbb\xbfcaf\xe9", "byte 6 is 0xe9"),
        ("a.txt", "café".encode("utf-16")[:-1], "a.txt is not UTF-16 text: byte 8 is 0xe9"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.txt looks binary"),
        ("a.md", bytes(range(1, 9)) * 9, "a.md looks binary"),
        (
            "a.exe",
            b"text",
            r"Cannot read a.exe: expected a .txt, .md, .* or .zip file. Save it as",
        ),
        ("noending", "text", "Cannot read noending"),
        (
            "a.jsonl",
            rows(*GOOD_ROWS) + '{"text": "cut',
            "Line 7 of a.jsonl is not valid JSON: .*character 10",
        ),
        ("a.jsonl", rows(*GOOD_ROWS, ["x"]), r"Line 7 of a.jsonl: expected an object .*, got a list"),
        ("a.jsonl", rows(*GOOD_ROWS, {"body": "x"}), 'Line 7 of a.jsonl has no "text", only "body"'),
        (
            "a.jsonl",
            rows(*GOOD_ROWS, {"text": 3}),
            'Line 7 of a.jsonl: expected "text" to be a string, got a num',
        ),
        ("a.jsonl", rows(*GOOD_ROWS, {"text": None}), 'Line 7 .* "text" to be a string, got null'),
        (
            "a.jsonl",
            rows(*GOOD_ROWS, {"text": "x", "title": {}}),
            'Line 7 .* "title" to be a string, got an obj',
        ),
        ("a.jsonl", rows({"text": " "}, {"text": ""}), "Line 1 of a.jsonl is empty"),
        ("a.jsonl", rows(*GOOD_ROWS, {"text": "a\0b"}), "Line 7 of a.jsonl looks binary"),
        (
            "a.jsonl",
            rows(*GOOD_ROWS).encode() + b'{"text": "\xe9"}',
            "a.jsonl is not UTF-8 text: byte 118 is",
        ),
        ("a.jsonl", "[" * 100_000, "Line 1 of a.jsonl cannot be read as JSON"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}", "Line 1 of a.jsonl cannot be read as JSON"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_sentence(tmp_path, name, content, sentence):
    with pytest.raises(CorpusError, match=sentence) as caught:
        list(read_files([write(tmp_path, name, content)]))
    assert len(str(caught.value)) <= 200


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CorpusError, match="Cannot read gone.txt: No such file"):
        list(read_files([tmp_path / "gone.txt"]))
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(CorpusError, match="Cannot read folder.txt: there are no files in it"):
        list(read_files([tmp_path / "folder.txt"]))
    with pytest.raises(CorpusError, match="at least one file"):
        list(read_files([]))


def test_lone_surrogates_become_the_replacement_character(tmp_path):
    path = write(
        tmp_path, "a.jsonl", '{"text": "a\\ud800b \\ud83d\\ude00", "title": "\\udfff", "id": "\\ud801"}'
    )
    (document,) = read_files([path])
    assert (document.text, document.title, document.id) == ("a\ufffdb 😀", "\ufffd", "\ufffd")
    assert read_text("x\udc00").text == "x\ufffd"


def test_pasted_text():
    assert read_text("Some words.", "My title").title == "My title"
    with pytest.raises(CorpusError, match="The text is empty"):
        read_text(" \n ")
    with pytest.raises(CorpusError, match="looks binary"):
        read_text("a\0b")


def test_display_names_cannot_deceive():
    assert display_name("../../etc/passwd") == "passwd"
    assert display_name("gpj.\u202etxt\0.md") == "gpj.\ufffdtxt\ufffd.md"
    assert len(display_name("x" * 500 + ".txt")) == 200 and display_name("x" * 500 + ".txt").endswith(".txt")
