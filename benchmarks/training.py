"""One step of training, ours beside the reference and lucidrains' retro-pytorch, steps taking turns.

    python -m benchmarks.training [--quick] [--reference DIR] [--peer-python PATH]

DIR is a checkout of https://github.com/TobiasNorlund/retro; its code runs in this Python. PATH is a Python in
an environment of its own, since what retro-pytorch asks for does not fit beside ours:

    python -m venv ../peer
    ../peer/bin/pip install "torch==OURS" numpy einops
    ../peer/bin/pip install --no-deps retro-pytorch==0.3.9

(--no-deps: it lists index builders and a tokenizer, of which the network needs none; they are stubbed.)

A step is forward, backward, clipping of the gradient and AdamW on 4 windows of 512 tokens with 2 neighbours
of 128 tokens per chunk: fused AdamW for ours, the default one for the others, as their own code has it.
Widths and depths are equal, and so is the number of weights in a feed-forward; retro-pytorch keeps its own
untied output layer. Random tokens; nobody has padding. All in float32. Each competitor is a process that
stays alive; each round lets every one of them make one step. Peak memory is that of the whole process.
"""

import argparse
import json
import statistics
import sys
from typing import Any

from benchmarks.machine import opened, table
from benchmarks.processes import started
from benchmarks.sizes import Workload, forward_flops, sizes

BACKWARD = 2  # each product of the forward pass has two in the backward pass


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    machine = opened(options.threads, options.quick)
    pythons = {"ours": sys.executable}
    if options.reference:
        pythons["reference"] = sys.executable
    if options.peer_python:
        pythons["lucidrains"] = options.peer_python
    results = {}
    for size, config in sizes(options.quick, options.dropout).items():
        if options.size and size not in options.size:
            continue
        work = Workload.quick(config) if options.quick else Workload(rows=options.rows)
        flops = forward_flops(config, work)
        with started(
            pythons, config, work, "training", threads=options.threads, reference=options.reference
        ) as running:
            taken = {competitor.name: [] for competitor in running}
            for competitor in running:
                competitor.ask({"do": "step"})  # the first step allocates; it does not count
            for turn in range(1 if options.quick else options.rounds):
                for competitor in running[turn % len(running) :] + running[: turn % len(running)]:
                    taken[competitor.name].append(competitor.ask({"do": "step"}))
            operations = running[0].ask({"do": "profile"}) if options.profile else None
            results[size] = {
                "forward_gflop": {part: count / 1e9 for part, count in flops.items()},
                "competitors": {
                    c.name: summary(taken[c.name], c.parameters, work, flops, machine) for c in running
                },
            }
        compare(results[size]["competitors"])
        print(report(size, results[size]))
        if operations:
            print(profile_table(operations))
    print(
        json.dumps(
            {"benchmark": "training", "machine": machine, "dropout": options.dropout, "sizes": results}
        )
    )


def summary(
    steps: list[dict[str, Any]],
    parameters: int,
    work: Workload,
    flops: dict[str, int],
    machine: dict[str, Any],
) -> dict[str, Any]:
    seconds = statistics.median(step["seconds"] for step in steps)
    rate = (1 + BACKWARD) * sum(flops.values()) / seconds / 1e9
    return {
        "parameters": parameters,
        "steps": [round(step["seconds"], 4) for step in steps],
        "seconds": seconds,
        "cpu_seconds": statistics.median(step["cpu_seconds"] for step in steps),
        "tokens_per_s": work.rows * work.length / seconds,
        "gflops": rate,
        "matmul_share": rate / machine["matmul_gflops"],
        "peak_memory_gb": max(step["peak_memory_gb"] for step in steps),
    }


def compare(competitors: dict[str, dict[str, Any]]) -> None:
    """Note beside each other one how many times as fast ours is, and the share of its memory that ours takes:
    the median over rounds of what the two took in the same round."""
    ours = competitors["ours"]
    for name, other in competitors.items():
        if name != "ours":
            pairs = zip(other["steps"], ours["steps"], strict=True)
            other["ours_is_faster"] = statistics.median(theirs / mine for theirs, mine in pairs)
            other["ours_takes_memory"] = ours["peak_memory_gb"] / other["peak_memory_gb"]


def report(size: str, result: dict[str, Any]) -> str:
    rows = []
    for name, found in result["competitors"].items():
        rows.append([
            f"{size} {name}", found["parameters"] / 1e6, found["seconds"], found["cpu_seconds"],
            found["tokens_per_s"], found.get("ours_is_faster"), found["gflops"], found["matmul_share"],
            found["peak_memory_gb"], found.get("ours_takes_memory"),
        ])  # fmt: skip
    header = (
        "size", "M params", "s/step", "CPU s", "tokens/s", "ours faster x", "GF/s", "of matmul", "peak GB",
        "ours/its GB",
    )  # fmt: skip
    total = sum(result["forward_gflop"].values())
    shares = ", ".join(f"{part} {flop / total:.0%}" for part, flop in result["forward_gflop"].items())
    return f"{table(header, rows)}\n{(1 + BACKWARD) * total:,.3g} GFLOP/step: {shares}\n"


def profile_table(found: dict[str, Any]) -> str:
    rows = [[name, seconds, seconds / found["total"], count] for name, seconds, count in found["operations"]]
    return table(("operation of ours", "CPU s", "share", "calls"), rows) + "\n"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="a toy size, one round: does it run?")
    result.add_argument("--reference", default="", metavar="DIR", help="a checkout of TobiasNorlund/retro")
    result.add_argument("--peer-python", default="", metavar="PATH", help="a Python that has retro-pytorch")
    result.add_argument("--size", action="append", choices=("a", "b"), help="only this one")
    result.add_argument("--rounds", type=int, default=5, help="steps of each competitor (default 5)")
    result.add_argument("--rows", type=int, default=Workload.rows, help="windows in a step (default 4)")
    result.add_argument("--dropout", type=float, default=0.0, help="of everyone (default 0)")
    result.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    result.add_argument("--profile", action="store_true", help="also which operations of ours cost what")
    return result


if __name__ == "__main__":
    main()
