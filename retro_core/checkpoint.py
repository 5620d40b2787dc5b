"""Models on disk: our own folders, and the reference implementation's weight files.

A model folder holds

    config.json                      RetroConfig
    tokenizer.json                   the tokenizer it was trained with
    tokenizer_config.json            what Hugging Face's AutoTokenizer wants to know besides
    model.safetensors                weights, or, when they do not fit into one file,
    model-00001-of-00003.safetensors …  and model.safetensors.index.json, in the Hugging Face layout
    SHA256SUMS                       of the weights and the tokenizer; `sha256sum -c SHA256SUMS` reads it
    README.md                        the model card, if there is one

Nothing here opens a pickle that could run code.
"""

import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from indexing import files, paths
from indexing.errors import CheckpointError, InputError
from indexing.tokenizer import TOKENIZER_FILE, Tokenizer
from retro_core.config import MODEL_TYPE, REFERENCE, FitConfig, RetroConfig, read_object
from retro_core.model import Retro

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SUMS_FILE = "SHA256SUMS"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CARD_FILE = "README.md"
MAX_FILE_BYTES = 9_500_000  # git hosts refuse or warn about larger files
_HEADER_BYTES = 256  # what safetensors writes about one tensor, rounded up
_REFERENCE_LIGHTNING = "1.7.4"  # the version the reference pins
_NOT_IN_THE_REFERENCE = {"mode", "tie_embeddings", "pos_bias", "pos_bias_max_distance"}  # of RetroConfig
_COMPUTABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to use: in eval mode, in float32 unless asked for otherwise.

    name         of the folder
    fingerprint  see `fingerprint`; of the weights in float32, whatever they are used in
    card         text of the model card, None if there is none
    """

    model: Retro
    config: RetroConfig
    tokenizer: Tokenizer
    name: str
    fingerprint: str
    folder: Path
    card: str | None


def save_model(
    folder: Path | str,
    model: Retro,
    tokenizer: Tokenizer,
    card: str | None = None,
    dtype: torch.dtype | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write a model folder; it appears whole or not at all.

    `dtype` (torch.float16, say) is how weights are stored; None keeps them as they are. A tensor that is
    known under several names (tied head, shared embeddings) is stored once. Files stay below
    `max_file_bytes` unless a single tensor is larger.

    Raises CheckpointError if the folder exists already, or if tokenizer and model do not fit together.
    """
    folder = Path(folder)
    _check_tokenizer(tokenizer, model.config, folder)
    if folder.exists():
        raise _exists(folder)
    weights = _stored_once(model, dtype)
    _check_numbers(weights, f"The model for {folder}, stored as {dtype or 'it is'},")
    parts = _split(weights, max_file_bytes)
    names = [WEIGHTS_FILE]
    if len(parts) > 1:
        names = [f"model-{i:05}-of-{len(parts):05}.safetensors" for i in range(1, len(parts) + 1)]
    try:
        with files.new_folder(folder) as work:
            files.write_json(work / CONFIG_FILE, _description(model))
            tokenizer.save(work)
            files.write_json(work / TOKENIZER_CONFIG_FILE, tokenizer.hugging_face_settings())
            for name, part in zip(names, parts, strict=True):
                save_file({key: weights[key] for key in part}, work / name, metadata={"format": "pt"})
                (work / name).chmod(0o644)  # the library makes it readable for its owner only
            if len(parts) > 1:
                where = {key: name for name, part in zip(names, parts, strict=True) for key in part}
                size = sum(tensor.nbytes for tensor in weights.values())
                index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
                files.write_json(work / INDEX_FILE, index)
            sums = [f"{_sha256(work / name)}  {name}\n" for name in sorted([*names, TOKENIZER_FILE])]
            files.write_bytes(work / SUMS_FILE, "".join(sums).encode())
            if card is not None:
                files.write_bytes(work / CARD_FILE, card.encode("utf-8"))
    except FileExistsError as error:
        raise _exists(folder) from error


