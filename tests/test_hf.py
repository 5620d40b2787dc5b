"""RETRO with Hugging Face's interface writes what a loop that computes everything anew writes."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import HashingEmbedder
from tiny_models import M, tiny_input, tiny_model
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    TextStreamer,
    pipeline,
)

from indexing.datastore import Datastore
from indexing.errors import CheckpointError, ConfigError, InputError
from indexing.neighbours import Neighbours
from retro_core.checkpoint import fingerprint, load_model, load_reference, save_model
from retro_core.config import FitConfig, GenerationConfig
from retro_core.generation import Finished, generate
from retro_core.hf import RetroCache, RetroForCausalLM, RetroHFConfig
from retro_core.model import Capture, Retro
from retro_core.retrofit import retrofit
from retro_core.verify import StubRetriever

ROOT = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "data" / "reference"
V, K, R = 23, 2, 7
TIED = {"tie_embeddings": True, "enc_share_decoder_embs": True, "enc_hidden_dim": 13}
NEW = 2 * M + 2


class Library(StubRetriever):
    """Answers every chunk with text of its own and notes how often it was asked."""

    def __init__(self, vocabulary: int = V):
        super().__init__(vocabulary, R)
        self.asked: list[list[int]] = []

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        assert chunks.ndim == 2 and chunks.dtype == np.int64
        self.asked += chunks.tolist()
        return super().retrieve(chunks, num_neighbours)

    def __deepcopy__(self, memo):
        raise AssertionError("a datastore is not to be copied")


@pytest.fixture(scope="module")
def retro() -> Retro:
    return tiny_model()


@pytest.fixture
def model(retro) -> RetroForCausalLM:
    return RetroForCausalLM.from_retro(retro)


def uncached(retro: Retro, ids: Tensor, library: StubRetriever | None, mask: Tensor | None = None) -> Tensor:
    """Logits (b, n, v), everything looked up and computed anew; chunks of padding have no neighbours."""
    b, chunks = len(ids), ids.shape[1] // M
    read, there = None, None
    if library is not None and chunks:
        shown = ids if mask is None else ids * mask
        asking = shown[:, : chunks * M].reshape(b, chunks, M)
        read = torch.tensor(library.retrieve(asking.reshape(-1, M).numpy(), K).tokens).reshape(
            b, chunks, K, -1
        )
        there = (read != 0) & (asking != 0).any(-1)[..., None, None]
    with torch.no_grad():
        return retro(ids, read, input_mask=mask, neighbour_mask=there).logits


def written(retro: Retro, ids: Tensor, library: StubRetriever | None, mask: Tensor | None = None) -> Tensor:
    """Greedy: ids (b, n) and NEW more tokens of each row, none of them padding."""
    for _ in range(NEW):
        logits = uncached(retro, ids, library, mask)[:, -1].clone()
        logits[:, 0] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        mask = None if mask is None else F.pad(mask, (0, 1), value=1)
    return ids


# ---------------------------------------------------------------------------------- one forward pass


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_a_forward_pass_is_retros(mode):
    retro = tiny_model(mode)
    model = RetroForCausalLM.from_retro(retro)
    ids, neighbours = tiny_input(11, batch=2)
    capture = Capture(attention=True, hidden_states=True)
    expected = retro(ids, neighbours, capture=capture)
    got = model(ids, neighbour_ids=neighbours, output_attentions=True, output_hidden_states=True)
    assert torch.equal(got.logits, expected.logits) and got.past_key_values is None and got.loss is None
    assert torch.equal(torch.stack(got.attentions), expected.attention.by_token())
    assert torch.equal(got.hidden_states[-1], expected.final_hidden)
    assert all(
        torch.equal(*pair) for pair in zip(got.hidden_states[:-1], expected.hidden_states, strict=False)
    )
    assert torch.equal(model(ids).logits, retro(ids).logits)
    # A product with fewer rows may add up in another order: on some processors the last bit differs.
    for kept, places in ((2, [-2, -1]), (torch.tensor([4, 2]), [4, 2])):
        some = model(ids, logits_to_keep=kept).logits
        torch.testing.assert_close(some, retro(ids).logits[:, places], rtol=0, atol=1e-13)
    assert torch.equal(model(ids, return_dict=False)[0], retro(ids).logits)
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]]).repeat_interleave(torch.tensor([1, 1, 9]), dim=1)
    assert torch.equal(model(ids, mask).logits, retro(ids, input_mask=mask).logits)


@torch.no_grad()
def test_a_retriever_is_asked_where_neighbours_are_not_given(retro, model):
    ids, neighbours = tiny_input(3 * M + 1, batch=2)
    library = Library()
    expected = uncached(retro, ids, Library())
    got = model(ids, retriever=library, num_neighbours=K)
    assert torch.equal(got.logits, expected) and got.neighbour_ids.shape == (2, 3, K, R)
    assert library.asked == ids[:, : 3 * M].reshape(-1, M).tolist()
    library = Library()
    mixed = torch.cat([neighbours[:, :2], got.neighbour_ids[:, 2:]], dim=1)
    half = model(ids, neighbour_ids=neighbours[:, :2], retriever=library, num_neighbours=K)
    assert torch.equal(half.logits, model(ids, neighbour_ids=mixed).logits)
    assert library.asked == ids[:, 2 * M : 3 * M].tolist()


@pytest.mark.parametrize("cuts", [[4], [1, 2, 3, 4, 7], [3, 6, 9], [10]])
@pytest.mark.parametrize("reads", [True, False])
@torch.no_grad()
def test_pieces_with_a_cache_are_the_whole(retro, model, cuts, reads):
    """Also the attention of each piece, and neighbours that come from a retriever or are handed in."""
    ids, neighbours = tiny_input(11, batch=2)
    library = Library() if reads else None
    expected = uncached(retro, ids, library)
    whole = model(ids, retriever=library, num_neighbours=K, output_attentions=True)
    for given in (False, True):
        cache, logits, attentions = None, [], []
        for start, end in zip([0, *cuts], [*cuts, 11], strict=True):
            arguments = {"neighbour_ids": whole.neighbour_ids[:, : end // M]} if given and reads else {}
            out = model(
                ids[:, start:end], past_key_values=cache, use_cache=True, output_attentions=True,
                retriever=None if given else library, num_neighbours=K, **arguments,
            )  # fmt: skip
            cache = out.past_key_values
            logits.append(out.logits)
            nothing = [torch.zeros(2, 3, end - start, K, R)] * 2
            attentions.append(torch.stack(out.attentions or nothing))
        assert cache.get_seq_length() == 11 and torch.allclose(torch.cat(logits, 1), expected, atol=1e-10)
        if reads:
            assert torch.equal(cache.neighbour_ids, whole.neighbour_ids)
            assert torch.allclose(torch.cat(attentions, 3), torch.stack(whole.attentions), atol=1e-10)


def test_labels_are_shifted_inside(retro, model):
    """Hugging Face hands in the tokens themselves; Retro's own labels are what follows each position."""
    ids, neighbours = tiny_input(11, batch=2)
    labels = ids.clone()
    labels[0, 5:8] = labels[1, 0] = -100
    out = model(ids, neighbour_ids=neighbours, labels=labels)
    by_hand = F.cross_entropy(out.logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1), ignore_index=-100)
    assert out.loss.item() == pytest.approx(by_hand.item(), abs=1e-6)
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    assert out.loss.item() == pytest.approx(retro(ids, neighbours, labels=shifted).loss.item(), abs=1e-6)
    assert out.loss.item() != pytest.approx(retro(ids, neighbours, labels=labels).loss.item(), abs=1e-2)
    out.loss.backward()
    assert model.base.encoder.enc_embs.weight.grad.abs().sum() > 0
    retro.zero_grad()
    parts = model(ids, neighbour_ids=neighbours, labels=labels, num_items_in_batch=40, logits_to_keep=2)
    count = (labels[:, 1:] != -100).sum()
    assert parts.loss.item() == pytest.approx((by_hand * count / 40).item(), abs=1e-6)
    assert parts.logits.shape == (2, 2, V)


