"""What a datastore is made of: texts that were pasted, uploaded or ship with the program, and how they look
when they are cut into chunks."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from app import services, settings, text
from app.errors import shows_errors
from app.policy import FREE, Rule
from indexing import paths
from indexing.chunking import CHUNK_SIZE
from indexing.chunks import tokenize
from indexing.corpus import SUFFIXES, TABLE_SUFFIXES, Document, Report, read_files, read_text
from indexing.datastore import Datastore
from indexing.errors import CorpusError, InputError
from retro_core.config import GenerationConfig, bounds

USUAL_COLUMN = "text"  # of a table, with the texts


def documents_of(
    pasted: str | None,
    files: list[str] | None,
    samples: list[str] | None,
    report: Report,
    rule: Rule = FREE,
    there: int = 0,
    column: str | None = None,
) -> Iterator[Document]:
    """What was pasted, uploaded, and taken of what is bundled.

    rule    how much of it a visitor may bring · there: characters that are there already
    column  of tables, the one with the text, if it has another name than usual

    Raises CorpusError if there is none of it, or too much; InputError for files that strangers may not bring.
    """
    if not (pasted and pasted.strip()) and not files and not samples:
        raise CorpusError("There is no text yet. Paste some, choose files, or take some of the Factbook.")
    expect_files(files or (), rule)
    most, total = (
        min(settings.MAX_CORPUS_CHARACTERS, rule.characters or settings.MAX_CORPUS_CHARACTERS),
        there,
    )
    names = [Path(file).name for file in files or ()]
    sources: list[Iterable[Document]] = [
        [read_text(pasted, title=_title(pasted))] if pasted and pasted.strip() else [],
        read_files(files, names=names, column=_column(column), together=True, report=report) if files else [],
        (document for country in samples or () for document in _sample(country)),
    ]
    for source in sources:
        for document in source:
            total += document.characters
            if total > most:
                raise CorpusError(
                    f"The corpus has more than {most:,} characters, the most that is indexed here. Leave "
                    "some out, or use the command line: "
                    "python -m indexing build NAME FILE…"
                )
            yield document


def column_box(name: str) -> gr.Textbox:
    """For the column that holds a table's text; shown by `ask_column` where there is a table."""
    return gr.Textbox(
        label="In tables, the column with the text",
        placeholder=USUAL_COLUMN,
        max_lines=1,
        visible=False,
        elem_id=name,
    )


@shows_errors
def ask_column(files: list[str] | None) -> gr.Textbox:
    """The box, if a table, or an archive that may hold one, was chosen."""
    return gr.Textbox(
        visible=any(Path(file).suffix.lower() in (*TABLE_SUFFIXES, ".zip") for file in files or ())
    )


def _column(typed: str | None) -> str:
    return (typed or "").strip() or USUAL_COLUMN


def expect_files(files: Sequence[str], rule: Rule) -> None:
    """Raises InputError for more or larger files than `rule` allows; where there is a limit, for archives."""
    if rule.files and len(files) > rule.files:
        raise InputError(
            f"Up to {rule.files} files are taken here at a time, got {len(files)}. Leave some out."
        )
    for file in files if rule.characters else ():
        if Path(file).suffix.lower() == ".zip":
            raise InputError(f"{Path(file).name} is an archive; here the files in it are taken one by one.")
    total = sum(Path(file).stat().st_size for file in files) if rule.characters else 0
    if total > rule.characters:
        raise InputError(
            f"The files have {total / 1e6:,.1f} MB together; up to {rule.characters / 1e6:,.0f} MB are taken "
            "here. Leave some out."
        )


@lru_cache(maxsize=8)
def _sample(country: str) -> tuple[Document, ...]:
    """A country's pages of the bundled Factbook."""
    if country not in text.SAMPLES:
        raise InputError(f"There is no {country!r} among the samples. Choose some of the list.")
    bundled = Datastore.open(paths.ASSETS / "datastores" / paths.DEMO_DATASTORE)
    numbers = [n for n, label in enumerate(bundled.labels()) if label.title.startswith(f"{country} — ")]
    return tuple(bundled.documents[n] for n in numbers)


