"""python -m retro_core evaluate-reference: the reference's evaluate_retro.py, argument for argument."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from indexing.commands.shown import progress
from indexing.errors import InputError
from retro_core.config import TrainConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from retro_core.evaluation.reference import ReferenceLosses


def add(commands) -> None:
    command = commands.add_parser(
        "evaluate-reference",
        help="the reference implementation's own number: mean nats of a checkpoint on data sets",
        description="Evaluate a checkpoint of the reference implementation as its evaluate_retro.py does: "
        "mean nats over all tokens with a label, documents cut off at --max-len. One line for each data set. "
        "A checkpoint that does not fit the config is refused.",
    )
    command.set_defaults(execute=_evaluate)
    command.add_argument(
        "--test-dataset-spec",
        nargs="+",
        type=Path,
        required=True,
        metavar="SPEC",
        help="data.spec.json files",
    )
    command.add_argument(
        "--checkpoint", type=Path, required=True, help="Lightning checkpoint, state_dict or safetensors"
    )
    command.add_argument("--retro-config", type=Path, required=True, metavar="JSON", help="its RetroConfig")
    command.add_argument("--batch-size", type=int, required=True, metavar="INT", help="documents at a time")
    command.add_argument(
        "--num-neighbours", type=int, metavar="INT", help="of each chunk, nearest first (all that are stored)"
    )
    command.add_argument(
        "--num-continuation-chunks",
        type=int,
        default=1,
        metavar="INT",
        help="chunks after a neighbour that are read with it (1)",
    )
    command.add_argument(
        "--max-len", type=int, metavar="INT", help="tokens of a document that are read (all of them)"
    )
    command.add_argument("--gpus-per-node", type=int, metavar="INT", help="none computes on the CPU")
    command.add_argument("--num-nodes", type=int, metavar="INT", help="computers that take part (1)")
    command.add_argument(
        "--num-workers", type=int, default=4, metavar="INT", help="processes that read ahead (4)"
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    from indexing.pipeline.examples import Examples
    from retro_core.checkpoint import load_reference
    from retro_core.evaluation.reference import ReferenceLosses, reference_losses

    for name in ("num_neighbours", "gpus_per_node", "num_nodes"):
        given = getattr(arguments, name)
        if given is not None and given < 1:
            raise InputError(
                f"Expected --{name.replace('_', '-')} of 1 or more. Leave it out for the default."
            )
    model = load_reference(arguments.checkpoint, arguments.retro_config)
    read = (arguments.num_neighbours, arguments.num_continuation_chunks, arguments.max_len)
    pad = model.config.pad_token_idx
    sets = [(spec, Examples(spec, pad, *read)) for spec in arguments.test_dataset_spec]
    fabric = _fabric(arguments)
    part = (0, 1)
    if fabric is not None:
        model, part = model.to(fabric.device), (fabric.global_rank, fabric.world_size)
    for spec, examples in sets:
        found = ReferenceLosses(0, 0, 0.0, 0)
        for found in reference_losses(model, examples, arguments.batch_size, arguments.num_workers, part):
            if not part[0]:
                progress(f"{spec}: documents", found.done, found.total)
        if fabric is not None and part[1] > 1:
            done, total, nats, tokens = _summed(fabric, found)
            found = ReferenceLosses(int(done), int(total), nats, int(tokens))
        if not part[0]:
            print(f"{spec}: test_loss {found.mean:.5f}, {found.tokens:,} tokens, {found.done:,} documents")


def _fabric(arguments: argparse.Namespace) -> "Fabric | None":
    """None where nothing is said of devices: this processor."""
    if arguments.gpus_per_node is None and arguments.num_nodes is None:
        return None
    from retro_core.devices import check_devices, open_fabric

    config = TrainConfig(
        device="cpu" if arguments.gpus_per_node is None else "auto",
        gpus_per_node=arguments.gpus_per_node or 0,
        num_nodes=arguments.num_nodes or 1,
    )
    check_devices(config)
    return open_fabric(config)


def _summed(fabric: "Fabric", found: "ReferenceLosses") -> list[float]:
    """done, total, nats and tokens of all processes together"""
    import torch

    mine = torch.tensor([found.done, found.total, found.nats, found.tokens], dtype=torch.float64)
    return fabric.all_reduce(mine.to(fabric.device), reduce_op="sum").tolist()
