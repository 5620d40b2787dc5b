"""Bases: what is shown before anything is fetched, and that what comes is whole, checked and usable."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_retrofit import M, new_base, sized

from indexing import paths
from indexing.errors import CheckpointError, InputError
from indexing.files import UNFINISHED
from retro_core import bases
from retro_core.bases import (
    Converting,
    Fetched,
    Fetching,
    Offered,
    describe,
    fetch,
    list_bases,
    list_models,
    load_base,
)
from retro_core.checkpoint import save_model
from retro_core.cli import main
from retro_core.config import FitConfig
from retro_core.retrofit import retrofit

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(chr(c) for c in range(33, 127)), "Ġ", "Ġt", "he"]
MERGES = ["Ġ t", "h e"]


def write_gguf(path: Path, kind: str = "llama"):
    """A Llama of 2 layers, 6 query heads of 4 and 3 of keys, as llama.cpp stores it; returns transformers'
    own."""
    import gguf
    import transformers as hf

    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=3, max_position_embeddings=64, rms_norm_eps=1e-5,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half().float())
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(24)
    writer.add_feed_forward_length(32)
    writer.add_head_count(6)
    writer.add_head_count_kv(3)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    theirs = {value: key for key, value in {**bases._INSIDE}.items()}
    for name, tensor in model.state_dict().items():
        value, parts = tensor.numpy(), name.split(".")
        if name == "lm_head.weight":
            continue
        if parts[1] != "layers":
            new = {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[1]] + ".weight"
        else:
            part = theirs[".".join(parts[3:-1])]
            heads = {"attn_q": 6, "attn_k": 3}.get(part)
            if heads:  # the two halves of a head become neighbouring pairs
                value = value.reshape(heads, 2, 2, 24).swapaxes(1, 2).reshape(value.shape)
            new = f"blk.{parts[2]}.{part}.weight"
        writer.add_tensor(new, np.ascontiguousarray(value, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A packaged base whose package pip "downloads" from a folder. Returns the model that is in it."""
    model = write_gguf(tmp_path / "w.gguf")
    content = (tmp_path / "w.gguf").read_bytes()
    base = bases.PackagedBase(
        "Tiny",
        "tiny-lm==1.0",
        "tiny_lm_of_tests",
        "w.gguf",
        hashlib.sha256(content).hexdigest(),
        "MIT",
        9,
        77,
        99,
    )
    monkeypatch.setattr(bases, "PACKAGED", {"tiny": base})
    wheel = tmp_path / "tiny_lm-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as package:
        package.writestr("tiny_lm_of_tests/__init__.py", "")
        package.writestr("tiny_lm_of_tests/w.gguf", content)
        package.writestr(
            "tiny_lm-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-lm\nVersion: 1.0\n"
        )
        package.writestr(
            "tiny_lm-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        package.writestr("tiny_lm-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return model


def test_size_and_licence_come_before_anything_is_fetched(tiny, retro_home):
    (info,) = list_bases()
    assert (info.name, info.licence, info.download, info.disk, info.state) == (
        "tiny",
        "MIT",
        77,
        99,
        "can be fetched",
    )
    events = fetch("tiny")
    assert next(events) == Offered(info)
    events.close()
    assert not retro_home.exists()


def test_a_fetched_base_is_the_model_in_the_package(tiny, retro_home):
    events = list(fetch("tiny"))
    kinds = [type(event) for event in events]
    assert kinds[0] is Offered and kinds[1] is Fetching and kinds[-2:] == [Converting, Fetched]
    base = load_base("tiny")
    ids = torch.tensor([[5, 40, 7, 99, 3]])
    assert torch.allclose(base.model(ids).logits, tiny(ids).logits, atol=1e-5)
    text = "the 1984 <|im_end|>"
    assert base.tokenizer.decode(base.tokenizer.encode(text)) == text
    assert base.tokenizer.encode("84").size == 2, "digits are tokens of their own"
    assert (base.tokenizer.pad_id, base.tokenizer.end_id) == (2, 0)
    assert describe("tiny").state == "here" and describe("tiny").licence == "MIT"
    before = (base.folder / "model.safetensors").stat().st_mtime_ns
    assert [type(event) for event in fetch("tiny")] == [Offered, Fetched]
    assert (base.folder / "model.safetensors").stat().st_mtime_ns == before
    assert not list(paths.bases_dir().glob(f"{UNFINISHED}*"))


def test_a_file_with_another_checksum_is_refused_and_leaves_nothing(tiny, monkeypatch):
    base = bases.PACKAGED["tiny"]
    monkeypatch.setitem(bases.PACKAGED, "tiny", dataclasses.replace(base, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="expected 000000000000…: it is damaged or another version"):
        list(fetch("tiny"))
    assert not list(paths.bases_dir().iterdir())
    with pytest.raises(CheckpointError, match="Fetch it with `python -m retro_core fetch tiny`"):
        load_base("tiny")


def test_no_connection_is_a_sentence(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="pip could not download tiny-lm==1.0 .*Check the connection"):
        list(fetch("tiny"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code = (
        "from retro_core.bases import describe\nfrom indexing.errors import InputError\n"
        "try: describe('owner/name')\nexcept InputError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "cannot be asked" in said and "Check name and connection" in said


def test_names_that_cannot_be_bases_are_refused(tiny):
    for name in ("no such thing!", "../elsewhere"):
        with pytest.raises(InputError):
            describe(name)


def test_a_gguf_of_another_kind_is_refused(tmp_path):
    write_gguf(tmp_path / "w.gguf", kind="gemma3")
    with pytest.raises(CheckpointError, match="got 'gemma3'"):
        list(bases.convert_llama_gguf(tmp_path / "w.gguf", tmp_path))
    (tmp_path / "w.gguf").write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(CheckpointError, match="is not a GGUF file or is damaged"):
        list(bases.convert_llama_gguf(tmp_path / "w.gguf", tmp_path))


def test_models_are_listed_with_what_they_need(tiny, tokenizer, retro_home, capsys):
    folder = retro_home / "bases" / "mine"
    sized(tokenizer, 0).save_pretrained(folder)
    tokenizer.save(folder)
    model = retrofit(
        load_base("mine").model, tokenizer.pad_id, FitConfig(chunk_size=M, start="zero"), name="mine"
    )
    save_model(retro_home / "models" / "fitted", model, tokenizer)
    found = {info.name: info for info in list_models()}
    assert (found["fitted"].base, found["fitted"].state) == ("mine", "here")
    assert (found["demo"].base, found["demo"].state) == ("", "here")
    (folder / "config.json").unlink()
    assert {info.name: info.state for info in list_models()}["fitted"] == "needs base"
    assert main(["models", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [base["name"] for base in said["bases"]] == ["tiny"]
    assert {model["name"] for model in said["models"]} == {"demo", "fitted"}


def test_the_command_asks_first(tiny, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(["fetch", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "licence MIT" in said and "Give --yes" in said and not paths.bases_dir().exists()
    assert main(["fetch", "tiny", "--yes"]) == 0
    assert capsys.readouterr().out.strip() == str(paths.bases_dir() / "tiny")


def test_listing_needs_no_torch():
    code = (
        "from retro_core.bases import list_bases, list_models\nlist_bases(), list_models()\n"
        "import sys; print([m for m in ('torch', 'transformers', 'gguf') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_any_folder_of_a_causal_language_model_is_a_base(tokenizer, tmp_path):
    new = new_base("gpt2")
    new.resize_token_embeddings(tokenizer.vocab_size)
    new.save_pretrained(tmp_path / "mine")
    tokenizer.save(tmp_path / "mine")
    base = load_base(tmp_path / "mine")
    assert torch.equal(base.model(torch.tensor([[3, 4]])).logits, new(torch.tensor([[3, 4]])).logits)
