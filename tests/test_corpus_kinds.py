"""Each kind of file people have comes in with its text, title and source; folders of them too."""

import os
import random

import pytest
from corpus_files import HTML, HTML_TEXT, archive, docx, page, parquet, pdf

from indexing.corpus import Document, Report, read_files, rows
from indexing.errors import CorpusError


def read(tmp_path, files: dict[str, bytes | str], **options) -> list[Document]:
    paths = []
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        paths.append(path)
    return list(read_files(paths, **options))


def test_documents_of_many_programs(tmp_path):
    cyrillic = '<meta charset="windows-1251"><p>Нил течёт на север.'.encode("cp1251")
    files = {
        "a.html": HTML,
        "b.htm": cyrillic,
        "c.pdf": pdf(page("One page."), page("Another."), title="Two pages"),
        "d.docx": docx(),
    }
    assert read(tmp_path, files) == [
        Document("a.html", "Rivers of Africa", HTML_TEXT, "a.html"),
        Document("b.htm", "b.htm", "Нил течёт на север.", "b.htm"),
        Document("c.pdf", "Two pages", "One page.\n\nAnother.", "c.pdf"),
        Document(
            "d.docx",
            "Notes on ferns",
            "Ferns\n\nThey have no flowers.\n\nfern\theight\tplace\nbracken\t2 m\tZürich\n\nWritten in May.",
            "d.docx",
        ),
    ]


def test_tables(tmp_path):
    csv = 'id,text,title\r\n7,"two\r\nlines, ""quoted""",First\r\n\r\n8,plain,\r\n'
    report = Report()
    files = {
        "a.csv": "\ufeff" + csv,
        "b.csv": "body;note\nich;x,y\ndu;z\n".encode("utf-16"),
        "c.parquet": parquet(
            {"body": ["one", None, "three", "four"], "id": [3, 5, 7, 11], "title": ["A", "B", None, "D"]}
        ),
    }
    assert read(tmp_path, {"a.csv": files["a.csv"]}) == [
        Document("7", "First", 'two\nlines, "quoted"', "a.csv, line 2"),
        Document("8", "a.csv, line 5", "plain", "a.csv, line 5"),
    ]
    del files["a.csv"]
    assert read(tmp_path, files, column="body", report=report) == [
        Document("b.csv:2", "b.csv, line 2", "ich", "b.csv, line 2"),
        Document("b.csv:3", "b.csv, line 3", "du", "b.csv, line 3"),
        Document("3", "A", "one", "c.parquet, row 1"),
        Document("7", "c.parquet, row 3", "three", "c.parquet, row 3"),
        Document("11", "D", "four", "c.parquet, row 4"),
    ]
    assert (report.rows, report.empty_rows, report.encodings["utf-16"]) == (5, 1, 1)
    assert report.sentences() == ["1 row without text: left out."]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_a_table_without_the_column_names_the_ones_it_has(tmp_path, name):
    content = {
        "a.csv": "id,body\n1,x\n",
        "a.parquet": parquet({"id": ["1"], "body": ["x"]}),
        "a.jsonl": '{"id": "1", "body": "x"}\n',
    }
    with pytest.raises(CorpusError, match='has no (column )?"text", only "id", "body"'):
        read(tmp_path, {name: content[name]})
    assert [document.text for document in read(tmp_path, {name: content[name]}, column="body")] == ["x"]


