"""Record the comparisons that Compare shows before any model is loaded.

    python -m assets.traces.make_comparisons

Runs the bundled model on the page's first examples, as the page does, and writes side-by-side.comparison.json
and same-text.comparison.json beside this file. Run it again whenever the model, a datastore or what the page
draws of them changes.
"""

import json
import sys
from pathlib import Path
from typing import Any

from app import settings, text
from indexing import paths
from indexing.files import write_bytes

HERE = Path(__file__).resolve().parent


def main() -> int:
    settings.prepare_environment()  # before gradio is imported
    from app.tabs import compare

    first, second = text.EDITIONS
    example = text.SAME_TEXTS[0]
    written = compare.run(
        text.SWAPS[0][1], paths.DEMO_MODEL, first, second, compare.OFF, "dense", "dense", "dense",
        compare.WRITTEN_AT_FIRST, 2, 0.0, 0,
    )  # fmt: skip
    read = compare.read(
        example.beginning, example.text, paths.DEMO_MODEL, compare.NONE, example.datastore, example.other,
        compare.READ_AT_FIRST, example.edit, 2,
    )  # fmt: skip
    value = _last(written, "side-by-side")
    print("".join(words for words, _ in value["headline"]), value["verdict"], file=sys.stderr)
    value = _last(read, "same-text")
    for one in value["settings"]:
        print(f"{one['name']}: {one['bpb']:.2f} bits per byte", file=sys.stderr)
    return 0


def _last(views: Any, name: str) -> dict[str, Any]:
    """Write the view that a run ends with. An id of its own would make another file of the same run."""
    value = [view for view, _ in views if isinstance(view, dict) and view.get("id")][-1]
    value |= {"id": f"recorded-{name}", "title": "Recorded example"}
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    write_bytes(HERE / f"{name}.comparison.json", data.encode())
    return value


if __name__ == "__main__":
    raise SystemExit(main())
