"""The child process that reads what strangers' parsers read: web pages, PDF, Word and Parquet files.

`python -m indexing.corpus.parse` takes requests on stdin and answers on stdout, a line of JSON each; see
`child` for the other side, which sees to the time. A file that makes its parser run wild or eat memory ends
this process and nothing else.

Request: {"kind", "path", "name", "column", "memory" (bytes), "cpu" (seconds), "output" (characters)}
Answers: any of {"title": str}, {"piece": str}, {"note": str}, {"encoding": str, "guessed": bool} and
{"columns": [str], "has": [str], "rows": [[number, values of `has`…], …]}; then one of {"end": true},
{"error": what a sentence ends with, "spent": whether this process ends} and {"sentence": str}.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator

from indexing.corpus import encodings
from indexing.errors import CorpusError

_CHARACTERS_AT_ONCE = 500_000
_ROWS_AT_ONCE = 1_000
_HTML_LIMIT = 50_000_000  # bytes
_MAX_RATIO = 100  # characters of a table to bytes of its file, beyond the characters any file may have


class Refused(Exception):
    """Its text is what is wrong and what to do, to stand behind 'Cannot read NAME: '."""


def main() -> None:
    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit(request["memory"], request["cpu"])
        try:
            written = 0
            for answer in PARSERS[request["kind"]](request):
                written += len(answer.get("piece", ""))
                if written > request["output"]:
                    raise Refused(f"it holds more than {request['output']:,} characters. Split it")
                _answer(answer)
            _answer({"end": True})
        except Refused as refused:
            _answer({"error": str(refused)})
        except CorpusError as error:
            _answer({"sentence": str(error)})
        except MemoryError:
            memory = request["memory"] >> 20
            _answer({"error": f"reading it takes more than {memory:,} MB of memory. Split it", "spent": True})
            return  # what is left of the memory is too little for the next file
        except Exception:  # parsers of damaged files raise anything
            _answer({"error": f"it is damaged, or no {request['kind']} file. Save it anew, or as plain text"})


def _answer(value: dict) -> None:
    sys.stdout.buffer.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()


def limit(memory: int, cpu: int) -> None:
    """Let this process have `memory` bytes of addresses in all and `cpu` seconds from now on."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # Windows: the parent's clock alone
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    now = int(used.ru_utime + used.ru_stime)
    for what, soft in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, now + cpu),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(what, (soft, resource.getrlimit(what)[1]))
        except (ValueError, OSError):  # a system that does not know this limit, or has a tighter one
            continue


def _html(request: dict) -> Iterator[dict]:
    from selectolax.lexbor import LexborHTMLParser

    with open(request["path"], "rb") as file:
        data = file.read(_HTML_LIMIT + 1)
    if len(data) > _HTML_LIMIT:
        raise Refused(f"it has more than {_HTML_LIMIT:,} bytes. Split it, or save it as plain text")
    text, encoding, guessed = encodings.decode_html(data, request["name"])
    yield {"encoding": encoding, "guessed": guessed}
    tree = LexborHTMLParser(text)
    title = tree.css_first("head > title") or tree.css_first("h1")
    yield {"title": title.text(deep=True) if title else ""}
    yield from _pieces(_html_text(tree.body) if tree.body else ())


# Elements whose text nobody reads, those that begin a paragraph and those that begin a line.
_UNREAD = {"script", "style", "noscript", "template", "head", "svg", "math", "iframe", "object", "-comment"}
_PARAGRAPHS = {
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre", "section",
    "article", "aside", "header", "footer", "nav", "main", "figure", "form", "hr",
}  # fmt: skip
_LINES = {"div", "li", "tr", "dt", "dd", "br", "caption", "figcaption", "option", "address", "fieldset"}
_CELLS = {"td", "th"}


def _html_text(body) -> Iterator[str]:
    """The text under `body` in the order it is read, its blanks as a browser would show them."""
    gap, pre, begun = "", 0, False  # what comes before the next word; how many <pre> this is in
    for node, entering in _walk(body):
        tag = node.tag
        if tag == "pre":
            pre += 1 if entering else -1
        if tag == "-text":
            text = node.text_content or ""
            words = text if pre else " ".join(text.split())
            if entering and not words.strip():
                gap = gap or (" " if text else "")
            elif entering:
                if not gap and not pre and text[0].isspace():
                    gap = " "
                yield (gap if begun else "") + words
                begun, gap = True, " " if not pre and text[-1].isspace() else ""
        elif tag in _PARAGRAPHS:
            gap = "\n\n"
        elif tag in _LINES:
            gap = max(gap.strip(" \t"), "\n", key=len)
        elif tag in _CELLS and entering and gap in ("", " "):
            gap = "\t"


