"""Models survive the disk, and what does not belong together is refused in a sentence."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_config, tiny_input, tiny_model

from indexing import paths
from indexing.errors import CheckpointError, ConfigError, InputError
from retro_core import checkpoint
from retro_core.checkpoint import fingerprint, load_model, load_reference, save_model
from retro_core.model import Retro

REFERENCE = Path(__file__).parent / "data" / "reference"


def make(tokenizer, **changes) -> Retro:
    return tiny_model(num_embeddings=tokenizer.vocab_size + 3, **changes).float()


def message(function, *arguments) -> str:
    with pytest.raises(CheckpointError) as error:
        function(*arguments)
    return str(error.value)


@pytest.fixture
def folder(tmp_path, tokenizer) -> Path:
    """A saved model in several files."""
    save_model(tmp_path / "m", make(tokenizer), tokenizer, max_file_bytes=25_000)
    return tmp_path / "m"


# ------------------------------------------------------------------------------- our own folders


def test_a_model_comes_back_with_its_tokenizer_and_card(tmp_path, tokenizer):
    model = make(tokenizer)
    save_model(tmp_path / "m", model, tokenizer, card="# Träumer")
    loaded = load_model(tmp_path / "m")
    ids, neighbours = tiny_input(11)
    assert torch.equal(loaded.model(ids, neighbours).logits, model(ids, neighbours).logits)
    assert loaded.config == model.config and not loaded.model.training
    assert (loaded.name, loaded.folder, loaded.card) == ("m", tmp_path / "m", "# Träumer")
    assert loaded.fingerprint == fingerprint(model)
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "README.md", "SHA256SUMS", "config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip


def test_large_models_are_split_in_the_hugging_face_layout(folder, tokenizer):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = sorted({*index["weight_map"].values()})
    assert len(names) > 3 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    tensors = {}
    for name in names:
        assert (folder / name).stat().st_size <= 25_000
        part = load_file(folder / name)
        assert all(index["weight_map"][key] == name for key in part)
        tensors.update(part)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert load_model(folder).fingerprint == fingerprint(make(tokenizer))
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_half_precision_is_for_the_disk_only(tmp_path, tokenizer):
    model = make(tokenizer)
    save_model(tmp_path / "m", model, tokenizer, dtype=torch.float16)
    assert {t.dtype for t in load_file(tmp_path / "m" / "model.safetensors").values()} == {torch.float16}
    loaded = load_model(tmp_path / "m").model
    for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        assert theirs.dtype == torch.float32 and torch.equal(theirs, ours.half().float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_can_be_computed_with_in_half_precision(tmp_path, tokenizer, dtype):
    model = make(tokenizer, tie_embeddings=True)
    save_model(tmp_path / "m", model, tokenizer)
    loaded = load_model(tmp_path / "m", dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {dtype}
    assert loaded.model.lm_head.weight is loaded.model.base.dec_embs.weight
    assert loaded.fingerprint == fingerprint(model), "the same weights, whatever they are computed with in"
    ids, neighbours = tiny_input(11)
    with torch.inference_mode():
        near, wanted = loaded.model(ids, neighbours).logits, model(ids, neighbours).logits
    assert near.dtype == dtype and (near - wanted).norm() < 0.1 * wanted.norm()


def test_a_weight_that_half_precision_cannot_hold_is_not_stored_in_it(tmp_path, tokenizer):
    model = make(tokenizer)
    with torch.no_grad():
        model.base.final_layer_norm.scale[3] = 1e5
    said = message(lambda: save_model(tmp_path / "m", model, tokenizer, dtype=torch.float16))
    assert "NaN or infinite numbers in base.final_layer_norm.scale" in said and not (tmp_path / "m").exists()


def test_shared_tensors_are_stored_once_and_stay_shared(tmp_path, tokenizer):
    model = make(tokenizer, tie_embeddings=True, enc_share_decoder_embs=True, enc_hidden_dim=13)
    save_model(tmp_path / "m", model, tokenizer)
    stored = load_file(tmp_path / "m" / "model.safetensors")
    large = [key for key, tensor in stored.items() if tensor.shape[0] == model.config.num_embeddings]
    assert large == ["base.dec_embs.weight"]
    loaded = load_model(tmp_path / "m").model
    assert loaded.lm_head.weight is loaded.base.dec_embs.weight is loaded.base.encoder.enc_embs.weight
    assert fingerprint(loaded) == fingerprint(model)


def test_loading_leaves_the_random_numbers_alone(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(folder)
    assert torch.equal(torch.rand(3), expected)


def test_a_name_is_looked_up_and_a_path_needs_a_slash(retro_home, tokenizer, tmp_path, monkeypatch):
    save_model(retro_home / "models" / "mine", make(tokenizer), tokenizer)
    assert load_model("mine").folder == retro_home / "models" / "mine"
    assert load_model(str(retro_home / "models" / "mine") + "/").name == "mine"
    assert "There is no model at" in message(load_model, "yours")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "write ./here" in message(load_model, "here")
    assert "has no config.json" in message(load_model, "./here")
    with pytest.raises(InputError, match="cannot be used as a name"):
        load_model("Mine!")


def test_a_users_model_comes_before_the_bundled_one(retro_home, tokenizer):
    save_model(retro_home / "models" / paths.DEMO_MODEL, make(tokenizer), tokenizer)
    assert load_model(paths.DEMO_MODEL).folder == retro_home / "models" / paths.DEMO_MODEL


def test_nothing_appears_when_saving_fails_and_nothing_is_replaced(tmp_path, tokenizer, monkeypatch):
    model = make(tokenizer)

    def full_disk(*arguments, **more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_disk)
        with pytest.raises(OSError):
            save_model(tmp_path / "m", model, tokenizer)
    assert list(tmp_path.glob("*m*")) == []
    save_model(tmp_path / "m", model, tokenizer)
    assert "exists already. Choose another name" in message(save_model, tmp_path / "m", model, tokenizer)
    assert load_model(tmp_path / "m").fingerprint == fingerprint(model)


@pytest.mark.parametrize("missing, sentence", [
    ("config.json", "has no config.json"),
    ("tokenizer.json", "has no tokenizer.json"),
    ("model-00002-of-*.safetensors", "which SHA256SUMS names. Copy the whole folder again."),
    ("model.safetensors.index.json", "has neither model.safetensors nor model.safetensors.index.json"),
])  # fmt: skip
def test_a_missing_file_is_named(folder, missing, sentence):
    next(folder.glob(missing)).unlink()
    assert sentence in message(load_model, folder)


def test_a_missing_part_is_named_without_sums_too(folder):
    (folder / "SHA256SUMS").unlink()
    part = next(folder.glob("model-00003*"))
    part.unlink()
    assert f"has no {part.name}, which model.safetensors.index.json names" in message(load_model, folder)


def test_damaged_weights_are_noticed(folder):
    part = next(folder.glob("model-00002*"))
    data = bytearray(part.read_bytes())
    data[-3] ^= 1
    part.write_bytes(data)
    assert f"{part.name} is damaged: its sha256" in message(load_model, folder)
    (folder / "SHA256SUMS").unlink()
    part.write_bytes(data[:100])
    assert "is not a safetensors file or is damaged" in message(load_model, folder)


def test_another_tokenizer_is_refused_with_both_numbers(folder, tokenizer):
    (folder / "SHA256SUMS").unlink()
    config = json.loads((folder / "config.json").read_text())
    size = tokenizer.vocab_size
    (folder / "config.json").write_text(json.dumps({**config, "num_embeddings": size - 1}))
    said = message(load_model, folder)
    assert f"knows {size - 1} tokens (num_embeddings), but its tokenizer has {size}." in said
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_idx": 7}))
    assert "pads with token 7 (pad_token_idx), but its tokenizer pads with 0." in message(load_model, folder)


def test_saving_with_the_wrong_tokenizer_is_refused_before_anything_is_written(tmp_path, tokenizer):
    model = tiny_model(num_embeddings=100)
    said = message(save_model, tmp_path / "m", model, tokenizer)
    assert f"knows 100 tokens (num_embeddings), but its tokenizer has {tokenizer.vocab_size}" in said
    assert not (tmp_path / "m").exists()


def test_another_config_is_refused_by_name_and_shape(folder):
    (folder / "SHA256SUMS").unlink()
    config = json.loads((folder / "config.json").read_text())

    def with_config(**changes) -> str:
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return message(load_model, folder)

    assert "lacks base.decoder.4.0.ln.scale, base.decoder.4.0" in with_config(dec_num_layers=5)
    assert "has base.decoder.3.1.kv_ln.scale, base.decoder.3.1" in with_config(dec_cca_layers=[1])
    said = with_config(dec_ffn_dim=20)
    assert "base.decoder.0.2.wi_0.weight has shape [19, 13], but the config makes it [20, 13]; base." in said
    assert said.count("has shape") == 3 and "and 9 more. Give the config that belongs" in said
    assert "lm_head.weight differ, but the config says they are one" in with_config(tie_embeddings=True)
    with pytest.raises(ConfigError, match="The nearest is 'chunk_size'"):
        (folder / "config.json").write_text(json.dumps({**config, "chunksize": 3}))
        load_model(folder)


# ------------------------------------------------------------------------------- the reference's files


@pytest.mark.parametrize("kind", ["safetensors", "lightning", "state_dict"])
def test_all_three_kinds_of_reference_weights_give_the_same_model(tmp_path, kind):
    tiny = REFERENCE / "tiny"
    files = {"safetensors": tiny / "model.safetensors", "lightning": tiny / "lightning.ckpt"}
    if kind == "state_dict":
        files[kind] = tmp_path / "weights.pt"
        torch.save(load_file(tiny / "model.safetensors"), files[kind])
    model = load_reference(files[kind], tiny / "config.json")
    wanted = json.loads((tiny / "meta.json").read_text())["weights_sha256"]
    assert fingerprint(model) == wanted  # the reference's own hash of these weights
    assert model.config.mode == "reference" and not model.training
    # The reference never ties its output layer; copying the embeddings into it would ruin the model.
    assert not torch.equal(model.lm_head.weight, model.base.dec_embs.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_reference_weights_of_any_precision_are_computed_with_in_float32(tmp_path, dtype):
    tiny = REFERENCE / "tiny"
    weights = {key: tensor.to(dtype) for key, tensor in load_file(tiny / "model.safetensors").items()}
    torch.save({"state_dict": weights, "epoch": 3, "optimizer_states": [{"state": {}}]}, tmp_path / "w.ckpt")
    model = load_reference(tmp_path / "w.ckpt", tiny / "config.json")
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, weights[key].float()), key


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "module._orig_mod.model."])
def test_what_a_wrapper_puts_before_all_names_is_dropped(tmp_path, prefix):
    """DistributedDataParallel, torch.compile and modules that hold the model rename its tensors."""
    tiny = REFERENCE / "tiny"
    weights = load_file(tiny / "model.safetensors")
    wanted = load_reference(tiny / "model.safetensors", tiny / "config.json")
    save_file({prefix + key: tensor for key, tensor in weights.items()}, tmp_path / "w.safetensors")
    assert fingerprint(load_reference(tmp_path / "w.safetensors", tiny / "config.json")) == fingerprint(
        wanted
    )
    one_without = {prefix + key: tensor for key, tensor in weights.items() if key != "lm_head.weight"}
    save_file({**one_without, "lm_head.weight": weights["lm_head.weight"]}, tmp_path / "w.safetensors")
    said = message(load_reference, tmp_path / "w.safetensors", tiny / "config.json")
    assert f"has {prefix}base.dec_embs.weight, " in said and "more, which a model with this config" in said


def test_a_tied_output_layer_may_be_stored_under_either_name_or_both(tmp_path):
    tiny = REFERENCE / "tiny"
    weights = load_file(tiny / "model.safetensors")
    weights["lm_head.weight"] = weights["base.dec_embs.weight"].clone()
    config = json.loads((tiny / "config.json").read_text())
    (tmp_path / "tied.json").write_text(json.dumps({**config, "tie_embeddings": True}))
    for left_out in ("lm_head.weight", "base.dec_embs.weight", None):
        some = {key: tensor for key, tensor in weights.items() if key != left_out}
        torch.save(some, tmp_path / "w.pt")
        model = load_reference(tmp_path / "w.pt", tmp_path / "tied.json")
        assert model.lm_head.weight is model.base.dec_embs.weight
        assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])
    del weights["lm_head.weight"]
    torch.save(weights, tmp_path / "w.pt")
    said = message(load_reference, tmp_path / "w.pt", tiny / "config.json")
    assert "If its output layer is the token embeddings, set tie_embeddings to true in the config" in said


def test_a_reference_model_can_be_saved_as_a_folder_of_ours(tmp_path, tokenizer):
    model = Retro(tiny_config("reference", num_embeddings=tokenizer.vocab_size)).eval()
    save_model(tmp_path / "m", model, tokenizer)
    loaded = load_model(tmp_path / "m")
    assert loaded.config.mode == "reference" and loaded.fingerprint == fingerprint(model)


def test_reference_weights_and_config_must_belong_together(tmp_path):
    tiny = REFERENCE / "tiny"
    said = message(load_reference, tiny / "model.safetensors", REFERENCE / "tiny_no_cca" / "config.json")
    assert "model.safetensors has base.decoder.1.1.kv_proj.weight" in said and "more, which a model" in said
    weights = load_file(tiny / "model.safetensors")
    del weights["lm_head.weight"]
    weights["lm_head.bias"] = torch.zeros(53)
    save_file(weights, tmp_path / "w.safetensors")
    assert "has lm_head.bias, which a model with this config has not" in message(
        load_reference, tmp_path / "w.safetensors", tiny / "config.json"
    )
    del weights["lm_head.bias"]
    save_file(weights, tmp_path / "w.safetensors")
    assert "lacks lm_head.weight, which a model with this config has" in message(
        load_reference, tmp_path / "w.safetensors", tiny / "config.json"
    )


class Trap:
    """Unpickling it would make a folder."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (self.folder,)


