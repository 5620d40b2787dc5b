"""Scripts of our own components: each one's files behind the few functions that all of them use."""

from pathlib import Path

_ELEMENTS = Path(__file__).with_name("elements.js")


def script(*files: Path) -> str:
    """The files one after the other, as the body of one function."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (_ELEMENTS, *files))
