"""Small files of every kind that people have, made here so that each byte of them is known."""

import io
import zipfile
import zlib


def pdf(*contents: bytes, title: str = "") -> bytes:
    """A PDF with a page for each content stream, as the standard has it and no library's writer."""
    pages = range(4, 4 + 2 * len(contents), 2)
    kids = b" ".join(b"%d 0 R" % page for page in pages)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [" + kids + b"] /Count %d >>" % len(contents),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for page, content in zip(pages, contents, strict=True):
        packed = zlib.compress(content, 9)
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents %d 0 R "
            b"/Resources << /Font << /F 3 0 R >> >> >>" % (page + 1),
            b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(packed) + packed + b"\nendstream",
        ]
    objects.append(b"<< /Title (" + title.encode() + b") >>")
    file, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(file))
        file += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        file
        + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
        + table
        + b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\n" % (len(objects) + 1, len(objects))
        + b"startxref\n%d\n%%%%EOF\n" % len(file)
    )


def page(text: str) -> bytes:
    return b"BT /F 12 Tf 50 700 Td (" + text.encode() + b") Tj ET"


def docx(title: str = "Notes on ferns") -> bytes:
    from docx import Document

    document = Document()
    document.core_properties.title = title
    document.add_heading("Ferns", 1)
    document.add_paragraph("They have no flowers.")
    table = document.add_table(2, 3)
    for row, names in enumerate((("fern", "height", "place"), ("bracken", "2 m", "Zürich"))):
        for column, name in enumerate(names):
            table.cell(row, column).text = name
    document.add_paragraph("Written in May.")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def parquet(columns: dict, rows_a_group: int = 3) -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, row_group_size=rows_a_group)
    return file.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


HTML = """<!doctype html><html><head><title> Rivers  of
 Africa </title><style>p { color: red }</style></head><body><!-- no -->
<nav><a href="/">Home</a></nav><h1>Rivers</h1>
<p>The <b>Nile</b> flows
   north.<br>It is long &amp; old: &eacute;</p><script>alert("no")</script>
<ul><li>Nile</li><li>Con<i>go</i></li></ul><table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>
<pre>two
  spaces</pre><div>in<div>ner</div>outer</div></body></html>"""
HTML_TEXT = (
    "Home\n\nRivers\n\nThe Nile flows north.\nIt is long & old: é\n\n"
    "Nile\nCongo\n\na\tb\nc\n\ntwo\n  spaces\n\nin\nner\nouter"
)
