"""Models on disk: our own folders, and the reference implementation's weight files.

A model folder holds

    config.json                      RetroConfig
    tokenizer.json                   the tokenizer it was trained with
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
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from indexing import files, paths
from indexing.errors import CheckpointError
from indexing.tokenizer import TOKENIZER_FILE, Tokenizer
from retro_core.config import MODEL_TYPE, RetroConfig
from retro_core.model import Retro

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SUMS_FILE = "SHA256SUMS"
CARD_FILE = "README.md"
MAX_FILE_BYTES = 9_500_000  # git hosts refuse or warn about larger files
_HEADER_BYTES = 256  # what safetensors writes about one tensor, rounded up


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to use: in eval mode, in float32.

    name         of the folder
    fingerprint  see `fingerprint`
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
    parts = _split(weights, max_file_bytes)
    names = [WEIGHTS_FILE]
    if len(parts) > 1:
        names = [f"model-{i:05}-of-{len(parts):05}.safetensors" for i in range(1, len(parts) + 1)]
    try:
        with files.new_folder(folder) as work:
            files.write_json(work / CONFIG_FILE, {"model_type": MODEL_TYPE, **model.config.to_dict()})
            tokenizer.save(work)
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


def load_model(name_or_path: Path | str, device: str | torch.device = "cpu") -> LoadedModel:
    """Open a model folder; see `model_folder` for names and paths.

    Raises CheckpointError if files are missing or damaged, or if weights, config and tokenizer do not
    belong together; InputError for a name that cannot be one; ConfigError for a bad config.json.
    """
    folder = model_folder(name_or_path)
    for name in (CONFIG_FILE, TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"Model folder {folder} has no {name}. Copy the whole folder again.")
    config = RetroConfig.from_json(folder / CONFIG_FILE)
    _check_sums(folder)
    tokenizer = Tokenizer.load(folder)
    _check_tokenizer(tokenizer, config, folder)
    model = _new_model(config)
    load_weights(model, read_folder(folder), str(folder))
    card = folder / CARD_FILE
    return LoadedModel(
        model=model.to(device).eval(),
        config=config,
        tokenizer=tokenizer,
        name=folder.resolve().name,
        fingerprint=fingerprint(model),
        folder=folder,
        card=card.read_text(encoding="utf-8") if card.is_file() else None,
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


def load_reference(weights: Path | str, config: Path | str) -> Retro:
    """A model from the reference implementation's files, in eval mode.

    weights  a Lightning checkpoint (.ckpt), a plain state_dict (.pt, .bin) or .safetensors
    config   its RetroConfig JSON; without a `mode` the model computes the reference's maths

    The output layer stays what the file says: an untied head is never tied to the embeddings.
    Raises CheckpointError naming missing, unexpected or wrongly shaped tensors.
    """
    model = _new_model(RetroConfig.from_json(Path(config)))
    load_weights(model, read_weights(weights), str(weights))
    return model.eval()


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Tensors of a weight file by name, on the CPU; see `load_reference` for the kinds of file."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"Expected a weight file at {path}, found none. Check the path.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} cannot be opened safely: it is damaged, or it holds Python objects besides tensors, and "
            "opening those could run code from the file. In the program that made it, save only the tensors: "
            "torch.save(model.state_dict(), FILE)."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is not a PyTorch file or is damaged ({error}). Copy it again."
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
        # A name with a folder in it would reach outside the model folder.
        names = sorted({Path(name).name for name in where.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of weight files. Copy the folder again.") from error
    weights: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise _incomplete(folder, name, INDEX_FILE)
        weights.update(_read_safetensors(folder / name))
    return weights


def load_weights(model: Retro, weights: dict[str, Tensor], source: str) -> None:
    """Copy `weights` into `model`. Names that share one tensor in the model need to be there only once.

    Raises CheckpointError naming what is missing, unexpected, wrongly shaped or contradictory; `source` is
    for the message.
    """
    expected = model.state_dict()
    unexpected = [key for key in weights if key not in expected]
    if unexpected:
        raise CheckpointError(
            f"{source} has {_listed(unexpected)}, which a model with this config has not. "
            "Give the config that belongs to these weights."
        )
    missing = [names[0] for names in _same_tensor(expected) if not any(key in weights for key in names)]
    if missing:
        raise CheckpointError(
            f"{source} lacks {_listed(missing)}, which a model with this config has. "
            "Give the config that belongs to these weights, or a complete file."
        )
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{source}: {key} has shape {list(tensor.shape)}, but the config makes it "
                f"{list(expected[key].shape)}. Give the config that belongs to these weights."
            )
    for names in _same_tensor(expected):
        given = [key for key in names if key in weights]
        for other in given[1:]:
            if not torch.equal(weights[given[0]], weights[other]):
                raise CheckpointError(
                    f"{source}: {given[0]} and {other} differ, but the config says they are one tensor. "
                    "Turn tie_embeddings or enc_share_decoder_embs off in the config."
                )
        with torch.no_grad():
            expected[given[0]].copy_(weights[given[0]])


def fingerprint(model: Retro) -> str:
    """sha256 over the sorted names of all weights, each followed by its float32 bytes.

    Two models with the same fingerprint are the same function, whatever files they came from.
    """
    total = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        total.update(key.encode())
        total.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return total.hexdigest()


def _new_model(config: RetroConfig) -> Retro:
    """A model whose weights are about to be replaced; the caller's random numbers stay what they were."""
    with torch.random.fork_rng(devices=[]):
        return Retro(config)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file or is damaged ({error}). Copy it again."
        ) from error


def _stored_once(model: Retro, dtype: torch.dtype | None) -> dict[str, Tensor]:
    state = model.state_dict()
    return {
        names[0]: state[names[0]].detach().to("cpu", dtype or state[names[0]].dtype).contiguous()
        for names in _same_tensor(state)
    }


def _same_tensor(state: dict[str, Tensor]) -> list[list[str]]:
    """Names of a state_dict grouped by the memory they stand for."""
    groups: dict[int, list[str]] = {}
    for key, tensor in state.items():
        groups.setdefault(tensor.data_ptr(), []).append(key)
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
    for line in sums.read_text(encoding="utf-8").splitlines():
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


def _listed(names: Iterable[str]) -> str:
    """'a, b, c and 4 more'"""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _kind(content: object) -> str:
    if isinstance(content, dict):
        return f"a dict with {_listed(map(str, content))}" if content else "an empty dict"
    return f"a {type(content).__name__}"
