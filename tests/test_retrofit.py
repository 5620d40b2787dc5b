"""RETRO-fitting: the base stays what it is, what is added obeys the paper, and only that is saved."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from indexing import paths
from indexing.chunks import ChunkStore
from indexing.errors import CheckpointError, ConfigError, InputError
from indexing.tokenizer import Tokenizer
from retro_core.bases import load_base
from retro_core.checkpoint import load_model, save_model
from retro_core.cli import main
from retro_core.config import FitConfig, GenerationConfig, TrainConfig
from retro_core.generation import Finished, generate
from retro_core.model import Capture, ChunkedCrossAttention
from retro_core.monitoring import Saved
from retro_core.retrofit import FittedRetro, base_fingerprint, decoder_layers, fit_sizes, retrofit
from retro_core.run_folder import checkpoints
from retro_core.training import load_run, train
from retro_core.training_state import TrainingState, load

M, R, K, V, LAYERS = 4, 8, 3, 61, 4
FAMILIES = ["llama", "gpt2", "neox", "neox-sequential", "opt", "qwen2", "phi"]


def new_base(family: str, seed: int = 0) -> nn.Module:
    """A random base of 4 layers: 5 heads of 8, a vocabulary of 61."""
    import transformers as hf

    sizes = {"vocab_size": V, "bos_token_id": 1, "eos_token_id": 1}
    usual = {
        **sizes, "hidden_size": 40, "intermediate_size": 28, "num_hidden_layers": LAYERS,
        "num_attention_heads": 5, "max_position_embeddings": 128,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = {
        "llama": lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(**usual, num_key_value_heads=1, tie_word_embeddings=True)
        ),
        "gpt2": lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(**sizes, n_embd=40, n_layer=LAYERS, n_head=5, n_positions=128)
        ),
        "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**usual)),
        "neox-sequential": lambda: hf.GPTNeoXForCausalLM(
            hf.GPTNeoXConfig(**usual, use_parallel_residual=False)
        ),
        "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**usual, ffn_dim=28, word_embed_proj_dim=40)),
        "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**usual, num_key_value_heads=5)),
        "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**usual)),
        "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**usual, pad_token_id=0)),
        "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**usual, head_dim=8, num_key_value_heads=5)),
    }[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def fit_of(family: str, learned: bool = True, **settings) -> FittedRetro:
    """A fit whose new weights are all random, as if it had learned something, or as it starts."""
    settings = {"chunk_size": M, "cca_layers": [1, 3], "start": "zero", "encoder_layers": 2, **settings}
    text = torch.randint(1, V, (3, 40), generator=torch.Generator().manual_seed(5))
    model = retrofit(new_base(family), 0, FitConfig(**settings), text, "tiny")
    if learned:
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in model.new_parameters().values():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@cache
def learned(family: str, encoder: str = "small") -> FittedRetro:
    return fit_of(family, encoder=encoder)


def given(n: int, batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, V, (batch, n), generator=random)
    return ids, torch.randint(1, V, (batch, n // M, K, R), generator=random)


def train_a_little(model: FittedRetro) -> None:
    ids, read = given(14)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(3):
        model(ids, read, ids.roll(-1, 1)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize(
    ("family", "encoder", "start"),
    [
        *((family, *kind) for family in FAMILIES for kind in (("small", "copy"), ("base", "base"))),
        ("llama", "small", "zero"),
        ("llama", "small", "base"),
        ("neox", "base", "zero"),
        ("gpt2", "base", "copy"),
    ],
)
def test_step_0_and_off_are_the_base_to_the_bit(family, encoder, start):
    ids, read = given(14)
    base = new_base(family)
    plain = base(ids).logits
    model = fit_of(family, learned=False, encoder=encoder, start=start)
    assert torch.equal(model(ids, read).logits, plain)
    assert torch.equal(model(ids).logits, plain)
    train_a_little(model)
    assert not torch.equal(model(ids, read).logits, plain)
    assert torch.equal(model(ids).logits, plain)
    assert torch.equal(model.lm(ids).logits, plain), "called on its own the base is itself"


def test_training_mode_does_not_wake_the_base():
    ids, _ = given(14)
    model = fit_of("gpt2")  # has dropout of its own
    assert torch.equal(model.train()(ids).logits, new_base("gpt2")(ids).logits)


def test_a_base_that_learns_too_is_no_longer_the_base():
    ids, _ = given(14)
    model = fit_of("llama", unfreeze=True)
    train_a_little(model)
    assert not torch.equal(model(ids).logits, new_base("llama")(ids).logits)
    assert {*model.new_parameters()} >= {
        name for name, _ in model.named_parameters() if name.startswith("lm.")
    }


@pytest.mark.parametrize("encoder", ["small", "base"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
@pytest.mark.parametrize("capture", [None, Capture(attention=True, write_strength=True)])
def test_neighbours_reach_nothing_before_their_chunk_ends(family, encoder, capture):
    model, (ids, read) = learned(family, encoder), given(17, batch=1)
    plain = model(ids, read, capture=capture).logits
    for chunk in range(read.shape[1]):
        changed = read.clone()
        changed[:, chunk] = (changed[:, chunk] + 7) % (V - 1) + 1
        differs = (model(ids, changed, capture=capture).logits != plain).any(-1)[0]
        assert differs.nonzero()[0].item() == (chunk + 1) * M - 1


@pytest.mark.parametrize("family", ["llama", "neox"])
def test_gradients_flow_from_later_to_earlier_only(family):
    model, (ids, read) = learned(family, "base"), given(13, batch=1)
    table = model.lm.get_input_embeddings()
    embedded = table(ids).detach().requires_grad_()
    handle = table.register_forward_hook(
        lambda _, args, out: embedded if out.shape == embedded.shape else out
    )
    try:
        for position in (2, 5, 9):
            grad = torch.autograd.grad(model(ids, read).logits[0, position].sum(), embedded)[0]
            reached = grad.abs().sum(-1)[0] > 0
            assert reached[: position + 1].all() and not reached[position + 1 :].any()
    finally:
        handle.remove()


def test_cca_stands_between_attention_and_feed_forward():
    """Against the layer written out."""
    model, (ids, read) = learned("llama"), given(13)
    out = model(ids, read, capture=Capture(hidden_states=True, attention=True))
    layer = decoder_layers(model.lm)[1]
    positions = torch.arange(13)[None]
    x = out.hidden_states[1]
    rotary = model.lm.model.rotary_emb(x, position_ids=positions)
    attended, _ = layer.self_attn(layer.input_layernorm(x), position_embeddings=rotary, attention_mask=None)
    x = x + attended
    cca: ChunkedCrossAttention = model.cca["1"]
    keys, values = cca.chunk_keys_and_values(out.encoded[:, :3])
    written, _ = cca(x, keys, values, None, cca.window_bias(K, R))
    x = x + written
    x = x + layer.mlp(layer.post_attention_layernorm(x))
    assert torch.allclose(x, out.hidden_states[2], atol=1e-5)
    assert written[:, M - 1 :].abs().min() > 0


def test_neighbours_are_a_set_and_missing_ones_are_not_read():
    for encoder in ("small", "base"):
        model, (ids, read) = learned("llama", encoder), given(13)
        out = model(ids, read)
        assert torch.allclose(model(ids, read.flip(2)).logits, out.logits, atol=1e-5)
        with_missing = torch.cat([read, torch.zeros_like(read[:, :, :1])], dim=2)
        assert torch.allclose(model(ids, with_missing).logits, out.logits, atol=1e-5)
        assert torch.allclose(model(ids, torch.zeros_like(read)).logits, model(ids).logits, atol=1e-6)


def test_a_borrowed_encoder_reads_both_ways_and_no_padding():
    model, (ids, read) = learned("llama", "base"), given(8, batch=1)
    encoded = model(ids, read).encoded
    later = read.clone()
    later[0, 0, 0, -1] = read[0, 0, 0, -1] % (V - 1) + 1
    assert not torch.allclose(model(ids, later).encoded[0, 0, 0, 0], encoded[0, 0, 0, 0], atol=1e-6)
    padded = read.clone()
    padded[..., R // 2 :] = 0
    other = padded.clone()
    other[..., R // 2 :] = 5
    hidden = padded != 0
    same = (model(ids, r, neighbour_mask=hidden).encoded[..., : R // 2, :] for r in (padded, other))
    assert torch.allclose(*same, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "encoder", "lengths"),
    [
        ("llama", "small", range(1, 5 * M + 4)),
        ("gpt2", "base", (M - 1, M, 2 * M + 1, 5 * M + 3)),
        ("neox", "small", (M - 1, M, 2 * M + 1, 5 * M + 3)),
        ("opt", "small", (M, 5 * M + 3)),
    ],
)
def test_cached_logits_are_the_uncached(family, encoder, lengths):
    model = learned(family, encoder)
    with torch.inference_mode():
        for n in lengths:
            ids, read = given(n)
            whole = model(ids, read).logits
            past, out = model.new_cache(), []
            for size in (max(1, n // 2), *[1] * n):
                if past.length < n:
                    new = ids[:, past.length : past.length + size]
                    count = (past.length + new.shape[1]) // M
                    out.append(model(new, read[:, :count], cache=past).logits)
            assert torch.allclose(torch.cat(out, 1), whole, atol=1e-4), n


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_cache_can_be_cut_chosen_from_and_copied(family):
    model, (ids, read) = learned(family), given(15, batch=2)
    with torch.inference_mode():
        past = model.new_cache()
        model(ids, read, cache=past)
        twin = past.copy()
        twin.select(torch.tensor([1, 0, 1]))
        twin.crop(9)
        rows = [1, 0, 1]
        again = model(ids[rows][:, 9:], read[rows], cache=twin).logits
        assert torch.allclose(again, model(ids[rows], read[rows]).logits[:, 9:], atol=1e-4)
        assert past.length == 15
        encoded = model.encode_neighbours(past, read[:, 1:2], first=1)
        assert torch.allclose(encoded, model(ids, read).encoded[:, 1:2], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_on_the_left_changes_nothing(family):
    """With a chunk of padding before it the text has the same chunks, one later."""
    model, (ids, read) = learned(family), given(13)
    padded = torch.cat([torch.zeros(2, M, dtype=torch.long), ids], dim=1)
    more = torch.cat([torch.zeros_like(read[:, :1]), read], dim=1)
    assert torch.allclose(model(padded, more).logits[:, M:], model(ids, read).logits, atol=1e-4)


def test_cca_starts_as_the_bases_attention():
    """Against the base's own modules: grouped keys, fused and transposed weights."""
    for family in ("llama", "gpt2", "neox"):
        model = fit_of(family, learned=False, start="base")
        layer, cca, x = decoder_layers(model.lm)[1], model.cca["1"], torch.randn(1, 6, 40)
        with torch.no_grad():
            for norm in layer.modules():
                if isinstance(norm, nn.LayerNorm):
                    norm.bias.zero_()
            if family == "llama":
                normed = layer.input_layernorm(x)
                q, k, v = (
                    p(normed)
                    for p in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
                )
                k, v = k.repeat(1, 1, 5), v.repeat(1, 1, 5)  # five query heads share the one of keys
            elif family == "gpt2":
                q, k, v = (layer.ln_1(x) @ layer.attn.c_attn.weight).split(40, -1)
            else:
                joint = layer.input_layernorm(x) @ layer.attention.query_key_value.weight.T
                q, k, v = (part.flatten(2) for part in joint.view(1, 6, 5, 3, 8).unbind(3))
            # A LayerNorm divides by the deviation, an RMSNorm by the root mean square: the ratio is a scale.
            centred = x - x.mean(-1, keepdim=True) if family != "llama" else x
            scale = x.pow(2).mean(-1, keepdim=True).sqrt() / centred.pow(2).mean(-1, keepdim=True).sqrt()
            keys, values = cca.keys_and_values(x)
            mine = [cca.q_proj(cca.ln(x)), keys.transpose(1, 2).flatten(2), values.transpose(1, 2).flatten(2)]
            for ours, theirs in zip(mine, (q, k, v), strict=True):
                assert torch.allclose(ours * scale, theirs, atol=1e-3), family