# ---------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("count", [1, M - 1, M, 2 * M, 3 * M + 1])
@pytest.mark.parametrize("reads", [True, False])
def test_greedy_is_a_loop_that_computes_everything_anew(retro, model, count, reads):
    ids, _ = tiny_input(count, batch=2, seed=count)
    expected = written(retro, ids, Library() if reads else None)
    for use_cache in (True, False):
        library = Library()
        got = model.generate(
            ids,
            retriever=library if reads else None,
            num_neighbours=K,
            max_new_tokens=NEW,
            use_cache=use_cache,
        )
        assert torch.equal(got, expected)
        full = range((expected.shape[1] - 1) // M)  # the last token reaches nobody
        chunks = [row[u * M : (u + 1) * M] for row in expected.tolist() for u in full]
        assert sorted(library.asked) == sorted(chunks if reads else [])
    assert not reads or not torch.equal(expected, written(retro, ids, None)), "neighbours must matter here"


@pytest.mark.parametrize("count", [2, M, 2 * M + 1])
def test_greedy_is_our_own_generation(tokenizer, count):
    retro = tiny_model(num_embeddings=tokenizer.vocab_size)
    library = Library(tokenizer.vocab_size)
    text = ("qzjxk" * count)[:count]
    settings = GenerationConfig(max_new_tokens=NEW, temperature=0.0, num_neighbours=K)
    own = [e for e in generate(retro, tokenizer, text, library, settings) if isinstance(e, Finished)][0]
    model = RetroForCausalLM.from_retro(retro, tokenizer)
    start = np.concatenate([np.zeros(max(0, M - count), dtype=np.int64), tokenizer.encode(text)])
    got = model.generate(torch.tensor(start)[None], retriever=library, num_neighbours=K, max_new_tokens=NEW)[
        0
    ].tolist()
    ended = own.reason == "end of document"
    assert got == [*own.tokens, *([tokenizer.end_id] if ended else [])]


@pytest.mark.parametrize("use_cache", [True, False])
def test_rows_of_a_padded_batch_are_as_alone(retro, model, use_cache):
    """Row 0 begins in its second chunk, row 1 within its first, row 2 at once."""
    pads, n = [M + 1, 1, 0], 2 * M + 1
    ids, _ = tiny_input(n, batch=3)
    mask = torch.stack([(torch.arange(n) >= pad).long() for pad in pads])
    ids = ids * mask
    library, settings = Library(), {"num_neighbours": K, "max_new_tokens": NEW, "use_cache": use_cache}
    together = model.generate(ids, attention_mask=mask, retriever=library, **settings)
    for row, pad in enumerate(pads):
        one, its = ids[row : row + 1], mask[row : row + 1]
        assert torch.equal(together[row], written(retro, one, Library(), its)[0])
        assert torch.equal(
            together[row], model.generate(one, attention_mask=its, retriever=Library(), **settings)[0]
        )
        off = model.generate(ids[row : row + 1, pad:], max_new_tokens=NEW)
        assert torch.equal(off[0], model.generate(one, attention_mask=its, max_new_tokens=NEW)[0, pad:])
    from_ids = model.generate(ids, retriever=Library(), **settings)
    assert torch.equal(together, from_ids), "padding ids say the same"
    hidden = ids + 5 * (1 - mask)  # other tokens where the mask hides them
    new = model.generate(hidden, attention_mask=mask, retriever=Library(), **settings)[:, n:]
    assert torch.equal(new, together[:, n:])


@pytest.mark.parametrize("reads", [True, False])
def test_a_fitted_model_generates_too(reads, tmp_path, tokenizer):
    """Off it writes what its base writes through Hugging Face; On, what a loop without a cache writes."""
    sizes = {"hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 5}
    torch.manual_seed(4)
    base = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=V, bos_token_id=None, eos_token_id=None)).eval()
    fitted = retrofit(base, 0, FitConfig(chunk_size=M, cca_layers=[1], start="zero", encoder_layers=1))
    with torch.no_grad():
        for parameter in fitted.new_parameters().values():
            parameter.add_(0.5 * torch.randn_like(parameter))
    model = RetroForCausalLM.from_retro(fitted)
    ids, _ = tiny_input(M + 1, batch=2)
    library = Library() if reads else None
    expected = written(fitted, ids, library)
    settings = {"retriever": library, "num_neighbours": K, "max_new_tokens": NEW}
    assert torch.equal(model.generate(ids, **settings), expected)
    assert torch.equal(
        model.generate(ids, **settings, num_beams=2),
        model.generate(ids, **settings, num_beams=2, use_cache=False),
    )
    assert torch.equal(
        model.generate(ids[:1], **settings, prompt_lookup_num_tokens=4, eos_token_id=V), expected[:1]
    )
    if not reads:
        assert torch.equal(
            base.generate(ids, max_new_tokens=NEW, suppress_tokens=[0], do_sample=False), expected
        )
    assert model.get_input_embeddings() is base.get_input_embeddings()
    with pytest.raises(InputError, match="saved without its base.*save_model"):
        model.save_pretrained(tmp_path / "fitted")
    with pytest.raises(InputError, match="is its base's, which stays as it is. Resize the base, then fit"):
        model.resize_token_embeddings(V + 1)
    (tmp_path / "config.json").write_text(json.dumps(fitted.description()))
    with pytest.raises(ConfigError, match="is of a fitted model, which needs its base. Open it with"):
        RetroForCausalLM.from_pretrained(tmp_path)