def _walk(root) -> Iterator[tuple]:
    """(node, whether it is entered or left) in the order of the page; without recursion, as pages nest."""
    node, entering = root, True
    while True:
        yield node, entering
        below = node.child if entering and node.tag not in _UNREAD else None
        if below is not None:
            node = below
            continue
        if entering:
            yield node, False
        if node.mem_id == root.mem_id:
            return
        following = node.next
        node, entering = (following, True) if following is not None else (node.parent, False)


def _pdf(request: dict) -> Iterator[dict]:
    import pypdf
    from pypdf.errors import DependencyError

    locked = Refused("it is protected by a password. Save it without one")
    try:
        reader = pypdf.PdfReader(request["path"])
        if reader.is_encrypted and not reader.decrypt(""):
            raise locked
        pages = len(reader.pages)
    except DependencyError as error:
        raise locked from error
    yield {"title": _pdf_title(reader)}
    read = unread = 0
    for number in range(pages):
        try:
            text = reader.pages[number].extract_text()
        except (MemoryError, Refused):
            raise
        except Exception:  # one page's fonts are no reason to lose the others
            unread += 1
            if unread <= 3:
                yield {"note": f"page {number + 1} could not be read"}
            continue
        if text.strip():
            read += 1
            yield from _pieces((text.strip(), "\n\n"))
    if unread and not read:
        raise Refused("none of its pages can be read. Save it anew, or as plain text")
    if unread > 3:
        yield {"note": f"{unread - 3} more pages could not be read"}


def _pdf_title(reader) -> str:
    try:
        return str(reader.metadata.title or "") if reader.metadata else ""
    except Exception:  # a damaged title is no title
        return ""


def _docx(request: dict) -> Iterator[dict]:
    import docx

    document = docx.Document(request["path"])
    yield {"title": document.core_properties.title or ""}
    yield from _pieces(_docx_text(document))


def _docx_text(container) -> Iterator[str]:
    """Paragraphs and tables in their order; a row of a table is a line, its cells parted by tabs."""
    from docx.table import Table

    for block in container.iter_inner_content():
        if isinstance(block, Table):
            for row in block.rows:
                cells = dict.fromkeys(row.cells)  # a merged cell is there once for each of its places
                yield "\t".join("".join(_docx_text(cell)).strip().replace("\n", " ") for cell in cells) + "\n"
            yield "\n"
        elif block.text.strip():
            yield block.text + "\n\n"


def _parquet(request: dict) -> Iterator[dict]:
    import pyarrow
    from pyarrow import parquet, types

    # Threads and pools take addresses, of which there are few.
    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    with parquet.ParquetFile(request["path"], pre_buffer=False, buffer_size=1 << 20) as file:
        fields = {field.name: field.type for field in file.schema_arrow}
        wanted = [name for name in dict.fromkeys((request["column"], "title", "id")) if name in fields]
        yield {"columns": list(fields)[:5], "has": wanted, "rows": []}
        if request["column"] not in fields:
            return
        fitting = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer)
        for name in wanted:
            kind = fields[name].value_type if types.is_dictionary(fields[name]) else fields[name]
            if not any(fits(kind) for fits in fitting):
                raise Refused(f'its column "{name[:40]}" holds {str(kind)[:30]}, expected strings')
        number = taken = 0
        most = max(request["output"], _MAX_RATIO * os.path.getsize(request["path"]))
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted, use_threads=False):
            columns = [batch.column(batch.schema.get_field_index(name)) for name in wanted]
            rows, characters = [], 0
            for at in range(batch.num_rows):
                number += 1
                values = [column[at].as_py() for column in columns]
                rows.append([number, *values])
                characters += 1 + sum(len(str(value)) for value in values if value is not None)
                if taken + characters > most:
                    raise Refused("its text is over 100 times as long as the file, as if made to do harm")
                if characters > _CHARACTERS_AT_ONCE:
                    yield {"rows": rows}
                    taken += characters
                    rows, characters = [], 0
            taken += characters
            limit(request["memory"], request["cpu"])  # the time is for a batch: there may be any number
            yield {"rows": rows}


def _pieces(texts) -> Iterator[dict]:
    """Answers with the texts, joined and cut into ones of a size that pipes like."""
    waiting, size = [], 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size > _CHARACTERS_AT_ONCE:
            yield {"piece": "".join(waiting)}
            waiting, size = [], 0
    if waiting:
        yield {"piece": "".join(waiting)}


PARSERS: dict[str, Callable[[dict], Iterator[dict]]] = {
    "html": _html,
    "pdf": _pdf,
    "docx": _docx,
    "parquet": _parquet,
}

if __name__ == "__main__":
    main()
