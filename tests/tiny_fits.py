"""A tiny language model as a base in RETRO_HOME, and a model that is RETRO-fitted to it."""

import torch
from conftest import SENTENCES

from indexing import paths
from indexing.tokenizer import Tokenizer, train_byte_level_bpe
from retro_core.checkpoint import save_model
from retro_core.config import FitConfig
from retro_core.retrofit import retrofit

CHUNK = 16  # tokens, unlike the bundled model's 64


def tiny_base(name: str = "tiny-base", seed: int = 0) -> Tokenizer:
    """A Llama of 4 layers with random weights, as if it had been fetched; its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_byte_level_bpe(SENTENCES * 3, vocab_size=400, name=name)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 40, "intermediate_size": 28, "num_hidden_layers": 4, "num_attention_heads": 5}
    base = LlamaForCausalLM(
        LlamaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=2048, **sizes)
    )
    folder = paths.bases_dir() / name
    base.save_pretrained(folder)
    tokenizer.save(folder)
    return tokenizer


def tiny_fit(name: str = "tiny-fit", base: str = "tiny-base") -> None:
    """A model fitted to that base, whose CCA writes something."""
    from retro_core.bases import load_base

    opened = load_base(base)
    fit = FitConfig(chunk_size=CHUNK, cca_layers=[1, 3], start="zero")
    model = retrofit(opened.model, opened.tokenizer.pad_id, fit, None, base)
    with torch.no_grad():
        for parameter in model.new_parameters().values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_model(paths.models_dir() / name, model, opened.tokenizer)
