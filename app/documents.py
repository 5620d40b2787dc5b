"""What the page takes out of docs/, where it is written once: the glossary, and snippets that a test runs."""

import re

from indexing import paths

_DOCS = paths.ASSETS.parent / "docs"
# Headings of docs/api.md; of each, what stands first in a frame.
_SHOWN = (
    "On the command line",
    "In Python",
    "In a notebook",
    "Over HTTP",
    "Without a client",
    "As tools of an agent",
)


def glossary() -> list[list[str]]:
    """[word, meaning, what it is not called] of each line of the table in docs/glossary.md."""
    lines = (_DOCS / "glossary.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip().strip("|").split("|") for line in lines if line.startswith("|")]
    return [[re.sub("[`*]", "", cell).strip() for cell in row] for row in rows[2:]]


def snippets() -> list[dict[str, str]]:
    """{"title", "language", "code"} of each of docs/api.md's ways."""
    page = (_DOCS / "api.md").read_text(encoding="utf-8")
    found = []
    for title in _SHOWN:
        frame = re.search(rf"^#+ {re.escape(title)}\n.*?^```(\w+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        found.append({"title": title, "language": frame[1], "code": frame[2].rstrip("\n")})
    return found
