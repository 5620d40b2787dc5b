"""The most memory that a process has held."""

import sys
from pathlib import Path


def peak_memory_gb() -> float:
    """Of this process, so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # of this program alone; getrusage also counts what the parent held when it forked
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
