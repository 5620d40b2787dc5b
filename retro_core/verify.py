"""Does our model compute what the reference implementation computed? Recompute its fixtures and compare.

A fixture folder holds a reference model (config.json and weights) and numbers that the reference made with
it. Any of these files may be absent, and sizes are free:

    config.json, model.safetensors    or a Lightning checkpoint, or a state_dict
    CASE.in.safetensors               input_ids (b, n), neighbour_ids (b, l, k, r), labels (b, n), masks
    CASE.out.safetensors              logits, loss_mean, loss_none, final_hidden, hidden.I, neighbour_hidden.I
    grads.CASE.safetensors            gradients of the mean loss
    afterNsteps.safetensors           weights after N steps of AdamW on the case that meta.json names
    meta.json                         losses and gradient norms of these steps, hash of the weights
    other .ckpt and .pt files         the same weights again
    generation.safetensors and .json  NAME.prompt, and greedy continuations with `StubRetriever`
    buckets.safetensors               relative positions and their buckets

Tensors that are none of these are reported as not checked.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from indexing.chunking import num_chunks
from indexing.errors import CheckpointError, InputError
from indexing.neighbours import Neighbours
from retro_core import checkpoint
from retro_core.config import GenerationConfig, RetroConfig, read_object
from retro_core.generation import penalised
from retro_core.model import Capture, Retro, linear_buckets, log_linear_buckets, lowest_of_range

ABSOLUTE, RELATIVE = 2e-5, 1e-4  # tolerance: ABSOLUTE + RELATIVE * |expected|, for each number
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-4, 0.1, 1.0  # how the reference trains

_WEIGHT_SUFFIXES = (".ckpt", ".pt", ".bin")
_MODEL = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_NEEDS_MODEL = re.compile(
    r".+\.(ckpt|pt|bin)|(.+\.in|.+\.out|grads\..+|after\d+steps|generation)\.safetensors"
)
_INPUTS = ("input_ids", "neighbour_ids", "labels", "input_attention_mask", "neighbour_attention_mask")
# Hugging Face's settings that change a greedy continuation, under the same names as ours …
_RULES = ("min_length", "no_repeat_ngram_size", "repetition_penalty")
# … and those that, at any other value, change it in a way we do not recompute.
_NEUTRAL = {"do_sample": False, "num_beams": 1, "num_beam_groups": 1, "encoder_no_repeat_ngram_size": 0}


@dataclass(frozen=True)
class Deviation:
    """How far one tensor of ours is from the reference's.

    largest  the largest absolute difference, None if the tensor was not checked
    allowed  the tolerance for the number where it occurs, None if not checked
    ok       every number is within its tolerance; True for what was not checked
    note     what else there is to say, for example why it was not checked
    """

    case: str
    tensor: str
    largest: float | None
    allowed: float | None
    ok: bool
    note: str = ""

    @property
    def checked(self) -> bool:
        return self.largest is not None


def verify_reference(folder: Path | str) -> Iterator[Deviation]:
    """Recompute everything in a fixture folder; yields one Deviation per tensor.

    Raises InputError if the folder is missing or has nothing to check, CheckpointError or ConfigError if
    its model cannot be loaded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. Give the folder that holds the reference's numbers.")
    fixture = _Fixture(folder)
    checked = False
    for deviation in _sections(fixture):
        checked = checked or deviation.checked
        yield deviation
    if not checked:
        raise InputError(
            f"{folder} has nothing to check: expected files such as CASE.in.safetensors and "
            f"CASE.out.safetensors, grads.CASE.safetensors or buckets.safetensors.{_hint(folder)}"
        )


def _sections(fixture: "_Fixture") -> Iterator[Deviation]:
    yield from _buckets(fixture)
    if fixture.needs_model:
        fixture.load()
        yield from _cases(fixture)
        yield from _gradients(fixture)
        yield from _training(fixture)
        yield from _generation(fixture)
        yield from _other_weights(fixture)
    yield from _unknown(fixture)