def test_a_pickle_that_could_run_code_is_refused_unopened(tmp_path):
    trap = Trap(str(tmp_path / "trapped"))
    torch.save({"state_dict": {}, "hyper_parameters": trap}, tmp_path / "evil.ckpt")
    said = message(load_reference, tmp_path / "evil.ckpt", REFERENCE / "tiny" / "config.json")
    assert "cannot be opened safely" in said and "torch.save(model.state_dict(), FILE)" in said
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content, sentence", [
    (b"not a checkpoint", "cannot be opened safely"),
    (b"", "is not a PyTorch file or is damaged"),
    (None, "Expected a weight file at"),
    ([1, 2], "holds no weights: expected a Lightning checkpoint with a 'state_dict', or a state_dict itself, "
             "got a list."),
    ({"epoch": 3}, "got a dict with epoch."),
])  # fmt: skip
def test_files_without_weights_are_refused(tmp_path, content, sentence):
    path = tmp_path / "w.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert sentence in message(load_reference, path, REFERENCE / "tiny" / "config.json")


def test_a_cut_off_checkpoint_is_refused(tmp_path):
    shutil.copy(REFERENCE / "tiny" / "lightning.ckpt", tmp_path / "cut.ckpt")
    data = (tmp_path / "cut.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(data[: len(data) // 2])
    said = message(load_reference, tmp_path / "cut.ckpt", REFERENCE / "tiny" / "config.json")
    assert "damaged" in said and str(tmp_path / "cut.ckpt") in said
