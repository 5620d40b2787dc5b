"""Measures nothing, and writes what `evaluate` writes: a part every moment, until it is killed or through.

measure_worker.py PARTS        in a measurement's folder
"""

import json
import sys
import time
from pathlib import Path

from indexing.files import write_json
from retro_core.evaluation.result import PROGRESS_FILE, RESULT_FILE, SO_FAR_FILE


def main(parts: int) -> None:
    if parts < 0:
        print("error: This cannot be measured. Choose something else.", file=sys.stderr)
        raise SystemExit(2)
    done = len(list(Path("parts").glob("*"))) if Path("parts").is_dir() else 0
    for number in range(done, parts):
        note = {
            "part": "readings",
            "number": number + 1,
            "count": parts,
            "stage": "tokens",
            "done": 1,
            "total": 2,
        }
        write_json(Path(PROGRESS_FILE), {**note, "share": number / parts, "left": 3.0})
        time.sleep(0.2)
        write_json(Path("parts") / f"{number}.json", {})
        write_json(Path(SO_FAR_FILE), {"parts": number + 1, "begun_with": done})
    Path(SO_FAR_FILE).unlink(missing_ok=True)
    texts = [json.loads(line) for line in Path("texts.jsonl").read_text().splitlines()]
    write_json(Path(RESULT_FILE), {"parts": parts, "begun_with": done, "texts": texts})


if __name__ == "__main__":
    main(int(sys.argv[1]))