class StubRetriever:
    """The retriever of the reference fixtures: neighbours are a sum over the chunk, no search at all.

    With h = sum over t of chunk[t] * (t + 1), token p of neighbour j is (7h + 13j + 3p) mod (V - 1) + 1.
    """

    def __init__(self, vocabulary: int, length: int):
        self.vocabulary, self.length = vocabulary, length

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        """chunks (..., m) -> tokens (..., k, r)"""
        total = (chunks * np.arange(1, chunks.shape[-1] + 1)).sum(axis=-1)[..., None, None]
        rank = np.arange(num_neighbours)[:, None]
        place = np.arange(self.length)[None, :]
        tokens = (7 * total + 13 * rank + 3 * place) % (self.vocabulary - 1) + 1
        ids = np.broadcast_to(np.arange(num_neighbours), tokens.shape[:-1])
        return Neighbours(ids=ids, distances=np.zeros(ids.shape, dtype=np.float32), tokens=tokens)


# ------------------------------------------------------------------------------------ the folder


@dataclass
class _Fixture:
    """What lies in the folder; config and weights only after `load`."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    config: RetroConfig | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = {
            path.name: path
            for path in sorted(self.folder.iterdir())
            if path.suffix in (".safetensors", *_WEIGHT_SUFFIXES)
        }
        if (self.folder / "meta.json").is_file():
            self.meta = read_object(self.folder / "meta.json")

    @property
    def cases(self) -> list[str]:
        ends = ".in.safetensors", ".out.safetensors"
        return sorted({name.removesuffix(end) for name in self.files for end in ends if name.endswith(end)})

    @property
    def needs_model(self) -> bool:
        return any(_NEEDS_MODEL.fullmatch(name) for name in self.files) or "weights_sha256" in self.meta

    def load(self) -> None:
        """Read config and weights. Raises CheckpointError or ConfigError."""
        self.config = RetroConfig.from_json(self.folder / checkpoint.CONFIG_FILE)
        others = [path for name, path in self.files.items() if name.endswith(_WEIGHT_SUFFIXES)]
        is_sharded = (self.folder / checkpoint.INDEX_FILE).is_file()
        if checkpoint.WEIGHTS_FILE in self.files or is_sharded or not others:
            self.weights = checkpoint.read_folder(self.folder)
        else:
            self.weights = checkpoint.read_weights(others[0])

    def model(self) -> Retro:
        """A fresh model with the fixture's weights, without dropout."""
        model = Retro(self.config)
        checkpoint.load_weights(model, self.weights, str(self.folder))
        return model.eval()

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of a file, {} if it is not there."""
        return checkpoint.read_weights(self.files[name]) if name in self.files else {}

    def inputs(self, case: str) -> dict[str, Tensor]:
        return self.tensors(f"{case}.in.safetensors")


def _hint(folder: Path) -> str:
    inside = sorted({path.parent.name for path in folder.glob("*/*.safetensors")})
    return f" Perhaps you mean a folder in it: {', '.join(inside)}." if inside else ""


# --------------------------------------------------------------------------------- comparing


def compare(case: str, tensor: str, expected: Tensor, got: Tensor | None, exact: bool = False) -> Deviation:
    """Compare element by element; two NaN at one place agree. Whole numbers must be equal."""
    if got is None:
        return Deviation(case, tensor, float("inf"), 0.0, False, "our model gives no such tensor")
    if expected.shape != got.shape:
        note = f"expected shape {list(expected.shape)}, got {list(got.shape)}"
        return Deviation(case, tensor, float("inf"), 0.0, False, note)
    exact = exact or not expected.is_floating_point()
    expected, got = expected.detach().double().flatten(), got.detach().double().flatten()
    if expected.numel() == 0:
        return Deviation(case, tensor, 0.0, 0.0, True, "empty")
    same = (expected == got) | (expected.isnan() & got.isnan())
    difference = torch.where(same, 0.0, (expected - got).abs())
    difference = torch.where(difference.isnan(), torch.inf, difference)
    allowed = torch.zeros_like(expected) if exact else ABSOLUTE + RELATIVE * expected.nan_to_num().abs()
    beyond = int((difference > allowed).sum())
    worst = int(difference.argmax())
    note = f"{beyond} of {expected.numel()} numbers beyond the tolerance" if beyond else ""
    return Deviation(case, tensor, float(difference[worst]), float(allowed[worst]), beyond == 0, note)


def _skipped(case: str, tensor: str, reason: str) -> Deviation:
    return Deviation(case, tensor, None, None, True, f"not checked: {reason}")


# ----------------------------------------------------------------------------------- sections


def _cases(fixture: _Fixture) -> Iterator[Deviation]:
    model = fixture.model()
    for case in fixture.cases:
        given, expected = fixture.inputs(case), fixture.tensors(f"{case}.out.safetensors")
        for key in given:
            if key not in _INPUTS:
                yield _skipped(case, key, "unknown input")
        if "input_ids" not in given:
            for key in expected:
                yield _skipped(case, key, f"{case}.in.safetensors gives no input_ids")
            continue
        if not expected:
            yield _skipped(case, "input_ids", f"there is no {case}.out.safetensors")
            continue
        got = _outputs(model, given)
        for key, tensor in expected.items():
            if key == "logits_seed_bug_all_hidden":
                yield _skipped(case, key, "a defect of the reference: its output layer on un-normed states")
            elif key.startswith("loss") and "labels" not in given:
                yield _skipped(case, key, f"{case}.in.safetensors gives no labels")
            elif _is_output(key):
                yield compare(case, key, tensor, got.get(key))
            else:
                yield _skipped(case, key, "unknown tensor")


def _is_output(key: str) -> bool:
    names = r"logits|loss_mean|loss_none|final_hidden|hidden\.\d+|neighbour_hidden|neighbour_hidden\.\d+"
    return re.fullmatch(names, key) is not None


def _outputs(model: Retro, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything of `CASE.out` that our model computes from `CASE.in`."""
    with torch.no_grad():
        out = _forward(model, given, "none", Capture(hidden_states=True))
        mean = _forward(model, given, "mean")
    found = {"logits": out.logits, "final_hidden": out.final_hidden}
    found.update({f"hidden.{i}": state for i, state in enumerate(out.hidden_states)})
    if out.neighbour_states is not None:
        found["neighbour_hidden"] = out.neighbour_states[-1]
        found.update({f"neighbour_hidden.{i}": state for i, state in enumerate(out.neighbour_states)})
    if out.loss is not None:
        found["loss_none"], found["loss_mean"] = out.loss, mean.loss.reshape(1)
    return found