def _title(pasted: str) -> str:
    """The text's first words."""
    return textwrap.shorten(next(line for line in pasted.splitlines() if line.strip()), 48, placeholder="…")


def suggestion(title: str) -> str:
    """A valid name made of the title's first words: 'Notes on Ferns.md' -> 'notes-on-ferns'."""
    stem = title.rsplit(".", 1)[0] if title.endswith(SUFFIXES) else title
    name = paths.slug("-".join([word for word in stem.split() if any(map(str.isalnum, word))][:3]))
    return name.strip("-._") or "my-notes"


def preview(documents: list[Document]) -> dict[str, Any]:
    """{"summary", "chunks", "lengths": [[label, documents]],
    "documents": [{"title", "note", "chunks": [{"text", "tokens", "number"}]}], "rest"}.

    `preview_texts` adds "notes": sentences on what was left out of the files or repeats.
    The first chunks are cut exactly as indexing cuts them; the number of those that follow is estimated.
    """
    tokenizer = services.tokenizer()
    shown, number, tokens, characters = [], 0, 0, 0
    for document in documents:
        if number >= settings.PREVIEW_CHUNKS:
            break
        # Of a long document, only as much as can be drawn; 8 characters a token is more than any text has.
        room = (settings.PREVIEW_CHUNKS - number) * CHUNK_SIZE * 8
        begin = next(document.pieces(), "")[:room]
        ids, starts = tokenize(tokenizer, begin)
        whole = len(begin) == document.characters
        cuts = [*starts[::CHUNK_SIZE].tolist(), len(begin)]
        chunks = []
        for i in range(len(cuts) - 1):
            if number >= settings.PREVIEW_CHUNKS:
                break
            number += 1
            length = min(CHUNK_SIZE, len(ids) - i * CHUNK_SIZE)
            chunks.append({"text": begin[cuts[i] : cuts[i + 1]], "tokens": length, "number": number})
        tokens += len(ids)
        characters += len(begin)
        note = (
            f"{len(ids):,} tokens · {len(cuts) - 1:,} chunk{'' if len(cuts) == 2 else 's'}"
            if whole
            else f"{document.characters:,} characters"
        )
        shown.append({"title": document.title, "note": note, "chunks": chunks})
    total = sum(document.characters for document in documents)
    exact = characters == total and number < settings.PREVIEW_CHUNKS
    per_token = max(1, characters) / max(1, tokens)
    count = number if exact else round(total / max(1, characters) * max(number, tokens / CHUNK_SIZE))
    token_count = f"{tokens:,}" if characters == total else f"about {round(total / per_token):,}"
    documents_word = "document" if len(documents) == 1 else "documents"
    summary = (
        f"{len(documents):,} {documents_word} · {token_count} tokens · {'' if exact else 'about '}{count:,} "
        f"chunk{'' if count == 1 else 's'} of {CHUNK_SIZE} tokens"
    )
    if exact:
        wanted = bounds(GenerationConfig, "num_neighbours")[2]
        if number <= wanted:
            summary += f". Fewer than {wanted + 1} chunks: there is hardly anything to choose from"
    rest = "" if exact else f"The first {number} chunks are drawn; the others are cut the same way."
    return {
        "summary": summary,
        "chunks": count,
        "lengths": lengths([document.characters for document in documents], per_token),
        "documents": shown,
        "rest": rest,
    }


def lengths(characters: list[int], per_token: float) -> list[list[Any]]:
    """[label, documents] by how many chunks documents fill, about: 1, 2, 3–4, 5–8 …; nothing for one."""
    if len(characters) < 2:
        return []
    bins: list[int] = []
    for length in characters:
        chunks = max(1, -(-int(length / per_token + 1) // CHUNK_SIZE))
        place = (chunks - 1).bit_length()
        bins += [0] * (place + 1 - len(bins))
        bins[place] += 1
    labels = [
        "1 chunk", "2 chunks", *(f"{2 ** (i - 1) + 1:,}–{2**i:,} chunks" for i in range(2, len(bins)))
    ]  # fmt: skip
    shortest = next(place for place, count in enumerate(bins) if count)
    return [[label, count] for label, count in zip(labels, bins, strict=False)][shortest:]
