"""The parts of a report, and how they become Markdown and one HTML file that needs nothing else.

All texts may come from anybody (titles, file names, answers): they are shown as they are, as text. The one
exception is a figure's `svg`, which is made by `retro_core.evaluation.figures`.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from retro_core.evaluation.figures import plain

_LONGEST_CELL = 90  # characters


@dataclass(frozen=True)
class Heading:
    """level 1 is the report's title"""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str
    strong: bool = False


@dataclass(frozen=True)
class Items:
    texts: Sequence[str]


@dataclass(frozen=True)
class Command:
    """Something to type, or that was typed."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of texts; a column whose first row begins with a digit or a sign stands on the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """name: of its file, without .svg · caption: what one sees and how to read it"""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Folded:
    """Shown when asked for: the numbers behind a picture."""

    summary: str
    parts: Sequence["Part"]


Part = Heading | Paragraph | Items | Command | Table | Picture | Folded


def pictures(parts: Iterable[Part]) -> list[Picture]:
    found: list[Picture] = []
    for part in parts:
        if isinstance(part, Picture):
            found.append(part)
        elif isinstance(part, Folded):
            found += pictures(part.parts)
    return found


def to_markdown(parts: Iterable[Part], figures: str = "figures") -> str:
    """GitHub's Markdown; pictures are the files `figures`/NAME.svg."""
    return "\n\n".join(_markdown(part, figures) for part in parts) + "\n"


def _markdown(part: Part, figures: str) -> str:
    match part:
        case Heading():
            return f"{'#' * part.level} {_words(part.text)}"
        case Paragraph():
            return f"**{_words(part.text)}**" if part.strong else _words(part.text)
        case Items():
            return "\n".join(f"- {_words(text)}" for text in part.texts)
        case Command():
            lines = "\n".join(plain(line, 10_000) for line in part.text.splitlines())
            fence = "`" * (3 + max(map(len, re.findall("`+", lines)), default=0))
            return f"{fence}\n{lines}\n{fence}"
        case Table():
            rule = ["---:" if right else "---" for right in _on_the_right(part)]
            rows = [map(_words, part.columns), rule, *([_words(_cell(c)) for c in row] for row in part.rows)]
            return "\n".join(f"| {' | '.join(row)} |" for row in rows)
        case Picture():
            return f"![{_words(part.caption)}]({figures}/{part.name}.svg)\n\n*{_words(part.caption)}*"
        case Folded():
            inner = "\n\n".join(_markdown(one, figures) for one in part.parts)
            return f"<details><summary>{_words(part.summary)}</summary>\n\n{inner}\n\n</details>"


def _words(text: str) -> str:
    """Any text so that Markdown shows it as it is: nothing in it is markup, a tag or a link."""
    shown = plain(text, 10_000)
    shown = re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", shown)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Addresses and names of people become links on some sites, without any markup.
    return re.sub(r"(?i)\b(https?|ftp|www|mailto)([:.])", "\\1\u200b\\2", shown).replace("@", "@\u200b")


def to_html(parts: Iterable[Part], title: str) -> str:
    """One file: no script, no other file, no network; light or dark as its reader's system is."""
    body, waiting = [], []
    for part in parts:
        if isinstance(part, Picture):
            waiting.append(part)  # pictures that follow each other stand beside each other
            continue
        body += _gallery(waiting)
        waiting = []
        body.append(_html(part))
    body += _gallery(waiting)
    return _PAGE.format(title=html.escape(plain(title, 200)), style=_STYLE, body="\n".join(body))


def _gallery(waiting: Sequence[Picture]) -> list[str]:
    return ["<div class='figures'>", *map(_html, waiting), "</div>"] if waiting else []


def _html(part: Part) -> str:
    match part:
        case Heading():
            return f"<h{part.level}>{_text(part.text)}</h{part.level}>"
        case Paragraph():
            return (
                f"<p class='strong'>{_text(part.text)}</p>" if part.strong else f"<p>{_text(part.text)}</p>"
            )
        case Items():
            return "<ul>" + "".join(f"<li>{_text(text)}</li>" for text in part.texts) + "</ul>"
        case Command():
            lines = [_text(line) for line in part.text.splitlines()]
            return "<pre>" + "\n".join(lines) + "</pre>"
        case Table():
            right = _on_the_right(part)
            head = "".join(
                f"<th{_class(r)}>{_text(c)}</th>" for c, r in zip(part.columns, right, strict=True)
            )
            rows = [
                "".join(f"<td{_class(r)}>{_text(_cell(c))}</td>" for c, r in zip(row, right, strict=True))
                for row in part.rows
            ]
            rows = "\n".join(f"<tr>{row}</tr>" for row in rows)
            return f"<div class='wide' tabindex='0'><table><tr>{head}</tr>\n{rows}</table></div>"
        case Picture():
            return f"<figure>{part.svg}<figcaption>{_text(part.caption)}</figcaption></figure>"
        case Folded():
            inner = "\n".join(_html(one) for one in part.parts)
            return f"<details><summary>{_text(part.summary)}</summary>{inner}</details>"


def _text(text: str) -> str:
    return html.escape(plain(text, 10_000))


def _cell(text: str) -> str:
    return plain(text, _LONGEST_CELL)


def _class(right: bool) -> str:
    return " class='right'" if right else ""


def _on_the_right(table: Table) -> list[bool]:
    """Which columns hold numbers."""
    first = table.rows[0] if table.rows else [""] * len(table.columns)
    return [bool(re.match(r"[-+\N{MINUS SIGN}]?[\d.]|–$", str(cell))) for cell in first]


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #59626d; --ground: #ffffff; --line: #d5d9de;
  --raised: #f5f6f8; --mark: #b45f0c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a3adb9; --ground: #15181c;
  --line: #3a4048; --raised: #1e2228; --mark: #f0a04b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .4em 0 .6em; }
h2 { font-size: 1.3rem; margin: 2.2em 0 .5em; padding-top: .8em; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6em 0 .4em; }
h1, h2, h3, p, li, td, th, summary, figcaption { overflow-wrap: anywhere; }
td, th { overflow-wrap: normal; }
p, ul { max-width: 70ch; }
p.strong { font-size: 1.1rem; border-left: 4px solid var(--mark); padding-left: 14px; }
pre { background: var(--raised); padding: 10px 12px; border-radius: 6px; overflow-x: auto;
  font-size: .85rem; }
.wide { overflow-x: auto; margin: .6em 0 1em; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 5px 12px 5px 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); }
.right { text-align: right; white-space: nowrap; }
.figures { display: grid; gap: 22px 28px; align-items: start; margin: 1em 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
figure { margin: 0; }
figure svg { width: 100%; height: auto; max-width: 520px; display: block; }
figcaption { color: var(--soft); font-size: .88rem; }
details { margin: .6em 0; }
summary { cursor: pointer; color: var(--soft); }
summary:focus-visible, .wide:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
"""