def _forward(model: Retro, given: dict[str, Tensor], reduction: str, capture: Capture | None = None):
    return model(
        given["input_ids"].long(),
        given["neighbour_ids"].long() if "neighbour_ids" in given else None,
        given["labels"].long() if "labels" in given else None,
        input_mask=given.get("input_attention_mask"),
        neighbour_mask=given.get("neighbour_attention_mask"),
        capture=capture,
        loss_reduction=reduction,
    )


def _gradients(fixture: _Fixture) -> Iterator[Deviation]:
    for name in fixture.files:
        found = re.fullmatch(r"grads\.(.+)\.safetensors", name)
        if not found:
            continue
        expected, given, title = fixture.tensors(name), fixture.inputs(found[1]), f"grads.{found[1]}"
        if "input_ids" not in given or "labels" not in given:
            reason = f"{found[1]}.in.safetensors gives no labels"
            yield from (_skipped(title, key, reason) for key in expected)
            continue
        model = fixture.model()
        _forward(model, given, "mean").loss.backward()
        parameters = model.state_dict(keep_vars=True)
        named = {id(parameters[key]) for key in expected if key in parameters}
        for key, parameter in parameters.items():
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if key in expected:
                yield compare(title, key, expected[key], grad)
            elif id(parameter) not in named and grad.any():
                yield compare(title, key, torch.zeros_like(grad), grad)
        for key in expected:
            if key not in parameters:
                yield compare(title, key, expected[key], None)


