"""What the machine can do at most, measured in the same run as what is compared with it."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

MATMUL_WIDTH = 2048
READ_BYTES = 1 << 30  # more than the caches of most processors hold


def facts(quick: bool = False) -> dict[str, Any]:
    """Processor, versions, and two ceilings with the threads that torch uses now: `matmul_gflops` of a
    float32 product of square matrices, and `read_gb_per_s` from memory."""
    width, size = (256, 1 << 24) if quick else (MATMUL_WIDTH, READ_BYTES)
    left, right = torch.randn(width, width), torch.randn(width, width)
    numbers = torch.ones(size // 4)
    product = median_seconds(lambda: left @ right, 3 if quick else 15)
    reading = median_seconds(numbers.sum, 3 if quick else 7)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "matmul_gflops": round(2 * width**3 / product / 1e9, 1),
        "read_gb_per_s": round(size / reading / 1e9, 1),
    }


def opened(threads: int, quick: bool) -> dict[str, Any]:
    """How a benchmark begins: `facts` with so many threads (0 for torch's own choice), printed."""
    if threads:
        torch.set_num_threads(threads)
    found = facts(quick)
    print(", ".join(f"{name} {value}" for name, value in found.items()), "\n")
    return found


def median_seconds(action: Callable[[], Any], times: int) -> float:
    """Wall time of one call, after one that does not count."""
    action()
    taken = []
    for _ in range(times):
        since = time.perf_counter()
        action()
        taken.append(time.perf_counter() - since)
    return statistics.median(taken)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns aligned: the first to the left, the others to the right. Floats get three digits that count."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for first, *others in cells:
        padded = [first.ljust(widths[0])]
        padded += [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(padded))
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
