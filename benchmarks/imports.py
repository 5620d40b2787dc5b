"""What importing costs: processor seconds and memory of a new Python process, the median of 3.

    python -m benchmarks.imports [--quick]

The interpreter is in it; the line `torch` shows how much of the others is torch alone. Listed beside it:
which of the heavy packages came along, of which there should be none.
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.machine import facts, table
from benchmarks.processes import ROOT

MODULES = ("torch", "retro_core", "retro_core.model", "retro_core.generation")
HEAVY = ("lightning", "sentence_transformers", "gradio", "transformers", "faiss", "scipy", "pandas")
_CHILD = """
import importlib, json, sys, time
importlib.import_module({module!r})
used = time.process_time()
came = [name for name in {heavy!r} if name in sys.modules]
from benchmarks.memory import peak_memory_gb
print(json.dumps([used, peak_memory_gb() * 1000, came]))
"""


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    machine = facts(quick=True)
    modules = MODULES[-1:] if options.quick else MODULES
    runs: dict[str, list[list[Any]]] = {module: [] for module in modules}
    for _ in range(1 if options.quick else 3):
        for module in modules:
            runs[module].append(imported(module))
    found = {
        module: {
            "cpu_seconds": statistics.median(cpu for cpu, _, _ in taken),
            "memory_mb": statistics.median(memory for _, memory, _ in taken),
            "heavy": taken[0][2],
        }
        for module, taken in runs.items()
    }
    rows = [
        [name, entry["cpu_seconds"], entry["memory_mb"], ", ".join(entry["heavy"]) or "none"]
        for name, entry in found.items()
    ]
    print(table(("import", "CPU s", "MB", "heavy packages that came along"), rows), "\n")
    print(json.dumps({"benchmark": "imports", "machine": machine, "imports": found}))


def imported(module: str) -> list[Any]:
    """[processor seconds of the process so far, its memory in MB, heavy packages in it]."""
    code = _CHILD.format(module=module, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="one module, once: does it run?")
    return result


if __name__ == "__main__":
    main()