def load_model(
    name_or_path: Path | str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    base: "PreTrainedModel | None" = None,
) -> LoadedModel:
    """Open a model folder, ours or one that Hugging Face's `save_pretrained` wrote; see `model_folder` for
    names and paths. A fetched base opens by its name too, as a fit that has learned nothing: it reads
    neighbours, and what it reads changes nothing.

    dtype  what to compute in: None is float32; torch.bfloat16 or float16 need half of the memory, and are
           slow on a processor without instructions for them
    base   of a RETRO-fitted model: the language model to put it on, if not the one it names

    Raises CheckpointError if files are missing or damaged, or if weights, config, tokenizer and base do not
    belong together; InputError for a name that cannot be one, a device that is not here, or a dtype that is
    none to compute in; ConfigError for a bad config.json.
    """
    if dtype is not None and dtype not in _COMPUTABLE:
        names = ", ".join(map(str, _COMPUTABLE))
        raise InputError(f"A model computes in {names}, got {dtype}. Choose one of them.")
    _check_device(device)
    if _is_base_only(name_or_path):
        return _unfitted(str(name_or_path), device, dtype)
    folder = model_folder(name_or_path)
    for name in (CONFIG_FILE, TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"Model folder {folder} has no {name}. Copy the whole folder again.")
    _check_sums(folder)
    tokenizer = Tokenizer.load(folder)
    if is_fitted(folder):
        from retro_core.retrofit import open_fitted  # knows models of others

        model = open_fitted(folder, base)
        config = model.config
        _check_tokenizer(tokenizer, config, folder)
        new = {id(parameter) for parameter in model.new_parameters().values()}
        weights = {key: p for key, p in model.state_dict(keep_vars=True).items() if id(p) not in new}
        load_weights(model, {**weights, **read_folder(folder)}, str(folder))
    else:
        config = RetroConfig.from_json(folder / CONFIG_FILE)
        _check_tokenizer(tokenizer, config, folder)
        model = _model_of(config, read_folder(folder), str(folder))
    identity = fingerprint(model)
    card = folder / CARD_FILE
    return LoadedModel(
        model=model.to(device, dtype).eval(),
        config=config,
        tokenizer=tokenizer,
        name=folder.resolve().name,
        fingerprint=identity,
        folder=folder,
        card=card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None,
    )


def model_folder(name_or_path: Path | str) -> Path:
    """The folder of a model. A plain word is the name of a model; anything with a slash is a path.

    Raises CheckpointError if there is no such folder, InputError for a name that cannot be one.
    """
    is_path = isinstance(name_or_path, Path) or os.sep in name_or_path or "/" in name_or_path
    folder = Path(name_or_path).expanduser() if is_path else paths.model_dir(name_or_path)
    if not folder.is_dir():
        hint = ""
        if not is_path and Path(name_or_path).is_dir():
            hint = f" For the folder of that name here, write ./{name_or_path}."
        raise CheckpointError(
            f"There is no model at {folder}. Give the name of a model in {paths.models_dir()}, "
            f"{paths.DEMO_MODEL!r} for the bundled one, or a path with a slash.{hint}"
        )
    return folder


def is_fitted(name_or_path: Path | str) -> bool:
    """Whether a model is a RETRO-fit of a base. Raises what `model_folder` does, and CheckpointError for a
    folder without a config.json."""
    folder = model_folder(name_or_path)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"Model folder {folder} has no {CONFIG_FILE}. Copy the whole folder again.")
    return "retro" in read_object(folder / CONFIG_FILE)


def load_reference(weights: Path | str, config: Path | str) -> Retro:
    """A model from the reference implementation's files, in eval mode.

    weights  a Lightning checkpoint (.ckpt), a plain state_dict (.pt, .bin) or .safetensors, in any precision
    config   its RetroConfig JSON; without a `mode` the model computes the reference's maths

    The output layer stays what the file says: an untied head is never tied to the embeddings.
    Raises CheckpointError naming missing, unexpected or wrongly shaped tensors.
    """
    return _model_of(RetroConfig.from_json(Path(config)), read_weights(weights), str(weights)).eval()


