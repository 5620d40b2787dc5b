"""Benchmarks run, end in one line of JSON, and divide by the right number of operations."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sizes import Workload, forward_flops, gpt2_inner, sizes, toy, weights_per_token
from retro_core.model import Retro

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name",
    [
        "training",
        "generation",
        "drafting",
        "imports",
        "trace",
        "words",
        "search",
        pytest.param("embedding", marks=pytest.mark.slow),
        pytest.param("build", marks=pytest.mark.slow),
        pytest.param("clients", marks=pytest.mark.slow),
    ],
)
def test_each_benchmark_runs_and_ends_in_json(name):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["benchmark"] == name and found["machine"]["matmul_gflops"] > 0


def added_product(_, left: torch.Size, right: torch.Size, *__, **___) -> int:
    """Operations of total += left @ right, by the operands' shapes."""
    return 2 * math.prod(left) * right[-1]


def test_operations_are_what_torch_counts():
    config = toy()
    work = replace(Workload.quick(config), rows=3, neighbours=5)
    ids = torch.randint(1, config.num_embeddings, (work.rows, work.length))
    read = torch.randint(
        1, config.num_embeddings, (work.rows, work.length // 8, work.neighbours, work.neighbour_length)
    )
    model = Retro(config)
    # Its counter knows the plain one of torch's kernels for attention, and no product in place.
    with FlopCounterMode(display=False) as forward, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(ids, read)
    parts = forward_flops(config, work)
    counted = sum(parts.values())
    assert forward.get_total_flops() == counted
    in_place = dict.fromkeys((torch.ops.aten.baddbmm_, torch.ops.aten.addmm_), added_product)
    with FlopCounterMode(display=False, custom_mapping=in_place) as step:
        model(ids, read, ids, logits_to_keep=None).loss.backward()
    # Attention's weights are made twice; what a step needs does not count that.
    again = parts["attention scores and sums"] / 2
    assert step.get_total_flops() == pytest.approx(3 * counted + again, rel=0.005)


def test_a_gpt2_of_equal_size_reads_as_many_weights():
    for config in sizes().values():
        d, layers = config.dec_hidden_dim, config.dec_num_layers
        gpt2 = layers * (4 * d * d + 2 * d * gpt2_inner(config)) + d * config.num_embeddings
        assert gpt2 == pytest.approx(weights_per_token(config), rel=1e-3)


def test_weights_per_token_are_the_decoders():
    """Counted off a model: all matrices of its decoder but those that CCA's keys and values are made with."""
    config = toy()
    model = Retro(config)
    matrices = {name: p.numel() for name, p in model.named_parameters() if name.endswith("weight")}
    read = sum(
        size for name, size in matrices.items()
        if ("decoder" in name or "lm_head" in name) and ".kv_proj" not in name and "bias" not in name
    )  # fmt: skip
    assert weights_per_token(config) == read