def _training(fixture: _Fixture) -> Iterator[Deviation]:
    """Some steps of AdamW on one case, as the reference trains, without dropout."""
    runs = {}
    for key, record in fixture.meta.items():
        if (found := re.fullmatch(r"train(\d+)_(.+)", key)) and isinstance(record, dict):
            runs[int(found[1])] = (found[2], record)
    afterwards = {}
    for name in fixture.files:
        if found := re.fullmatch(r"after(\d+)steps\.safetensors", name):
            afterwards[int(found[1])] = fixture.tensors(name)
    for steps in sorted({*runs, *afterwards}):
        case, record = runs.get(steps, (_training_case(fixture), {}))
        expected, given, title = afterwards.get(steps, {}), fixture.inputs(case), f"train{steps}_{case}"
        if "input_ids" not in given or "labels" not in given:
            reason = f"{case}.in.safetensors, the case of this training run, gives no labels"
            yield from (_skipped(title, key, reason) for key in expected or record)
            continue
        model = fixture.model()
        losses, norms = _train(model, given, steps)
        for key, numbers in (("losses", losses), ("grad_norms", norms)):
            if key in record:
                yield compare(title, key, torch.tensor(record[key]), torch.tensor(numbers))
        weights = model.state_dict()
        for key, tensor in expected.items():
            yield compare(title, key, tensor, weights.get(key))


def _training_case(fixture: _Fixture) -> str:
    """The case of a training run that meta.json does not describe: the one with gradients."""
    names = [name.split(".", 1)[1] for name in fixture.files if name.startswith("grads.")]
    return names[0].removesuffix(".safetensors") if names else "padded"


def _train(model: Retro, given: dict[str, Tensor], steps: int) -> tuple[list[float], list[float]]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses, norms = [], []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = _forward(model, given, "mean").loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)))
        losses.append(loss.item())
        optimiser.step()
    return losses, norms


# --------------------------------------------------------------------------------- generation


def _generation(fixture: _Fixture) -> Iterator[Deviation]:
    tensors = fixture.tensors("generation.safetensors")
    described = {}
    if (fixture.folder / "generation.json").is_file():
        described = read_object(fixture.folder / "generation.json")
    settings, cases = described.get("kwargs", {}), described.get("cases", {})
    model = fixture.model()
    shapes = _neighbour_shapes(fixture, described)
    for key, expected in tensors.items():
        name, _, kind = key.rpartition(".")
        if kind == "prompt":
            continue
        prompt = tensors.get(f"{name}.prompt")
        if kind not in ("greedy", "greedy_plain") or prompt is None:
            yield _skipped("generation", key, "unknown tensor" if prompt is not None else f"no {name}.prompt")
            continue
        odd = [word for word, value in _NEUTRAL.items() if settings.get(word, value) != value]
        if odd:
            yield _skipped("generation", key, f"made with {odd[0]} {settings[odd[0]]}")
            continue
        limit = cases.get(name, {}).get("max_length", expected.shape[1])
        pad, end = settings.get("pad_token_id", fixture.config.pad_token_idx), settings.get("eos_token_id", 1)
        processed = [] if kind == "greedy_plain" else [rule for rule in _RULES if rule in settings]
        rules = GenerationConfig(**{rule: settings[rule] for rule in processed})
        # The folder does not say how many neighbours of which length the retriever gave, so likely ones
        # are tried; a wrong one does not give the same text.
        tries = []
        for k, r in shapes:
            retriever = StubRetriever(fixture.config.num_embeddings, r)
            written = _greedy(model, prompt, retriever, k, limit, rules, pad, end)
            tries.append(compare("generation", key, expected, written))
            if tries[-1].ok:
                break
        yield tries[-1] if tries[-1].ok else tries[0]