def save_reference(path: Path | str, model: nn.Module, step: int = 0) -> Path:
    """Write a model as a checkpoint that the reference implementation's commands load, and beside it
    NAME.config.json, the RetroConfig they ask for; the path of the latter.

    The checkpoint has the keys that its version of Lightning writes; without optimiser, as nothing there goes
    on from one. A tensor of several uses is written once for each, as its files have it.

    Raises CheckpointError for a model that does not compute the reference's maths, and if `path` exists.
    """
    path = Path(path)
    config = getattr(model, "config", None)
    if not isinstance(model, Retro) or config.mode != REFERENCE or config.pos_bias != "linear":
        raise CheckpointError(
            "The reference implementation computes only models of mode 'reference' with linear position "
            "biases, and this one is of another kind. Train with a RetroConfig of that mode, such as the "
            "preset reference-default."
        )
    described = path.with_name(path.name.removesuffix(".ckpt") + ".config.json")
    for target in (path, described):
        if target.exists():
            raise CheckpointError(f"{target} exists already. Choose another name, or delete that file first.")
    weights = {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}
    content = {
        "epoch": 0,
        "global_step": step,
        "pytorch-lightning_version": _REFERENCE_LIGHTNING,
        "state_dict": weights,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    }
    settings = {key: value for key, value in config.to_dict().items() if key not in _NOT_IN_THE_REFERENCE}
    files.write_json(described, settings)
    with files.new_file(path) as work, open(work, "wb") as file:
        torch.save(content, file)  # by its hidden name torch would refuse it
    return described


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Tensors of a weight file by name, on the CPU; see `load_reference` for the kinds of file."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"Expected a weight file at {path}, found none. Check the path.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what damage did to a file's version; the error says more
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} cannot be opened safely: it is damaged, or it holds Python objects besides tensors, and "
            "opening those could run code from the file. In the program that made it, save only the tensors: "
            "torch.save(model.state_dict(), FILE)."
        ) from error
    except Exception as error:  # a damaged file ends in any of a dozen kinds, AssertionError among them
        raise CheckpointError(
            f"{path} is not a PyTorch file or is damaged ({_first_line(error)}). Copy it again."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    is_weights = isinstance(content, dict) and content
    if not is_weights or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} holds no weights: expected a Lightning checkpoint with a 'state_dict', or a state_dict "
            f"itself, got {_kind(content)}. Save it with torch.save(model.state_dict(), FILE)."
        )
    return dict(content)


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by name, from its model.safetensors or from the files its index names.

    Raises CheckpointError if neither is there, or a file is missing or damaged.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return _read_safetensors(folder / WEIGHTS_FILE)
    index = folder / INDEX_FILE
    if not index.is_file():
        raise CheckpointError(
            f"Folder {folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}. Copy the whole folder again."
        )
    try:
        where: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({*where.values()})
        outside = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of weight files. Copy the folder again.") from error
    if outside:
        raise CheckpointError(
            f"{index} names {outside[0]!r}, expected files of its own folder only. Copy the folder again."
        )
    weights: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise _incomplete(folder, name, INDEX_FILE)
        weights.update(_read_safetensors(folder / name))
    return weights


def load_weights(model: Retro, weights: dict[str, Tensor], source: str) -> None:
    """Copy `weights` into `model`. Names that share one tensor in the model need to be there only once. A
    prefix of all names (`module.`, `_orig_mod.` and the like) is dropped if the rest then fits.

    Raises CheckpointError naming what is missing, unexpected, wrongly shaped, contradictory or not a number;
    `source` is for the message.
    """
    expected = model.state_dict()
    with torch.no_grad():
        for names, tensor in _fitting(model, weights, source):
            expected[names[0]].copy_(tensor)


def hollow_model(config: RetroConfig) -> Retro:
    """A model of any size that takes neither memory nor time: its weights have shapes, but no values (torch's
    device "meta")."""
    with torch.device("meta"), _Unfilled():
        return Retro(config)