def test_folders_are_read_in_order_and_tell_what_they_left_out(tmp_path):
    report = Report()
    folder = tmp_path / "notes"
    files = {
        "notes/b.txt": "text of b",
        "notes/B/z.md": "text of z",
        "notes/a.zip": archive(
            {"in/c.txt": b"text of c", "d.pdf": pdf(page("text of d")), "e.zip": archive({})}
        ),
        "notes/.git/config.txt": "hidden",
        "notes/photo.png": b"\x89PNG",
        "notes/broken.pdf": b"%PDF-1.7 and no more",
        "secret.txt": "not in the folder",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    os.symlink(tmp_path / "secret.txt", folder / "link.txt")
    os.symlink(tmp_path, folder / "up")
    documents = list(read_files([folder], report=report))
    assert [(document.source, document.text) for document in documents] == [
        ("notes/B/z.md", "text of z"),
        ("notes/a.zip/in/c.txt", "text of c"),
        ("notes/a.zip/d.pdf", "text of d"),
        ("notes/b.txt", "text of b"),
    ]
    skipped = "\n".join(report.sentences())
    for reason in (
        "a.zip/e.zip: it is an archive",
        "broken.pdf: it is damaged",
        "photo.png: expected a",
        "link.txt: links",
        "up: links",
    ):
        assert f"Cannot read notes/{reason}" in skipped
    assert report.files_skipped.count == 5 and str(tmp_path) not in skipped
    with pytest.raises(CorpusError, match="Cannot read notes/"):
        list(read_files([folder], bad_rows="none"))


def test_few_bad_rows_are_left_out_and_many_are_refused_after_the_good_ones(tmp_path):
    """However they are mixed: accepted + rejected = rows, in order, and the first bad line is named."""
    chance = random.Random(11)
    for _ in range(30):
        kinds = chance.choices(["good", "bad"], [chance.choice((1, 100, 400)), 1], k=chance.randint(1, 700))
        lines = [f'{{"text": "row {i}"}}' if kind == "good" else "{no" for i, kind in enumerate(kinds)]
        good = [f"row {i}" for i, kind in enumerate(kinds) if kind == "good"]
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        report, texts, error = Report(), [], ""
        try:
            for document in read_files([tmp_path / "a.jsonl"], report=report):
                texts.append(document.text)
        except CorpusError as caught:
            error = str(caught)
        bad = len(kinds) - len(good)
        assert texts == good and report.rows == len(good) and report.bad_rows.count == bad
        assert bool(error) == (bad > 0.01 * len(kinds) or not good), (bad, len(kinds), error)
        if bad:
            assert f"Line {kinds.index('bad') + 1} of a.jsonl is not valid JSON" in report.bad_rows.first[0]
            assert len(report.bad_rows.first) == min(20, bad)
        if good:
            forced = read_files([tmp_path / "a.jsonl"], bad_rows="any")
            assert [document.text for document in forced] == good
        if bad:
            with pytest.raises(CorpusError, match=f"Line {kinds.index('bad') + 1} of"):
                list(read_files([tmp_path / "a.jsonl"], bad_rows="none"))


def test_a_quote_that_is_not_closed_loses_its_own_row_only(tmp_path):
    rows = [f"{i},text {i}" for i in range(300)]
    rows[7] = '7,"never closed'
    rows[250] = '250,"closed" too early'
    report = Report()
    documents = read(tmp_path, {"a.csv": "id,text\n" + "\n".join(rows)}, report=report)
    assert [document.id for document in documents] == [str(i) for i in range(300) if i not in (7, 250)]
    lines = [sentence.split(" cannot")[0] for sentence in report.bad_rows.first]
    assert lines == ["Line 9 of a.csv", "Line 252 of a.csv"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_rows_without_end_are_bad_rows(tmp_path, monkeypatch, encoding):
    """A line is given up before it fills the memory, and the lines after it keep their numbers."""
    monkeypatch.setattr(rows, "_LONGEST_ROW", 1000)
    monkeypatch.setattr(rows, "_LONGEST_FIELD", 1000)
    long = "x" * 3_000_000
    files = {
        "a.jsonl": f'{{"text": "one"}}\n{{"text": "{long}"}}\n{{"text": "three"}}\n\n{{"text": "five"}}',
        "b.csv": f"id,text\n2,two\n3,{long}\n4,four\n5,five",
    }
    report = Report()
    encoded = {name: content.encode(encoding) for name, content in files.items()}
    documents = read(tmp_path, encoded, bad_rows="any", report=report)
    assert [document.source for document in documents] == [
        *("a.jsonl, line 1", "a.jsonl, line 3", "a.jsonl, line 5"),
        *("b.csv, line 2", "b.csv, line 4", "b.csv, line 5"),
    ]
    assert report.bad_rows.first == [
        "Line 2 of a.jsonl has more than 1,000 bytes. Split the text and try again.",
        "Line 3 of b.csv cannot be taken apart: a field is too long. Mend the line and try again.",
    ]


def test_long_lines_of_many_values_are_not_parsed(tmp_path):
    """[[],[],…] of 30 MB would be gigabytes of lists."""
    values = '{"text": "x", "more": [' + "[]," * 400_000 + "[]]}"
    report = Report()
    assert len(read(tmp_path, {"a.jsonl": '{"text": "one"}\n' + values}, bad_rows="any", report=report)) == 1
    assert report.bad_rows.first[0].startswith("Line 2 of a.jsonl holds too many values.")
    assert read(tmp_path, {"b.jsonl": '{"text": "' + "words, words. " * 100_000 + '"}'})


ENCODED = {
    "cp1252": "Les élèves étudient à l'école où ils reçoivent une éducation très sévère, ça suffit. ",
    "latin-1": "El niño comió una manzana y después jugó al fútbol en el jardín con su compañero. ",
    "cp1250": "Zażółć gęślą jaźń, a potem idź do sklepu po świeże bułki i żółty ser. ",
    "cp1251": "Съешь ещё этих мягких французских булок, да выпей чаю, и расскажи о погоде. ",
    "koi8_r": "Съешь ещё этих мягких французских булок, да выпей чаю, и расскажи о погоде. ",
    "cp1253": "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί και φεύγει μακριά. ",
    "cp1255": "השועל החום המהיר קופץ מעל הכלב העצלן והולך הביתה בשקט. ",
    "shift_jis": "速い茶色の狐が怠け者の犬を飛び越えて、静かに家へ帰りました。天気はとても良いです。",
    "gb18030": "敏捷的棕色狐狸跳过了懒狗，然后安静地回家了。今天的天气非常好，我们去公园散步。",
    "big5": "敏捷的棕色狐狸跳過了懶狗，然後安靜地回家了。今天的天氣非常好，我們去公園散步。",
    "euc_kr": "빠른 갈색 여우가 게으른 개를 뛰어넘어 조용히 집으로 돌아갔습니다. 오늘 날씨가 좋습니다. ",
    "utf-16": "Zürich und 東京. ",
    "utf-32": "Zürich und 東京. ",
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_encodings_are_detected_and_told(tmp_path, encoding):
    text = ENCODED[encoding] * 5
    report = Report()
    documents = read(
        tmp_path,
        {"a.txt": text.encode(encoding), "b.csv": ("text\n" + f'"{text}"\n' * 3).encode(encoding)},
        report=report,
    )
    assert [document.text for document in documents] == [text] * 4
    assert bool(report.guesses.count) == (not encoding.startswith("utf"))


def test_damaged_utf8_is_refused_and_never_guessed(tmp_path):
    """A guess would turn every other accent of the text into two wrong characters."""
    data = (ENCODED["cp1252"] * 40).encode()
    at = len(data) // 2
    with pytest.raises(CorpusError, match=f"a.txt is not UTF-8 text: byte {at} is 0xff"):
        read(tmp_path, {"a.txt": data[:at] + b"\xff" * 6 + data[at:]})
