"""Checkpoints of a run: what a process needs to go on, bit for bit, where another one stopped.

    model.safetensors   the weights that the run changes; a frozen base is not copied
    optimizer.pt        {"moments": {weight's name: {"step", "exp_avg", "exp_avg_sq"}}, "scaler"}: tensors and
                        numbers only, opened with weights_only
    state.json          step, tokens, place in the data, held-out loss, sha256 of the two files

Neither says how many processes there were: a run may go on with another number. Nothing about random numbers
is kept, as those of a step follow from (seed, step).
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from indexing import files
from indexing.errors import CheckpointError, TrainingError
from retro_core.devices import share_again, whole
from retro_core.retrofit import FittedRetro
from retro_core.run_folder import (
    MODEL_FILE,
    OLD_CHECKPOINT_FILE,
    OPTIMIZER_FILE,
    OTHER_CHECKPOINTS,
    STATE_FILE,
    WEIGHTS_FILE,
    SavedCheckpoint,
    checkpoint_path,
    checkpoints,
    keep,
)

KEPT = 2  # newest checkpoints, besides the best
FORMAT, VERSION = "retro-checkpoint", 1


@dataclass
class TrainingState:
    """What a checkpoint holds. weights, moments: by name; moments and scaler are empty where only the model
    was asked for. facts: state.json."""

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    scaler: dict[str, Any]
    facts: dict[str, Any]

    @property
    def step(self) -> int:
        return self.facts["step"]

    @property
    def tokens(self) -> int:
        return self.facts["tokens"]


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that a run changes, each once, by name."""
    return model.new_parameters() if isinstance(model, FittedRetro) else dict(model.named_parameters())


def collect(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, scaler: dict[str, Any]
) -> TrainingState:
    """The state of a model and its AdamW, on the processor; with several processes all of them must ask."""
    share_again(model)
    weights = {name: whole(parameter) for name, parameter in trained(model).items()}
    moments = {
        name: {key: whole(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in trained(model).items()
        if optimizer is not None and parameter in optimizer.state
    }
    return TrainingState(weights, moments, scaler, {})


def save(folder: Path, state: TrainingState) -> SavedCheckpoint:
    """Write a run's checkpoint; it is there whole or not at all, and older ones go once it is.

    Raises TrainingError if it cannot be written, a full disk above all; those before it are then untouched.
    """
    target = checkpoint_path(folder, state.step)
    try:
        with files.new_folder(target, replace=True) as work:
            save_file({name: t.contiguous() for name, t in state.weights.items()}, work / WEIGHTS_FILE)
            (work / WEIGHTS_FILE).chmod(0o644)  # the library makes it readable for its owner only
            torch.save({"moments": state.moments, "scaler": state.scaler}, work / OPTIMIZER_FILE)
            sums = {name: files.sha256(work / name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
            head = {"format": FORMAT, "version": VERSION}
            files.write_json(work / STATE_FILE, {**head, **state.facts, "files": sums})
    except (OSError, SafetensorError, RuntimeError) as error:  # torch and safetensors hide what the disk said
        before = checkpoints(folder)
        left = f"The checkpoint of step {before[-1].step} is untouched" if before else "There is none yet"
        raise TrainingError(
            f"Step {state.step} could not be saved in {target.parent} ({_first_line(error)}). {left}. Make "
            "room on the disk and start the same command again."
        ) from error
    keep(folder, KEPT)
    return SavedCheckpoint(state.step, target)


def check(saved: SavedCheckpoint) -> dict[str, Any]:
    """state.json of a checkpoint whose files are what it says. Raises CheckpointError naming what is not."""
    facts = saved.state()
    sums = facts.get("files")
    if not isinstance(sums, dict) or {*sums} != {WEIGHTS_FILE, OPTIMIZER_FILE}:
        raise CheckpointError(f"{saved.path / STATE_FILE} lacks the sums of its files. {OTHER_CHECKPOINTS}")
    for name, wanted in sums.items():
        path = saved.path / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing. {OTHER_CHECKPOINTS}")
        if files.sha256(path) != wanted:
            raise CheckpointError(
                f"{path} is damaged: its sha256 is not the one in {STATE_FILE}. {OTHER_CHECKPOINTS}"
            )
    return facts


def load(saved: SavedCheckpoint, with_optimizer: bool = True) -> TrainingState:
    """Read a checkpoint. Raises CheckpointError if a file of it is damaged or missing."""
    facts = check(saved)
    try:
        weights = load_file(saved.path / WEIGHTS_FILE)
        content = {"moments": {}, "scaler": {}}
        if with_optimizer:
            content = torch.load(saved.path / OPTIMIZER_FILE, weights_only=True, map_location="cpu")
        return TrainingState(weights, content["moments"], content["scaler"], facts)
    except Exception as error:  # what is no checkpoint ends in any of a dozen kinds
        raise CheckpointError(
            f"{saved.path} cannot be read ({_first_line(error)}). {OTHER_CHECKPOINTS}"
        ) from error


def load_old(path: Path, names: list[str]) -> TrainingState:
    """A `checkpoint.pt` of runs from before there were several. names: of the optimiser's weights, in its
    order; empty if it is not wanted. Raises CheckpointError if it is damaged."""
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        moments = {names[i]: state for i, state in content["optimizer"]["state"].items()} if names else {}
        facts = {"step": content["step"], "tokens": content["tokens"]}
        return TrainingState(content["model"], moments, {}, facts)
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged ({_first_line(error)}). Copy the run again, or start another one."
        ) from error


def put_weights(model: nn.Module, state: TrainingState, source: Path) -> None:
    """Copy a checkpoint's weights into a model. Raises CheckpointError if they are not its own."""
    expected = trained(model)
    given = dict(state.weights)
    if source.name == OLD_CHECKPOINT_FILE:  # these name a tensor as often as the model has it
        given = {name: tensor for name, tensor in given.items() if name in expected}
    strange = sorted({*given} ^ {*expected}) or [
        name for name, tensor in given.items() if tensor.shape != expected[name].shape
    ]
    if strange:
        raise CheckpointError(
            f"{source} does not belong to {MODEL_FILE} of its run: {strange[0]} differs. Copy the folder "
            "again, or start another run."
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(given[name])


def put_moments(model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Give AdamW what it knew. Its weights may be shared out among processes by now."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    order = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    content = optimizer.state_dict()
    for name, parameter in trained(model).items():
        if name not in state.moments:
            continue
        moments = dict(state.moments[name])
        if isinstance(parameter, DTensor):
            for key, value in moments.items():
                if value.shape == parameter.shape:
                    moments[key] = distribute_tensor(
                        value.to(parameter.device), parameter.device_mesh, parameter.placements
                    )
        content["state"][order[id(parameter)]] = moments
    optimizer.load_state_dict(content)


def settings_hash(settings: dict[str, Any]) -> str:
    """sha256 of settings, whatever their order."""
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