class _Unfilled(TorchFunctionMode):
    """Initial values are passed over. On "meta" there is nothing to fill, but torch would import 800 modules
    (symbolic mathematics) to do so."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return arguments[0] if arguments else named["tensor"]
        return function(*arguments, **(named or {}))


def _model_of(config: RetroConfig, weights: dict[str, Tensor], source: str) -> Retro:
    """A model with these weights, in float32. A config that contradicts them is refused before it takes any
    memory, and nothing is drawn at random for weights that are about to be replaced."""
    model = hollow_model(config)
    for names, tensor in _fitting(model, weights, source):
        # A copy, because tensors may lie in the file itself, which could be replaced while the model is used.
        parameter = nn.Parameter(tensor.to(torch.float32, copy=True))
        for name in names:
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, parameter)
    return model


def _fitting(model: Retro, weights: dict[str, Tensor], source: str) -> list[tuple[list[str], Tensor]]:
    """For each tensor of the model, all its names and what `weights` has for it; see `load_weights`."""
    expected = model.state_dict()
    weights = _without_prefix(weights, expected)
    shared = _same_tensor(model)
    unexpected = [key for key in weights if key not in expected]
    if unexpected:
        raise CheckpointError(
            f"{source} has {_listed(unexpected)}, which a model with this config has not. "
            "Give the config that belongs to these weights."
        )
    weights = {key: weights[key] for key in expected if key in weights}  # in the order of the model
    missing = [names[0] for names in shared if not any(key in weights for key in names)]
    if missing == ["lm_head.weight"]:
        raise CheckpointError(
            f"{source} lacks lm_head.weight, which a model with this config has. If its output layer is the "
            "token embeddings, set tie_embeddings to true in the config; otherwise give a complete file."
        )
    if missing:
        raise CheckpointError(
            f"{source} lacks {_listed(missing)}, which a model with this config has. "
            "Give the config that belongs to these weights, or a complete file."
        )
    other = [
        f"{key} has shape {list(tensor.shape)}, but the config makes it {list(expected[key].shape)}"
        for key, tensor in weights.items()
        if tensor.shape != expected[key].shape
    ]
    if other:
        raise CheckpointError(
            f"{source}: {_listed(other, '; ')}. Give the config that belongs to these weights."
        )
    _check_numbers(weights, source)
    found = []
    for names in shared:
        given = [key for key in names if key in weights]
        for key in given[1:]:
            if not torch.equal(weights[given[0]], weights[key]):
                raise CheckpointError(
                    f"{source}: {given[0]} and {key} differ, but the config says they are one tensor. "
                    "Turn tie_embeddings or enc_share_decoder_embs off in the config."
                )
        found.append((names, weights[given[0]]))
    return found


def _without_prefix(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a wrapper (DDP, torch.compile, a module that holds the model) puts before all names is dropped, if
    every name is then one that is expected."""
    keys = list(weights)
    shared = os.path.commonprefix([key.split(".")[:-1] for key in keys])
    for count in range(1, len(shared) + 1):
        prefix = ".".join(shared[:count]) + "."
        if all(key.removeprefix(prefix) in expected for key in keys):
            return {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    return weights


def _check_numbers(weights: dict[str, Tensor], source: str) -> None:
    strange = [key for key, tensor in weights.items() if not tensor.is_floating_point()]
    if strange:
        raise CheckpointError(
            f"{source}: {strange[0]} is of type {str(weights[strange[0]].dtype).removeprefix('torch.')}, "
            "expected floating-point numbers. Give weights that are not quantised."
        )
    broken = [key for key, tensor in weights.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise CheckpointError(
            f"{source} has NaN or infinite numbers in {_listed(broken)}. The file is damaged or its training "
            "failed; use an earlier checkpoint."
        )


def fingerprint(model: Retro) -> str:
    """sha256 over the sorted names of all weights, each followed by its float32 bytes.

    Two models with the same fingerprint are the same function, whatever files they came from.
    """
    total = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        total.update(key.encode())
        total.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return total.hexdigest()


def _check_device(device: str | torch.device) -> None:
    """Raise InputError for a device that is not here."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # it differs from device to device
        raise InputError(
            f"Device {str(device)!r} cannot be used here ({_first_line(error)}). Use 'cpu', or install a "
            "PyTorch that supports it."
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file or is damaged ({_first_line(error)}). Copy it again."
        ) from error


def _description(model: nn.Module) -> dict[str, Any]:
    """config.json of its folder."""
    if hasattr(model, "description"):  # a RETRO-fitted one
        return model.description()
    return {"model_type": MODEL_TYPE, **model.config.to_dict()}


def _is_base_only(name: Path | str) -> bool:
    """The name of a fetched base that is not a model's too."""
    if isinstance(name, Path) or os.sep in name or "/" in name or paths.model_dir(name).is_dir():
        return False
    from retro_core.bases import base_folder

    return (base_folder(name) / CONFIG_FILE).is_file()


def _unfitted(name: str, device: str | torch.device, dtype: torch.dtype | None) -> LoadedModel:
    from retro_core.bases import load_base  # these two know models of others
    from retro_core.retrofit import retrofit

    base = load_base(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is not trained shall at least be the same each time
        model = retrofit(base.model, base.tokenizer.pad_id, FitConfig(start="zero"), name=name)
    card = base.folder / CARD_FILE
    return LoadedModel(
        model=model.to(device, dtype).eval(),
        config=model.config,
        tokenizer=base.tokenizer,
        name=name,
        fingerprint=fingerprint(model),
        folder=base.folder,
        card=card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None,
    )


def _stored_once(model: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    state = model.new_parameters() if hasattr(model, "new_parameters") else model.state_dict()
    return {
        names[0]: state[names[0]].detach().to("cpu", dtype or state[names[0]].dtype).contiguous()
        for names in _same_tensor(model)
        if names[0] in state
    }


def _same_tensor(model: Retro) -> list[list[str]]:
    """Names in the state_dict, grouped by the parameter they stand for."""
    groups: dict[int, list[str]] = {}
    for key, parameter in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(parameter), []).append(key)
    return list(groups.values())


def _split(weights: dict[str, Tensor], max_file_bytes: int) -> list[list[str]]:
    """Names of the tensors of each file, in order."""
    parts: list[list[str]] = [[]]
    room = max_file_bytes
    for key, tensor in weights.items():
        size = tensor.nbytes + _HEADER_BYTES
        if size > room and parts[-1]:
            parts.append([])
            room = max_file_bytes
        parts[-1].append(key)
        room -= size
    return parts


def _check_sums(folder: Path) -> None:
    """Compare files with SHA256SUMS; folders without one are taken as they are."""
    sums = folder / SUMS_FILE
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        wanted, _, name = line.partition("  ")
        path = folder / Path(name).name
        if not path.is_file():
            raise _incomplete(folder, name, SUMS_FILE)
        if _sha256(path) != wanted:
            raise CheckpointError(
                f"{path} is damaged: its sha256 is not the one in {SUMS_FILE}. Copy it again, or delete "
                f"{SUMS_FILE} if you changed the file on purpose."
            )


def _check_tokenizer(tokenizer: Tokenizer, config: RetroConfig, folder: Path) -> None:
    if tokenizer.vocab_size > config.num_embeddings:
        raise CheckpointError(
            f"Model {folder.name!r} knows {config.num_embeddings} tokens (num_embeddings), but its tokenizer "
            f"has {tokenizer.vocab_size}. Use the tokenizer the model was trained with."
        )
    if tokenizer.pad_id != config.pad_token_idx:
        raise CheckpointError(
            f"Model {folder.name!r} pads with token {config.pad_token_idx} (pad_token_idx), but its "
            f"tokenizer pads with {tokenizer.pad_id}. Use the tokenizer the model was trained with."
        )


def _incomplete(folder: Path, name: str, list_file: str) -> CheckpointError:
    return CheckpointError(
        f"Model folder {folder} has no {name}, which {list_file} names. Copy the whole folder again."
    )


def _exists(folder: Path) -> CheckpointError:
    return CheckpointError(f"{folder} exists already. Choose another name, or delete that folder first.")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(names: Iterable[str], between: str = ", ") -> str:
    """'a, b, c and 4 more'"""
    names = list(names)
    return between.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _kind(content: object) -> str:
    if isinstance(content, dict):
        return f"a dict with {_listed(map(str, content))}" if content else "an empty dict"
    return f"a {type(content).__name__}"
