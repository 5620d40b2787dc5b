"""A measurement as files to keep: made when they are asked for, kept by the browser and not by the server."""

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from indexing.errors import InputError
from retro_core.evaluation.layout import Folded, Part, Picture, to_html, to_markdown
from retro_core.evaluation.report import report
from retro_core.evaluation.tables import to_zip

# The page saves what a handler returns.
SAVE_JS = """
(saved) => {
  if (!saved) return;
  const bytes = Uint8Array.from(atob(saved.base64), (c) => c.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: saved.type }));
  link.download = saved.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
"""
_TITLE = "Does retrieval help {}?"


def _json(result: Mapping[str, Any]) -> bytes:
    return (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _markdown(result: Mapping[str, Any]) -> bytes:
    """Without pictures, which would be files of their own."""

    def told(parts: list[Part]) -> list[Part]:
        kept = []
        for part in parts:
            if isinstance(part, Folded):
                part = Folded(part.summary, told(list(part.parts)))
            if not isinstance(part, Picture):
                kept.append(part)
        return kept

    return to_markdown(told(report(result))).encode("utf-8", "replace")


def _html(result: Mapping[str, Any]) -> bytes:
    name = (result.get("model") or {}).get("name") or "this model"
    return to_html(report(result), _TITLE.format(name)).encode("utf-8", "replace")


# Kind -> (label, end of the file's name, its type, how it is made).
KINDS: dict[str, tuple[str, str, str, Callable[[Mapping[str, Any]], bytes]]] = {
    "html": ("Report (HTML)", "report.html", "text/html", _html),
    "markdown": ("Markdown", "report.md", "text/markdown", _markdown),
    "csv": ("Tables (CSV, zipped)", "tables.zip", "application/zip", to_zip),
    "json": ("JSON", "evaluation.json", "application/json", _json),
}


def exported(kind: str, name: str, result: Mapping[str, Any], drawn: Path | None = None) -> dict[str, str]:
    """{"name", "type", "base64"} of a file. drawn: the HTML report if it was drawn already, which takes
    seconds. Raises InputError for a kind that there is not."""
    if kind not in KINDS:
        raise InputError(f"Expected one of {', '.join(KINDS)}, got {kind!r}.")
    _, ending, media, make = KINDS[kind]
    there = kind == "html" and drawn is not None and drawn.is_file()
    content = drawn.read_bytes() if there else make(result)
    return {"name": f"{name}-{ending}", "type": media, "base64": base64.b64encode(content).decode("ascii")}