def _neighbour_shapes(fixture: _Fixture, described: dict[str, Any]) -> list[tuple[int, int]]:
    """(k, r) that the retriever may have given, the likeliest first."""
    found = []
    if "num_neighbours" in described and "neighbour_len" in described:
        found.append((described["num_neighbours"], described["neighbour_len"]))
    for case in fixture.cases:
        ids = fixture.inputs(case).get("neighbour_ids")
        if ids is not None:
            found.append((ids.shape[2], ids.shape[3]))
    m = fixture.config.chunk_size
    found += [(k, r) for r in (2 * m, m) for k in (2, 1, 3, 4)]
    return list(dict.fromkeys(found))


def _greedy(
    model: Retro,
    prompt: Tensor,
    retriever: StubRetriever,
    num_neighbours: int,
    limit: int,
    rules: GenerationConfig,
    pad: int,
    end: int,
) -> Tensor:
    """prompt (b, n) -> (b, at most `limit`), as the reference continues text: the whole sequence at every
    step, chunks counted from its start, nothing padded on the left, ended rows filled with padding."""
    ids, m = prompt.long(), model.config.chunk_size
    running = torch.ones(len(ids), dtype=torch.bool)
    while True:
        count = num_chunks(ids.shape[1], m)
        chunks = ids[:, : count * m].reshape(len(ids), count, m).numpy()
        neighbours = torch.from_numpy(retriever.retrieve(chunks, num_neighbours).tokens)
        with torch.no_grad():
            logits = model(ids, neighbours).logits[:, -1]
        rows = zip(logits, ids.tolist(), strict=True)
        likeliest = torch.stack([penalised(scores, row, end, rules).argmax() for scores, row in rows])
        chosen = torch.where(running, likeliest, pad)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        running &= chosen != end
        if not running.any() or ids.shape[1] >= limit:
            return ids


# ------------------------------------------------------------------- buckets and everything else


def _buckets(fixture: _Fixture) -> Iterator[Deviation]:
    tensors = fixture.tensors("buckets.safetensors")
    relative = tensors.get("relative_position")
    for key, expected in tensors.items():
        found = re.fullmatch(r"(?:linear|loglinear)\.bi([01])\.n(\d+)(?:\.d(\d+))?", key)
        if key == "relative_position":
            continue
        if relative is None or not found:
            reason = "unknown tensor" if relative is not None else "there is no relative_position"
            yield _skipped("buckets", key, reason)
            continue
        both, buckets = found[1] == "1", int(found[2])
        if found[3] is None:
            got = linear_buckets(relative, buckets, lowest_of_range(buckets, both))
        elif int(expected.min()) < 0 or int(expected.max()) >= buckets:
            yield _skipped("buckets", key, "a defect of the reference: its numbers name no bucket")
            continue
        else:
            # All buckets are exact in the reference's log-linear formula.
            one_way = buckets // 2 if both else buckets
            got = log_linear_buckets(relative, buckets, int(found[3]), both, num_exact=one_way)
        yield compare("buckets", key, expected, got)


def _other_weights(fixture: _Fixture) -> Iterator[Deviation]:
    """The hash of the weights, and the same weights in other files."""
    model = fixture.model()
    wanted = fixture.meta.get("weights_sha256")
    if isinstance(wanted, str):
        same = checkpoint.fingerprint(model) == wanted
        largest, note = (0.0, "") if same else (float("inf"), "the hash differs")
        yield Deviation("meta.json", "weights_sha256", largest, 0.0, same, note)
    ours = model.state_dict()
    for name in fixture.files:
        if not name.endswith(_WEIGHT_SUFFIXES):
            continue
        try:
            theirs = fixture.tensors(name)
            checkpoint.load_weights(fixture.model(), theirs, name)
        except CheckpointError as error:
            yield Deviation(name, "weights", float("inf"), 0.0, False, str(error))
            continue
        for key, tensor in theirs.items():
            yield compare(name, key, tensor, ours[key], exact=True)


def _unknown(fixture: _Fixture) -> Iterator[Deviation]:
    for name in fixture.files:
        known = _MODEL.fullmatch(name) or _NEEDS_MODEL.fullmatch(name) or name == "buckets.safetensors"
        if not known:
            yield from (_skipped(name, key, "unknown file") for key in fixture.tensors(name))
