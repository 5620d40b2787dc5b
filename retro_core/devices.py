"""Where a run is computed: one device or many, in which precision, and which rows of a batch each one takes.

Several processes are started by `torchrun --nproc-per-node N -m -- retro_core train …`, or by Lightning
itself where `gpus_per_node` asks for more than one.

A batch of step t is the same whatever the number of processes: process r of w takes its rows r, r + w, ….
Losses and gradients are sums over all its tokens divided by their number, so that they too are the same but
for the order in which numbers are added.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from indexing.errors import ConfigError
from retro_core.config import TrainConfig
from retro_core.dataset import Batch
from retro_core.functions import IGNORED_LABEL
from retro_core.model import Retro
from retro_core.retrofit import FittedRetro, decoder_layers

if TYPE_CHECKING:
    from lightning.fabric import Fabric

_AUTOCAST = {"bf16": "bf16-mixed", "fp16": "16-mixed"}


def check_devices(config: TrainConfig) -> None:
    """Raise ConfigError for devices that are not here or settings that do not go together. Quick: before
    Lightning is imported."""
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if config.device != "auto" and not here[config.device]:
        raise ConfigError(
            f"The device {config.device!r} is not here. Use 'auto', which takes what there is, or install a "
            "PyTorch that supports it."
        )
    if config.strategy == "fsdp" and config.precision == "fp16":
        raise ConfigError(
            "fsdp does not go with fp16, whose losses are scaled for all weights together. Use bf16 or 32."
        )
    if config.gpus_per_node > 1 and device_kind(config) == "cuda":
        count = torch.cuda.device_count()
        if config.gpus_per_node > count:
            raise ConfigError(
                f"gpus_per_node is {config.gpus_per_node}, but here are {count}. Ask for fewer."
            )


def device_kind(config: TrainConfig) -> str:
    """cuda, mps or cpu"""
    if config.device != "auto":
        return config.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def open_fabric(config: TrainConfig) -> "Fabric":
    """Lightning Fabric for these settings, launched: with several processes each comes out of here.

    Raises ConfigError if torchrun started another number of processes than the settings ask for.
    """
    from lightning.fabric import Fabric  # 4 to 8 s of import, needed by training only
    from lightning.fabric.plugins.environments import TorchElasticEnvironment
    from lightning.fabric.plugins.precision import MixedPrecision

    kind = device_kind(config)
    each = config.gpus_per_node or 1
    if TorchElasticEnvironment.detect():
        started = TorchElasticEnvironment().world_size()
        each = config.gpus_per_node or max(1, started // config.num_nodes)
        if each * config.num_nodes != started:
            raise ConfigError(
                f"torchrun started {started} processes, but gpus_per_node {each} times num_nodes "
                f"{config.num_nodes} are {each * config.num_nodes}. Make them equal."
            )
    plugins: list[Any] = []
    if config.precision != "32":
        # Given by hand, as Lightning would silently take bf16 for fp16 on a processor.
        scaler = torch.amp.GradScaler(device=kind) if config.precision == "fp16" else None
        plugins.append(MixedPrecision(_AUTOCAST[config.precision], device=kind, scaler=scaler))
    fabric = Fabric(
        accelerator=kind,
        devices=each,
        num_nodes=config.num_nodes,
        strategy=_strategy(config, each * config.num_nodes),
        plugins=plugins,
    )
    fabric.launch()
    return fabric


def _strategy(config: TrainConfig, processes: int) -> Any:
    if processes == 1:
        return "auto"
    if config.strategy == "ddp":
        return "ddp"
    from lightning.fabric.strategies import ModelParallelStrategy

    return ModelParallelStrategy(_share_out, data_parallel_size=processes, tensor_parallel_size=1)


def _share_out(model: nn.Module, mesh: Any) -> nn.Module:
    """Let each process keep a share of every weight. What a unit needs is brought together while it runs;
    embeddings, norms and CCA, which is called by more than its `forward`, are one unit, the model."""
    from torch.distributed.fsdp import fully_shard

    for unit in _units(model):
        fully_shard(unit, mesh=mesh["data_parallel"])
    return fully_shard(model, mesh=mesh["data_parallel"])


def _units(model: nn.Module) -> list[nn.Module]:
    if isinstance(model, Retro):
        layers = [layer[part] for layer in model.base.decoder for part in ("0", "2")]
        if hasattr(model.base, "encoder"):
            layers += [part for layer in model.base.encoder.layers for part in layer.values()]
        return layers
    assert isinstance(model, FittedRetro)
    encoder = model.encoder
    own = decoder_layers(encoder.body) if hasattr(encoder, "body") else []
    return decoder_layers(model.lm) + (own or [part for layer in encoder.layers for part in layer.values()])


def own_rows(batch: Batch, rank: int, processes: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """(input_ids, labels, neighbour_ids, tokens that count) of the rows that process `rank` takes.

    One that would have nothing to count gets a row of another, of which 0 tokens count: its part in the
    gradients is nothing, but it takes part in exchanging them.
    """
    rows = torch.arange(len(batch.labels))[rank::processes]
    counted = int((batch.labels[rows] != IGNORED_LABEL).sum())
    if not counted:
        rows = (batch.labels != IGNORED_LABEL).sum(dim=1).argmax()[None]
    return batch.input_ids[rows], batch.labels[rows], batch.neighbour_ids[rows], counted


def share_again(model: nn.Module) -> None:
    """With fsdp: put away the whole weights that a forward pass without a backward one, an evaluation, left
    in the place of the shares, which are what the optimiser knows."""
    for module in model.modules():
        reshard = getattr(module, "reshard", None)
        if reshard is not None:
            reshard()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on the processor, also where each process has only a share; all of them must ask."""
    full = getattr(tensor, "full_tensor", None)  # of a DTensor
    return (full() if full else tensor).detach().cpu()