def test_cca_starts_by_looking_behind_the_same_token():
    torch.manual_seed(0)
    text = torch.randint(1, V, (40, 40))
    settings = FitConfig(chunk_size=M, cca_layers=[1], start="copy")
    model, (ids, read) = retrofit(new_base("llama"), 0, settings, text), given(13, batch=8)
    weights = model(ids, read, capture=Capture(attention=True)).attention.by_token()[0, :, :, M - 1 :, :, 2:]
    windows = read[:, (torch.arange(M - 1, 13) + 1) // M - 1]  # what each position reads
    same = windows[..., 1:-1] == ids[:, M - 1 :, None, None]
    times = [weights[:, head][same].mean() / weights[:, head][~same].mean() for head in range(5)]
    copying, others = times[:2], times[2:]
    # Two tokens' codes of 4 numbers each tell 61 tokens apart badly, but chance would be 1.
    assert min(copying) > 1.4 and max(others) < 1.2


@pytest.mark.parametrize("family", ["olmo2", "gemma2"])
def test_layers_that_cannot_be_wrapped_are_refused(family):
    with pytest.raises(InputError, match="so CCA has no place|changes its logits"):
        retrofit(new_base(family), 0, FitConfig(chunk_size=M, start="zero"))


def test_copying_needs_text():
    with pytest.raises(InputError, match="Give calibration"):
        retrofit(new_base("llama"), 0, FitConfig(chunk_size=M, start="copy"))


def test_the_papers_layers():
    for count, layers in ((4, [3]), (12, [5, 8, 11]), (24, [8, 11, 14, 17, 20, 23])):
        base = new_base("llama")
        base.config.num_hidden_layers = count
        assert fit_sizes(base, 0, FitConfig()).dec_cca_layers == layers


# Folders


@pytest.fixture
def base_folder(tokenizer, tmp_path) -> Path:
    folder = tmp_path / "bases" / "tiny"
    base = sized(tokenizer, 0)
    base.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def sized(tokenizer: Tokenizer, seed: int) -> nn.Module:
    base = new_base("llama", seed)
    base.resize_token_embeddings(tokenizer.vocab_size)
    return base


def fit_in(folder: Path, **settings) -> FittedRetro:
    base = load_base(folder)
    fit = FitConfig(chunk_size=M, start="zero", **settings)
    model = retrofit(base.model, base.tokenizer.pad_id, fit, name=str(folder))
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.new_parameters().values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("encoder", ["small", "base"])
def test_only_new_weights_are_saved_and_give_the_same_model(base_folder, tokenizer, tmp_path, encoder):
    model, (ids, read) = fit_in(base_folder, encoder=encoder), given(14)
    save_model(tmp_path / "fit", model, tokenizer)
    saved = load_file(tmp_path / "fit" / "model.safetensors")
    assert {*saved} == {*model.new_parameters()}
    assert not any(name.startswith("lm.") for name in saved)
    again = load_model(tmp_path / "fit")
    assert torch.equal(again.model(ids, read).logits, model(ids, read).logits)
    assert again.config == model.config
    save_model(tmp_path / "half", model, tokenizer, dtype=torch.float16)
    half = load_model(tmp_path / "half").model
    assert torch.equal(half(ids).logits, model(ids).logits)
    assert torch.allclose(half(ids, read).logits, model(ids, read).logits, atol=0.05)


def test_a_base_that_learned_is_saved_too(base_folder, tokenizer, tmp_path):
    model, (ids, read) = fit_in(base_folder, unfreeze=True), given(14)
    train_a_little(model)
    save_model(tmp_path / "fit", model, tokenizer)
    assert torch.equal(load_model(tmp_path / "fit").model(ids, read).logits, model(ids, read).logits)


def test_another_base_is_refused(base_folder, tokenizer, tmp_path):
    save_model(tmp_path / "fit", fit_in(base_folder), tokenizer)
    other = sized(tokenizer, seed=1)
    with pytest.raises(CheckpointError, match="give the one it was fitted to"):
        load_model(tmp_path / "fit", base=other)
    assert load_model(tmp_path / "fit", base=sized(tokenizer, seed=0)).model.lm is not other
    (base_folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="Fetch it with"):
        load_model(tmp_path / "fit")


def test_damage_and_foreign_weights_are_refused(base_folder, tokenizer, tmp_path):
    save_model(tmp_path / "fit", fit_in(base_folder), tokenizer)
    config = tmp_path / "fit" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "fit": {**values["fit"], "encoder": "base"}}))
    with pytest.raises(CheckpointError, match="Give the config that belongs to these weights"):
        load_model(tmp_path / "fit")
    config.write_text(json.dumps({**values, "base": {}}))
    with pytest.raises(CheckpointError, match="lacks the base, fit or retro part"):
        load_model(tmp_path / "fit")
    weights = tmp_path / "fit" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_model(tmp_path / "fit")


