"""Whatever cannot be used is refused in one sentence that names it, never with a traceback."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import K, M, R, tiny_config, tiny_model

from indexing.errors import CheckpointError, InputError, RetroError
from retro_core import generation
from retro_core.checkpoint import load_model, load_reference, read_weights, save_model
from retro_core.config import GenerationConfig
from retro_core.inputs import check_inputs

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "tests" / "data" / "reference" / "tiny"
N = 7  # tokens: two complete chunks of three, and one token


def refused(function, *arguments, error: type[RetroError] = InputError, **more) -> str:
    with pytest.raises(error) as raised:
        function(*arguments, **more)
    return str(raised.value)


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.long)


# -------------------------------------------------------------------------------- a forward pass

IDS, NEIGHBOURS = ones(2, N), ones(2, N // M, K, R)


@pytest.mark.parametrize("changes, sentence", [
    ({"input_ids": [1, 2]}, "input_ids must be a torch tensor (b, n) of token ids, got a list."),
    ({"input_ids": ones(N)}, "input_ids must have 2 axes (b, n), got shape [7]. Add the axis of sequences: "
                             "input_ids[None]."),
    ({"input_ids": ones(1, 1, N)}, "input_ids must have 2 axes (b, n), got shape [1, 1, 7]."),
    ({"input_ids": IDS.float()}, "input_ids must hold token ids, whole numbers of type int64, got float32."),
    ({"input_ids": IDS.bool()}, "whole numbers of type int64, got bool."),
    ({"input_ids": torch.empty(2, 0)}, "whole numbers of type int64, got float32."),  # what [] becomes
    ({"input_ids": ones(2, 0)}, "Expected at least one token, got an empty sequence."),
    ({"input_ids": ones(0, N)}, "Expected at least one sequence, got a batch of 0."),
    ({"input_ids": 23 * IDS}, "Token id 23 is outside the model's vocabulary of 23 (in input_ids)."),
    ({"input_ids": -IDS}, "Token id -1 is outside the model's vocabulary of 23 (in input_ids)."),
    ({"neighbour_ids": NEIGHBOURS.numpy()}, "neighbour_ids must be a torch tensor (b, l, k, r) of token ids, "
                                            "got a ndarray."),
    ({"neighbour_ids": NEIGHBOURS[0]}, "neighbour_ids must have 4 axes (b, l, k, r), got shape [2, 2, 7]. "
                                       "Add the axis of sequences: neighbour_ids[None]."),
    ({"neighbour_ids": NEIGHBOURS.double()}, "neighbour_ids must hold token ids, whole numbers of type "
                                             "int64, got float64."),
    ({"neighbour_ids": NEIGHBOURS[:1]}, "input_ids has 2 sequences, but neighbour_ids has neighbours for 1."),
    ({"neighbour_ids": NEIGHBOURS[:, :1]}, "7 tokens have 2 complete chunks of 3, got neighbours for 1. Give "
                                           "neighbours (b, 2, k, r)."),
    ({"neighbour_ids": ones(2, 4, K, R)}, "7 tokens have 2 complete chunks of 3, got neighbours for 4."),
    ({"neighbour_ids": 99 * NEIGHBOURS}, "Token id 99 is outside the model's vocabulary of 23 (in neigh"),
    ({"input_mask": [1] * N}, "input_mask must be a torch tensor like input_ids, True where there is a"),
    ({"input_mask": ones(2, N + 1)}, "input_mask must have the shape of input_ids, [2, 7], got [2, 8]."),
    ({"neighbour_mask": ones(2, 2, K)}, "neighbour_mask must have the shape of neighbour_ids, [2, 2, 2, 7], "
                                        "got [2, 2, 2]."),
    ({"neighbour_ids": None, "neighbour_mask": NEIGHBOURS}, "Got a neighbour_mask without neighbour_ids."),
    ({"labels": ones(2, N - 1)}, "labels must have the shape of input_ids, [2, 7], got [2, 6]."),
    ({"labels": IDS.float()}, "labels must hold token ids, whole numbers of type int64, got float32."),
    ({"labels": 23 * IDS}, "Label 23 is neither in the model's vocabulary of 23 nor -100, which stands for"),
    ({"labels": -IDS}, "Label -1 is neither in the model's vocabulary of 23 nor -100"),
    ({"encoded": torch.ones(2, 3, K, R, 11)}, "encoded must be (b, up to l, k, r, d_enc) = [2, up to 2, 2, "
                                              "7, 11], got shape [2, 3, 2, 7, 11]."),
    ({"encoded": torch.ones(2, 1, K, R, 13)}, "got shape [2, 1, 2, 7, 13]."),
])  # fmt: skip
def test_tensors_that_do_not_fit_are_named_with_what_was_expected(changes, sentence):
    given = {"input_ids": IDS, "neighbour_ids": NEIGHBOURS, **changes}
    assert sentence in refused(tiny_model(), **given)


def test_what_fits_is_let_through():
    config = tiny_config()
    labels = IDS.clone()
    labels[:, -1] = -100
    check_inputs(config, IDS, NEIGHBOURS, IDS, NEIGHBOURS.bool(), labels, torch.ones(2, 1, K, R, 11))
    check_inputs(config, IDS.int(), ones(2, 3, K, R))  # neighbours of the incomplete chunk may be there
    check_inputs(config, IDS, ones(2, 2, 0, R))


def test_with_a_cache_chunks_are_those_of_the_whole_text_and_only_new_ones_are_looked_at():
    config, token = tiny_config(), ones(2, 1)
    check_inputs(config, token, ones(2, 3, K, R), past=8)
    assert "9 tokens have 3 complete chunks of 3, got neighbours for 2." in refused(
        check_inputs, config, token, ones(2, 2, K, R), past=8
    )
    neighbours = ones(2, 3, K, R)
    neighbours[:, 2] = 50
    assert "Token id 50" in refused(check_inputs, config, token, neighbours, past=8)
    check_inputs(config, token, neighbours, past=9)  # the third chunk was looked at with the token before


def test_values_are_not_looked_at_where_the_host_would_wait():
    """The meta device stands for an accelerator: reading a value of it is an error."""
    with torch.device("meta"):
        ids, neighbours = ones(1, N), ones(1, 2, K, R)
        check_inputs(tiny_config(), ids, neighbours, ids, neighbours, labels=ids)
        assert "got shape [7]" in refused(check_inputs, tiny_config(), ids[0])
    assert "neighbour_ids is on cpu, but input_ids is on meta." in refused(
        check_inputs, tiny_config(), ids, ones(1, 2, K, R)
    )


# ----------------------------------------------------------------------------- a folder of a model


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer) -> Path:
    """A model in several files, without the sums that would notice every change first."""
    folder = tmp_path_factory.mktemp("models") / "m"
    model = tiny_model(num_embeddings=tokenizer.vocab_size).float()
    save_model(folder, model, tokenizer, max_file_bytes=25_000)
    (folder / "SHA256SUMS").unlink()
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "m"))


def part(folder: Path) -> Path:
    return next(folder.glob("model-00002*"))


def cut(folder: Path, share: float) -> None:
    data = part(folder).read_bytes()
    part(folder).write_bytes(data[: int(len(data) * share)])


def change_index(folder: Path, change) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def change_tensors(folder: Path, change) -> None:
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        save_file({key: change(key, tensor) for key, tensor in tensors.items()}, path)


def spoil(number: float, keys: str):
    def change(key: str, tensor: torch.Tensor) -> torch.Tensor:
        if keys in key:
            tensor.view(-1)[-1] = number
        return tensor

    return change


def change_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)


def set_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    change_config(folder, json.dumps({**config, **changes}))


@pytest.mark.parametrize("damage, sentence", [
    (lambda f: cut(f, 0.5), "is not a safetensors file or is damaged"),
    (lambda f: cut(f, 0), "is not a safetensors file or is damaged"),
    (lambda f: part(f).write_bytes(b"\xff" * 4000), "is not a safetensors file or is damaged"),
    (lambda f: part(f).write_bytes((8).to_bytes(8, "little") + b"garbage!"), "is not a safetensors file or"),
    (lambda f: part(f).write_text("<html>404</html>"), "is not a safetensors file or is damaged"),
    (lambda f: change_index(f, lambda i: i["weight_map"].update({"lm_head.weight": "../m.safetensors"})),
     "names '../m.safetensors', expected files of its own folder only."),
    (lambda f: change_index(f, lambda i: i["weight_map"].update({"lm_head.weight": "/etc/passwd"})),
     "names '/etc/passwd', expected files of its own folder only."),
    (lambda f: change_index(f, lambda i: i["weight_map"].update({"lm_head.weight": 3})),
     "model.safetensors.index.json is not an index of weight files."),
    (lambda f: change_index(f, lambda i: i.pop("weight_map")), "is not an index of weight files."),
    (lambda f: change_index(f, lambda i: i["weight_map"].clear()),
     "m lacks base.dec_embs.weight, base.encoder.enc_embs.weight, base.encoder.layers.0.0.ln.scale and"),
    (lambda f: (f / "model.safetensors.index.json").write_text("[" * 100_000), "is not an index of weight"),
    (lambda f: change_tensors(f, spoil(float("nan"), "final_proj")),
     "has NaN or infinite numbers in base.encoder.layers.0.0.multi_head_attention.final_proj.weight, "
     "base.encoder.layers.0.1.multi_head_attention.final_proj.weight, "
     "base.encoder.layers.1.0.multi_head_attention.final_proj.weight and 7 more. The file is damaged or its"),
    (lambda f: change_tensors(f, spoil(float("-inf"), "lm_head")),
     "has NaN or infinite numbers in lm_head.weight. The file is damaged or its training failed"),
    (lambda f: change_tensors(f, lambda key, tensor: tensor.to(torch.int8)), "is of type int8, expected"),
    (lambda f: set_config(f, dec_ffn_dim=29, dec_num_heads=7), "base.decoder.0.0.multi_head_attention."
     "positional_bias.relative_attention_bias.weight has shape [6, 3], but the config makes it [6, 7]; "
     "base.decoder.0.2.wi_0.weight has shape [19, 13], but the config makes it [29, 13]; base.decoder.0.2."
     "wi_1.weight has shape [19, 13], but the config makes it [29, 13] and 15 more. Give the config that"),
    (lambda f: set_config(f, dec_hidden_dim=131_072, dec_ffn_dim=1_048_576, dec_num_layers=4),
     "but the config makes it [400, 131072]"),  # a model of 2 TB is refused before it takes any memory
    (lambda f: set_config(f, dec_num_layers="4"), "dec_num_layers must be a whole number, got '4'."),
    (lambda f: set_config(f, chunk_size=None), "chunk_size must be a whole number, got None."),
    (lambda f: set_config(f, dec_cca_layer=[1]), "The nearest is 'dec_cca_layers'."),
    (lambda f: set_config(f, pad_token_id=1), "Unknown setting 'pad_token_id'"),
    (lambda f: change_config(f, '["config"]'), "must hold a JSON object, got a list."),
    (lambda f: change_config(f, "{"), "is not valid JSON"),
    (lambda f: change_config(f, "[" * 100_000), "is not valid JSON"),
    (lambda f: (f / "tokenizer.json").write_text('{"model": 1}'), "is not a tokenizer file"),
])  # fmt: skip
def test_a_damaged_folder_is_refused_by_name(folder, damage, sentence):
    damage(folder)
    assert sentence in refused(load_model, folder, error=RetroError)


def test_notes_in_another_encoding_do_not_stop_a_model(folder):
    (folder / "README.md").write_bytes("Träumer".encode("latin-1"))
    assert load_model(folder).card == "Tr\ufffdumer"


def test_a_device_and_a_number_type_that_are_not_there(folder):
    assert "Device 'cdua' cannot be used here" in refused(load_model, folder, device="cdua")
    if not torch.cuda.is_available():
        assert "Use 'cpu', or install a PyTorch that supports it." in refused(load_model, folder, "cuda")
    said = refused(load_model, folder, dtype=torch.int8)
    assert "A model computes in torch.float32, torch.bfloat16, torch.float16, torch.float64, got " in said


# ------------------------------------------------------------------------- checkpoints of the reference


def test_a_checkpoint_with_flipped_or_missing_bytes_gives_weights_or_a_sentence(tmp_path):
    """torch.load ends in a dozen kinds of error, AssertionError and struct.error among them."""
    chance = random.Random(0)
    whole, path = (REFERENCE / "lightning.ckpt").read_bytes(), tmp_path / "w.ckpt"
    torch.save({"w": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old, refusals = (tmp_path / "old.pt").read_bytes(), set()
    for turn in range(200):
        data = bytearray((whole, old)[turn % 2])
        for _ in range(chance.randrange(1, 20)):
            data[chance.randrange(min(len(data), 3000))] = chance.randrange(256)
        path.write_bytes(data[: chance.randrange(len(data))] if turn % 5 == 0 else data)
        try:
            read_weights(path)
        except CheckpointError as error:
            refusals.add(type(error.__cause__).__name__)
            assert str(error).count("\n") == 0
    assert len(refusals) > 3


def test_reference_weights_that_are_no_numbers(tmp_path):
    weights = load_file(REFERENCE / "model.safetensors")
    weights["base.final_layer_norm.scale"][3] = torch.nan
    torch.save({"state_dict": weights}, tmp_path / "w.ckpt")
    assert "w.ckpt has NaN or infinite numbers in base.final_layer_norm.scale." in refused(
        load_reference, tmp_path / "w.ckpt", REFERENCE / "config.json", error=CheckpointError
    )


# ----------------------------------------------------------------------------------- while generating


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_end_a_generation(tokenizer, temperature, number):
    model = tiny_model(num_embeddings=tokenizer.vocab_size).float()
    with torch.no_grad():
        model.lm_head.weight[5, 5] = number
    events = generation.generate(model, tokenizer, "a", None, GenerationConfig(temperature=temperature))
    said = refused(list, events, error=CheckpointError)
    assert "scores for the next token are not all numbers" in said and "float32" in said


# -------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("damage, line, sentence", [
    (lambda f: cut(f, 0.5), "generate hello --no-retrieval --model {folder}", "is not a safetensors file or"),
    (lambda f: (f / "w.ckpt").write_bytes(b"PK\x03\x04"), "import-reference {folder}/w.ckpt "
     "{folder}/config.json {folder}/new --tokenizer {folder}", "w.ckpt"),
    (lambda f: None, "train --model retro-8b --data-spec x --tokenizer {folder}", "'retro-8b' is neither a"),
])  # fmt: skip
def test_the_command_line_says_it_in_one_line_and_exits_with_2(folder, damage, line, sentence):
    damage(folder)
    words = [word.format(folder=folder) for word in line.split()]
    done = subprocess.run(
        [sys.executable, "-m", "retro_core", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and sentence in done.stderr
