"""What a result is called and where it lies; see docs/formats.md. Without torch, for those who only read."""

import json
from pathlib import Path
from typing import Any

from indexing.errors import InputError

# Whoever changes what a part holds or how it is computed raises the version: kept parts are then made anew.
FORMAT, VERSION = "retro-evaluation", 1
RESULT_FILE = "evaluation.json"
PROGRESS_FILE, SO_FAR_FILE = "progress.json", "so-far.json"
PARTS_DIR = "parts"
HTML_FILE = "report.html"


def load_result(path: Path) -> dict[str, Any]:
    """A result, from its folder or its file. Raises InputError if there is none, or it is of another kind."""
    path = Path(path)
    file = path / RESULT_FILE if path.is_dir() else path
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"There is no result to read in {file}: {error}. Make one with `python -m retro_core evaluate "
            "… --out DIR`."
        ) from error
    if not isinstance(result, dict) or result.get("format") != FORMAT or result.get("version") != VERSION:
        raise InputError(
            f"Expected {file} to be a {FORMAT} of version {VERSION}. Evaluate again to make one."
        )
    return result