def test_the_fingerprint_is_of_the_values():
    base = new_base("llama")
    first = base_fingerprint(base)
    assert base_fingerprint(new_base("llama").half().float()) != first
    assert base_fingerprint(base.double()) == first
    with torch.no_grad():
        base.model.norm.weight[0] += 1e-6
    assert base_fingerprint(base) != first


def test_it_writes(base_folder, tokenizer):
    model = fit_in(base_folder)

    class Same:
        def retrieve(self, chunks, num_neighbours):
            from indexing.neighbours import Neighbours

            found = Neighbours.none(chunks.shape[:-1], num_neighbours, 2 * M, tokenizer.pad_id)
            found.tokens[:] = 5
            return found

    config = GenerationConfig(max_new_tokens=9, temperature=0.0, ignore_end=True)
    events = list(generate(model, tokenizer, "The river Nile flows", Same(), config))
    assert isinstance(events[-1], Finished) and events[-1].reason == "length"
    tokens = torch.tensor([events[-1].tokens])
    read = torch.full((1, tokens.shape[1] // M, config.num_neighbours, 2 * M), 5)
    best = model(tokens, read).logits[0]
    best[:, [tokenizer.pad_id, tokenizer.end_id]] = -torch.inf
    assert best[-10:-1].argmax(-1).tolist() == tokens[0, -9:].tolist()


# Runs


@pytest.fixture
def data_spec(tokenizer, tmp_path) -> Path:
    """Six documents of random tokens, two chunks of 64 each; each chunk's neighbours are two others."""
    chance = np.random.default_rng(0)
    documents = [(chance.integers(2, tokenizer.vocab_size, 128), np.arange(128)) for _ in range(6)]
    store = ChunkStore.from_tokens(documents, tokenizer, 64)
    store.save(tmp_path)
    np.save(tmp_path / "n.npy", np.stack([np.arange(12) ^ 1, chance.permutation(12)], axis=1))
    shard = {"chunks": "chunks.npy", "chunk2seq": "chunk2seq.npy", "seq2chunk": "seq2chunk.npy"}
    (tmp_path / "i.json").write_text(json.dumps([shard]))
    asking = {"shards": [{**shard, "neighbours": "n.npy"}], "neighbours": {"index_spec": "i.json"}}
    (tmp_path / "data.spec.json").write_text(json.dumps(asking))
    return tmp_path / "data.spec.json"


def checkpoint(run: str) -> TrainingState:
    return load(checkpoints(paths.runs_dir() / run)[-1])


def test_a_run_goes_on_to_the_bit_and_becomes_a_model(base_folder, data_spec, tokenizer, capsys):
    settings = TrainConfig(
        data_spec=str(data_spec), base=str(base_folder), start="copy", run="whole", steps=4, batch_size=2,
        max_len=128, warmup=1, save_every=2, threads=1,
    )  # fmt: skip
    list(train(settings))
    halves = dataclasses.replace(settings, run="halves")
    events = train(halves)
    while not isinstance(next(events), Saved):
        pass
    events.close()
    assert checkpoint("halves").step == 2
    list(train(halves))
    whole, resumed = checkpoint("whole").weights, checkpoint("halves").weights
    assert {*whole} == {*resumed} and not any(key.startswith("lm.") for key in whole)
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())

    assert main(["export", "whole", "fitted"]) == 0
    model, ids = load_model("fitted").model, torch.arange(1, 101)[None]
    assert torch.equal(model(ids).logits, load_base(base_folder).model(ids).logits)
    assert model.cca["3"].multi_head_attention.final_proj.weight.abs().max() > 0, "it has learned"
    assert main(["evaluate", "--model", "fitted", f"held={data_spec}", "--max-len", "128", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.partition("\n")[2])["probes"]["held"]
    assert found["tokens"] == 6 * 127 and found["readings"]["on"] != found["readings"]["off"]


def test_a_run_refuses_another_base(base_folder, data_spec, tokenizer):
    settings = TrainConfig(
        data_spec=str(data_spec),
        base=str(base_folder),
        start="zero",
        run="one",
        steps=1,
        max_len=128,
        threads=1,
    )
    list(train(settings))
    sized(tokenizer, seed=1).save_pretrained(base_folder)
    with pytest.raises(ConfigError, match="was started with base = "):
        next(train(settings))
    with pytest.raises(CheckpointError, match="give the one it was fitted to"):
        load_run("one")


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_more_tokens_than_the_base_has_positions_for_are_refused_in_a_sentence(family):
    model, ids = learned(family), torch.ones(1, 129, dtype=torch.int64)
    said = "The base 'tiny' knows positions of up to 128 tokens, got 129. Shorten the text, or write less."
    with torch.inference_mode():
        model(ids[:, :128])
        with pytest.raises(InputError) as error:
            model(ids)
        assert str(error.value) == said
        cache = model.new_cache()
        model(ids[:, :128], cache=cache)
        with pytest.raises(InputError, match="got 129"):
            model(ids[:, 128:], cache=cache)