def beams_by_hand(
    retro: Retro, ids: list[int], library: StubRetriever | None, width: int, steps: int
) -> list[tuple[float, list[int]]]:
    beams = [(0.0, ids)]
    for _ in range(steps):
        longer = []
        for score, tokens in beams:
            log_p = uncached(retro, torch.tensor([tokens]), library)[0, -1].float().log_softmax(-1).tolist()
            longer += [(score + log_p[token], [*tokens, token]) for token in range(1, V)]
        beams = sorted(longer, reverse=True)[:width]
    return beams


@pytest.mark.parametrize("reads", [True, False])
def test_beams_are_a_search_by_hand(retro, model, reads):
    ids, _ = tiny_input(M + 1, batch=2, seed=5)
    library = Library() if reads else None
    for use_cache in (True, False):
        out = model.generate(
            ids, retriever=library, num_neighbours=K, num_beams=3, num_return_sequences=3, max_new_tokens=NEW,
            use_cache=use_cache, length_penalty=0.0, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        for row in range(2):
            expected = beams_by_hand(retro, ids[row].tolist(), library, 3, NEW)
            mine = slice(3 * row, 3 * row + 3)
            assert out.sequences[mine].tolist() == [tokens for _, tokens in expected]
            assert out.sequences_scores[mine].tolist() == pytest.approx([s for s, _ in expected], abs=1e-4)
    greedy = model.generate(ids, retriever=library, num_neighbours=K, max_new_tokens=NEW)
    one = model.generate(ids, retriever=library, num_neighbours=K, max_new_tokens=NEW, num_beams=1)
    assert torch.equal(greedy, one) and (not reads or not torch.equal(greedy, out.sequences[::3]))


def test_sampling(model):
    ids, _ = tiny_input(M, batch=2)

    def drawn(seed: int, **settings) -> Tensor:
        torch.manual_seed(seed)
        settings = {"do_sample": True, "top_k": 0, **settings}
        return model.generate(ids, retriever=Library(), num_neighbours=K, max_new_tokens=NEW, **settings)

    hot = {"temperature": 3.0}
    assert torch.equal(drawn(1, **hot), drawn(1, **hot)) and not torch.equal(drawn(1, **hot), drawn(2, **hot))
    assert torch.equal(drawn(3, **hot), drawn(3, use_cache=False, **hot))
    greedy = model.generate(ids, retriever=Library(), num_neighbours=K, max_new_tokens=NEW)
    for alone in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert torch.equal(drawn(4, **alone), greedy), alone
    many = drawn(5, num_return_sequences=40, **hot)
    assert many.shape == (80, M + NEW) and len(set(map(tuple, many.tolist()))) > 40 and (many != 0).all()


def test_processors_and_stops(retro, model, tokenizer):
    ids, _ = tiny_input(2 * M, seed=3)
    plain = written(retro, ids, Library())[0, 2 * M :].tolist()

    def after(**settings) -> list[int]:
        settings = {"retriever": Library(), "num_neighbours": K, "max_new_tokens": NEW, **settings}
        return model.generate(ids, **settings)[0, 2 * M :].tolist()

    assert after() == plain
    stop = plain[M]
    assert after(eos_token_id=stop) == plain[: plain.index(stop) + 1]
    no_repeat = after(no_repeat_ngram_size=1)
    assert len(set(no_repeat)) == NEW and not set(no_repeat) & set(ids[0].tolist())
    assert after(bad_words_ids=[[plain[0]]])[0] != plain[0]
    assert after(repetition_penalty=9.0) != plain


def test_stop_strings_and_streaming(tokenizer, tmp_path, capsys):
    tokens, folder = folder_of(tmp_path, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokens("The river", return_tensors="pt")
    torch.manual_seed(0)
    free = {"max_new_tokens": 40, "do_sample": True, "suppress_tokens": [0, 1]}
    plain = model.generate(**prompt, **free)
    text = tokens.decode(plain[0])
    capsys.readouterr()
    torch.manual_seed(0)
    model.generate(**prompt, **free, streamer=TextStreamer(tokens))
    assert capsys.readouterr().out.rstrip("\n") == text.rstrip("\n")
    stop = tokens.decode(plain[0, prompt["input_ids"].shape[1] + 5 :])[:3]
    torch.manual_seed(0)
    cut = model.generate(**prompt, **free, stop_strings=stop, tokenizer=tokens)
    assert cut.shape[1] < plain.shape[1] and torch.equal(cut, plain[:, : cut.shape[1]])
    assert stop in tokens.decode(cut[0, prompt["input_ids"].shape[1] :])


def test_assisted_generation_is_greedy(retro, model):
    """The assistant is wrong most of the time, and right when it is the model itself: tokens are thrown away
    over chunk borders, and whole chunks are accepted."""
    ids, _ = tiny_input(M + 2, seed=7)
    expected = written(retro, ids, Library())
    other = RetroForCausalLM.from_retro(tiny_model(seed=1))
    same = RetroForCausalLM.from_retro(copy.deepcopy(retro))
    for assistant in (
        {"assistant_model": other},
        {"assistant_model": same},
        {"prompt_lookup_num_tokens": 4, "eos_token_id": V},
    ):
        for candidates in (1, 2 * M + 1):
            other.generation_config.num_assistant_tokens = candidates
            same.generation_config.num_assistant_tokens = candidates
            library = Library()
            got = model.generate(ids, retriever=library, num_neighbours=K, max_new_tokens=NEW, **assistant)
            assert torch.equal(got, expected), assistant
            assert len(library.asked) == len(set(map(tuple, library.asked))), "each chunk once"
    off = model.generate(ids, max_new_tokens=NEW, assistant_model=other)
    assert torch.equal(off, written(retro, ids, None))


def test_neighbours_of_the_prompt_may_be_given(retro, model):
    ids, neighbours = tiny_input(2 * M + 1, batch=2)
    for use_cache in (True, False):
        more = torch.cat([neighbours, neighbours[:, :1]], dim=1)  # of the incomplete chunk: reach nothing
        got = model.generate(ids, neighbour_ids=more, max_new_tokens=NEW, use_cache=use_cache)
        tokens = ids
        for _ in range(NEW):
            none = neighbours.new_zeros(2, tokens.shape[1] // M - 2, K, R)
            with torch.no_grad():
                logits = retro(tokens, torch.cat([neighbours, none], dim=1)).logits[:, -1]
            logits[:, 0] = -torch.inf
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
        assert torch.equal(got, tokens)
    library = Library()
    model.generate(ids, neighbour_ids=neighbours, retriever=library, num_neighbours=K, max_new_tokens=NEW)
    assert len(library.asked) == 2 * ((2 * M + NEW) // M - 2), "only what was not given is looked up"


def test_going_on_from_a_cache(retro, model):
    """As in chats: the next call gets the whole text and the cache of the last one, or prefills in pieces."""
    ids, _ = tiny_input(M + 1)
    settings = {"retriever": Library(), "num_neighbours": K, "return_dict_in_generate": True}
    expected = written(retro, ids, Library())
    first = model.generate(ids, max_new_tokens=M, **settings)
    second = model.generate(
        first.sequences, past_key_values=first.past_key_values, max_new_tokens=NEW - M, **settings
    )
    assert torch.equal(second.sequences, expected)
    with torch.no_grad():
        prompt = model(ids, use_cache=True, retriever=Library(), num_neighbours=K).past_key_values
    for _ in range(2):
        branch = copy.deepcopy(prompt)
        again = model.generate(
            expected[:, : M + 2], past_key_values=branch, max_new_tokens=NEW - 1, **settings
        )
        assert torch.equal(again.sequences, expected) and prompt.get_seq_length() == M + 1
        assert (
            branch.get_seq_length() == prompt.decoding.copy().length + NEW - 1
            and branch.ids is not prompt.ids
        )
    pieces = model.generate(expected[:, :-2], prefill_chunk_size=2, max_new_tokens=2, **settings)
    assert torch.equal(pieces.sequences, expected)
    attentions = model.generate(ids, max_new_tokens=NEW, output_attentions=True, **settings).attentions
    assert attentions[0][0].shape == (1, 3, M + 1, K, R) and attentions[-1][1].shape == (1, 3, 1, K, R)
    assert torch.allclose(attentions[-1][1].sum((-1, -2)), torch.ones(1, 3, 1, dtype=torch.float64))


# ------------------------------------------------------------------------------------ files and sizes


def folder_of(tmp_path: Path, tokenizer, **changes):
    """One of our folders, and its tokenizer as Hugging Face reads it."""
    model = tiny_model(num_embeddings=tokenizer.vocab_size, **changes).float()
    save_model(tmp_path / "ours", model, tokenizer, max_file_bytes=9_000)
    return AutoTokenizer.from_pretrained(tmp_path / "ours"), tmp_path / "ours"


@pytest.mark.parametrize("changes", [{}, TIED, {"dec_cca_layers": [], "tie_embeddings": True}])
@pytest.mark.parametrize("shard", ["1GB", "9KB"])
def test_folders_are_interchangeable(tmp_path, tokenizer, changes, shard):
    tokens, ours = folder_of(tmp_path, tokenizer, **changes)
    loaded = load_model(ours)
    opened = AutoModelForCausalLM.from_pretrained(ours)
    assert isinstance(opened, RetroForCausalLM) and not opened.training and not opened.retro.training
    assert fingerprint(opened.retro) == loaded.fingerprint and opened.config.to_retro() == loaded.config
    assert opened.generation_config.eos_token_id == tokenizer.end_id
    own = {"config": opened.config, "state_dict": opened.state_dict()}
    assert fingerprint(RetroForCausalLM.from_pretrained(None, **own).retro) == loaded.fingerprint

    theirs = tmp_path / "theirs"
    opened.generation_config.max_new_tokens = 17
    opened.save_pretrained(theirs, max_shard_size=shard)
    tokens.save_pretrained(theirs)
    assert (theirs / "model.safetensors").is_file() == (shard == "1GB")
    again = AutoModelForCausalLM.from_pretrained(theirs)
    assert (
        again.generation_config.max_new_tokens == 17
        and again.generation_config.eos_token_id == tokenizer.end_id
    )
    back = load_model(theirs)
    assert fingerprint(again.retro) == loaded.fingerprint == back.fingerprint
    assert back.config == loaded.config and back.tokenizer.fingerprint == loaded.tokenizer.fingerprint
    if changes.get("tie_embeddings"):
        assert again.lm_head.weight is again.base.dec_embs.weight
    if changes.get("enc_share_decoder_embs"):
        assert again.base.encoder.enc_embs.weight is again.base.dec_embs.weight


def test_the_tokenizer_gives_our_ids(tmp_path, tokenizer):
    tokens, _ = folder_of(tmp_path, tokenizer)
    for text in ("Zürich, <pad> and </s> are text; 東京 too", " x", "a\n\nb"):
        assert tokens(text)["input_ids"] == tokenizer.encode(text).tolist()
        assert tokens.decode([0, *tokenizer.encode(text), 1], skip_special_tokens=True) == text
    batch = tokens(["The river", "x"], padding=True, pad_to_multiple_of=4, return_tensors="pt")
    assert batch["input_ids"].shape[1] % 4 == 0 and batch["attention_mask"][1].tolist()[0] == 0
    assert batch["input_ids"][1, 0] == tokenizer.pad_id


def test_saving_over_one_of_our_folders(tmp_path, tokenizer):
    _, folder = folder_of(tmp_path, tokenizer)
    model = RetroForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    model.save_pretrained(folder)
    assert load_model(folder).fingerprint == fingerprint(model.retro)


def test_reference_files(tmp_path):
    """A config without `mode` is the reference's, also through Hugging Face's own reader."""
    files = FIXTURES / "tiny"
    retro = load_reference(files / "model.safetensors", files / "config.json")
    ids, neighbours = tiny_input(11)
    model = RetroForCausalLM.from_retro(retro)
    assert model.config.mode == "reference"
    config = RetroHFConfig.from_pretrained(files / "config.json")
    assert config.to_retro() == retro.config and config.vocab_size == retro.config.num_embeddings
    opened = RetroForCausalLM.from_pretrained(files)
    m = retro.config.chunk_size
    neighbours = torch.randint(1, 20, (1, 11 // m, K, 2 * m))
    assert torch.equal(opened(ids, neighbour_ids=neighbours).logits, retro(ids, neighbours).logits)
    model.save_pretrained(tmp_path / "saved")
    assert AutoConfig.from_pretrained(tmp_path / "saved").mode == "reference"


@pytest.mark.parametrize("changes", [{}, TIED])
def test_another_vocabulary(changes):
    retro = tiny_model(**changes).float()
    model = RetroForCausalLM.from_retro(retro)
    ids, neighbours = tiny_input(11)
    before = model(ids, neighbour_ids=neighbours).logits
    assert model.resize_token_embeddings(V + 4) is model.get_input_embeddings()
    after = model(ids, neighbour_ids=neighbours).logits
    assert after.shape[-1] == V + 4 == model.config.vocab_size == model.retro.config.num_embeddings
    assert torch.allclose(after[..., :V], before, atol=1e-5)
    new = torch.full_like(ids, V + 3)
    assert model(new, neighbour_ids=torch.full_like(neighbours, V + 3)).logits.shape == after.shape
    assert (model.lm_head.weight is model.base.dec_embs.weight) == bool(changes)
    assert (model.base.encoder.enc_embs.weight is model.base.dec_embs.weight) == bool(changes)
    assert model.get_output_embeddings() is model.retro.lm_head
    model.resize_token_embeddings(V)
    assert torch.allclose(model(ids, neighbour_ids=neighbours).logits, before, atol=1e-5)


def test_new_models_begin_as_retro_does():
    config = RetroHFConfig(**RetroForCausalLM.from_retro(tiny_model(**TIED)).config.to_retro().to_dict())
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    torch.manual_seed(3)
    assert fingerprint(model.retro) == fingerprint(Retro(config.to_retro()))
    assert model.training and model.retro.training and not model.eval().retro.training
    assert fingerprint(copy.deepcopy(model).retro) == fingerprint(model.retro)
    twin = copy.deepcopy(model)
    assert twin.retro.base is twin.base is not model.base


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tmp_path, tokenizer, dtype):
    """On a processor it is slow, but it is the same function within the type's precision."""
    _, folder = folder_of(tmp_path, tokenizer)
    full = RetroForCausalLM.from_pretrained(folder)
    half = RetroForCausalLM.from_pretrained(folder, dtype=dtype)
    assert full.dtype == torch.float32 and half.dtype == dtype
    assert RetroForCausalLM.from_pretrained(folder, attn_implementation="sdpa").dtype == torch.float32
    ids, neighbours = tiny_input(11)
    with torch.no_grad():
        exact, rough = (m(ids, neighbour_ids=neighbours).logits.float() for m in (full, half))
    assert (exact - rough).std() < (0.2 if dtype == torch.bfloat16 else 0.02) * exact.std()
    with torch.no_grad():
        assert half(ids, labels=ids).loss.dtype == torch.float32
    half.generate(ids, retriever=Library(), num_neighbours=K, max_new_tokens=NEW)
    half.save_pretrained(tmp_path / "half")
    assert RetroForCausalLM.from_pretrained(tmp_path / "half").dtype == dtype
    save_model(tmp_path / "small", full.retro, tokenizer, dtype=dtype)
    small = RetroForCausalLM.from_pretrained(tmp_path / "small")
    assert small.dtype == torch.float32 == load_model(tmp_path / "small").model.lm_head.weight.dtype


# ------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_is_said_in_sentences(model, tmp_path, tokenizer):
    ids, neighbours = tiny_input(2 * M + 1)
    with pytest.raises(InputError, match="there is no 'static' one. Leave cache_implementation out"):
        model.generate(ids, cache_implementation="static", max_new_tokens=1)
    with pytest.raises(InputError, match="there is no 'paged' one"):
        model.generate(ids, cache_implementation="paged", max_new_tokens=1)
    with pytest.raises(InputError, match="Continuous batching needs a paged cache"):
        model.generate_batch([[1, 2]])
    with pytest.raises(InputError, match="as a Datastore does, got a str. Open the datastore first"):
        model.generate(ids, retriever="factbook", max_new_tokens=1)
    with pytest.raises(InputError, match="gives no hidden_states. Pass use_cache=False"):
        model.generate(ids, max_new_tokens=1, output_hidden_states=True, return_dict_in_generate=True)
    with pytest.raises(InputError, match="7 tokens have 2 complete chunks of 3, got neighbours for 4"):
        model.generate(ids, neighbour_ids=neighbours.repeat(1, 2, 1, 1), max_new_tokens=1)
    with pytest.raises(InputError, match="must be a RetroCache, got a DynamicCache"):
        model.generate(ids, past_key_values=DynamicCache(), max_new_tokens=1)
    with pytest.raises(InputError, match="assistant_early_exit does not work. Give an assistant_model"):
        model.generate(ids, assistant_early_exit=1, max_new_tokens=2)
    with pytest.raises(InputError, match="7 tokens have 2 complete chunks of 3, got neighbours for 1"):
        model(ids, neighbour_ids=neighbours[:, :1])
    with pytest.raises(
        InputError, match=r"attention_mask must be \(b, n\), 1 where there is a token, got shape"
    ):
        model(ids, attention_mask=torch.ones(1, M))
    with pytest.raises(InputError, match="gradients are being recorded"):
        model(ids, use_cache=True)
    with pytest.raises(InputError, match="first chunks have 2 neighbours of 7 tokens, later ones 3 of 7"):
        model(ids, neighbour_ids=neighbours[:, :1], retriever=Library(), num_neighbours=3)
    with pytest.raises(ValueError, match="not used by the model.*retreiver"):
        model.generate(ids, retreiver=Library(), max_new_tokens=1)
    with pytest.raises(ValueError, match="does not support"):
        model.gradient_checkpointing_enable()
    with pytest.raises(ConfigError, match="must be a multiple of"):
        RetroHFConfig(dec_qkv_dim=10, dec_num_heads=3)
    _, folder = folder_of(tmp_path, tokenizer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dec_num_layers": 5}))
    with pytest.raises(
        CheckpointError, match="lacks base.decoder.4.0.ln.scale, .* and 5 more, which a model"
    ):
        RetroForCausalLM.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**config, "dec_cca_layers": [1]}))
    with pytest.raises(
        CheckpointError, match=r"has base\.decoder\.3\.1\.kv_ln\.scale, .* with this config has not"
    ):
        RetroForCausalLM.from_pretrained(folder)


def test_caches_forget_and_repeat(model):
    ids, _ = tiny_input(2 * M + 1, batch=2)
    with torch.no_grad():
        cache = model(ids, use_cache=True, retriever=Library(), num_neighbours=K).past_key_values
    assert isinstance(cache, RetroCache) and len(cache) == model.config.dec_num_layers
    cache.batch_repeat_interleave(2)
    assert (
        cache.ids.tolist() == ids.repeat_interleave(2, dim=0).tolist() and cache.neighbour_ids.shape[0] == 4
    )
    cache.batch_select_indices(torch.tensor([3, 0]))
    assert cache.ids.tolist() == ids.flip(0).tolist()
    cache.crop(0)
    assert cache.get_seq_length() == 2 * M + 1
    cache.crop(-2)
    assert cache.get_seq_length() == 2 * M - 1 == cache.ids.shape[1] and cache.neighbour_ids.shape[1] == 1
    cache.crop(M)  # how older 5.x say it: keep so many
    assert cache.get_seq_length() == M
    cache.reset()
    assert cache.get_seq_length() == 0


def test_nobody_pays_for_transformers_who_does_not_use_it():
    modules = "retro_core.model, retro_core.generation, retro_core.checkpoint, retro_core.cache"
    code = f"import retro_core, {modules}, sys; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_pipeline(tmp_path, tokenizer):
    tokens, folder = folder_of(tmp_path, tokenizer)
    write = pipeline("text-generation", model=RetroForCausalLM.from_pretrained(folder), tokenizer=tokens)
    text = "The river Nile"
    reading = {"retriever": Library(tokenizer.vocab_size), "num_neighbours": K}
    (answer,) = write(text, max_new_tokens=NEW, do_sample=False, **reading)
    prompt = tokens(text, return_tensors="pt")
    expected = write.model.generate(**prompt, max_new_tokens=NEW, do_sample=False, **reading)
    assert answer["generated_text"] == tokens.decode(expected[0], skip_special_tokens=True)
    assert len(reading["retriever"].asked) > 2


def test_the_page_about_it_runs_as_printed(monkeypatch):
    """With another embedder, which makes other neighbours of the same library, at once."""
    page = (ROOT / "docs" / "hugging-face.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Datastore, "embedder", HashingEmbedder(dim=384))
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/hugging-face.md", "exec"), names)
    start = names["prompt"]["input_ids"].shape[1]
    assert len(blocks) == 5 and start == 64 and 0 < names["written"].shape[1] - start <= 80
    for kind in ("beams", "assisted", "sampled"):
        assert 0 < names[kind].shape[1] - start <= 24
    assert names["on"] != names["off"]
    assert fingerprint(names["loaded"].model) == fingerprint(names["model"].retro)
    assert names["loaded"].tokenizer.fingerprint == names["library"].manifest["tokenizer"]["fingerprint"]


@pytest.mark.slow
def test_a_forward_pass_compiles_whole(retro):
    model = RetroForCausalLM.from_retro(retro)
    ids, neighbours = tiny_input(11, batch=2)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        expected = model(ids, neighbour_ids=neighbours).logits
        assert torch.allclose(compiled(ids, neighbour_ids=neighbours).logits, expected, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_as_on_the_processor(retro, model):
    ids, _ = tiny_input(M + 1, batch=2)
    there = RetroForCausalLM.from_retro(copy.deepcopy(retro).cuda())
    for settings in ({}, {"num_beams": 3}, {"use_cache": False}):
        settings = {"retriever": Library(), "num_neighbours": K, "max_new_tokens": NEW, **settings}
        assert torch.equal(there.generate(ids.cuda(), **settings).cpu(), model.generate(ids, **settings))
    half = RetroForCausalLM.from_retro(copy.deepcopy(retro).cuda().bfloat16())
    settings = {"retriever": Library(), "num_neighbours": K, "max_new_tokens": NEW}
    assert half.generate(ids.cuda(), **settings).shape == (2, M + 1 + NEW)
    assisted = {"assistant_model": half, **settings}
    assert torch.equal(there.generate(ids[:1].cuda(), **assisted).cpu(), model.generate(ids[:1], **settings))
