"""RETRO as a Hugging Face model: `RetroForCausalLM` is a `PreTrainedModel` with `generate`.

Importing this module tells transformers' Auto classes about it, so that they open our model folders, and what
`save_pretrained` writes is such a folder: names of tensors and settings are the same.

Retrieval is an argument of `forward` and `generate`: a `retriever` (a Datastore, say) is asked for each chunk
as soon as the chunk is complete, and its neighbours are read from the chunk's last token on. Without one, the
model is Retro[Off].

Chunks are counted from the start of the array, padding included; a chunk is looked up by its real tokens,
and one of padding alone has no neighbours. So a prompt that shall be looked up before its first new token is
to be padded on the left to whole chunks (`pad_to_multiple_of=model.config.chunk_size`), which is what our own
`generation.generate` does with prompts shorter than a chunk.
"""

import copy
import inspect
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from einops import rearrange
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from indexing.errors import CheckpointError, ConfigError, InputError
from indexing.neighbours import Retriever, retrieve_each
from indexing.retrievers import Cached
from indexing.tokenizer import TOKENIZER_FILE, Tokenizer
from retro_core.checkpoint import SUMS_FILE
from retro_core.config import MODEL_TYPE, REFERENCE, RetroConfig, bounds
from retro_core.config import GenerationConfig as RetroGenerationConfig
from retro_core.decoding import for_decoding
from retro_core.model import EMBEDDING_STD, Capture, CcaWeights, Retro
from retro_core.retrofit import FittedRetro

Model = Retro | FittedRetro
_SETTINGS = tuple(spec.name for spec in fields(RetroConfig))
_NUM_NEIGHBOURS = bounds(RetroGenerationConfig, "num_neighbours")[2]
_OF_NEIGHBOURS = ("retriever", "num_neighbours", "neighbour_ids", "neighbour_mask")


class RetroHFConfig(transformers.PreTrainedConfig):
    """A RetroConfig as Hugging Face wants it: the same fields, and its own names (`vocab_size`,
    `hidden_size`, `pad_token_id`, …) for some of them. A config.json without `mode` was written for the
    reference.

    Weights are computed with in float32 unless config.json or the caller names another `dtype`: our folders
    store them in float16 to be small, which most processors compute slowly.

    Raises ConfigError as RetroConfig does.
    """

    model_type = MODEL_TYPE
    attribute_map = {
        "vocab_size": "num_embeddings",
        "pad_token_id": "pad_token_idx",
        "tie_word_embeddings": "tie_embeddings",
        "hidden_size": "dec_hidden_dim",
        "intermediate_size": "dec_ffn_dim",
        "num_hidden_layers": "dec_num_layers",
        "num_attention_heads": "dec_num_heads",
    }
    keys_to_ignore_at_inference = ["past_key_values", "neighbour_ids"]

    def __init__(self, **settings: Any):
        named = {self.attribute_map.get(name, name): name for name in settings}
        own = {name: settings.pop(given) for name, given in named.items() if name in _SETTINGS}
        # To RETRO this setting means nothing, to Hugging Face it means another kind of model.
        own["is_encoder_decoder"] = False
        for name, value in RetroConfig(**own).to_dict().items():
            setattr(self, name, value)
        settings.setdefault("dtype", "float32")
        super().__init__(**settings)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        if {"base", "fit", "retro"} <= config_dict.keys():
            raise ConfigError(
                "This config.json is of a fitted model, which needs its base. Open it with "
                "retro_core.checkpoint.load_model, and give RetroForCausalLM.from_retro what that returns."
            )
        return super().from_dict({"mode": REFERENCE, **config_dict}, **kwargs)

    def to_retro(self) -> RetroConfig:
        return RetroConfig(**{name: getattr(self, name) for name in _SETTINGS})


# ------------------------------------------------------------------------------------------- memory


class RetroCache(Cache):
    """`past_key_values` of a RETRO model: its DecodingCache, and what looking up the next chunk needs.

    retro           the model, or the twin of it that is faster at single tokens
    ids             (b, n) the tokens so far, padding where the attention mask hides one; None at first
    neighbour_ids   (b, l, k, r) of all complete chunks; None if nothing was looked up so far
    neighbour_mask  (b, l, k, r) bool
    """

    def __init__(self, retro: Model):
        super().__init__(layers=[])  # Hugging Face's per-layer caches, of which this has none
        self.retro = for_decoding(retro)
        self.decoding = retro.new_cache()
        self.ids: Tensor | None = None
        self.neighbour_ids: Tensor | None = None
        self.neighbour_mask: Tensor | None = None

    def __deepcopy__(self, memo: dict) -> "RetroCache":
        """A cache of its own: to go on from one text in several ways."""
        twin = copy.copy(self)
        twin.decoding = self.decoding.copy()
        return twin

    def with_new(self, ids: Tensor) -> Tensor:
        """Take in new tokens (b, n); returns all so far."""
        self.ids = ids if self.ids is None else torch.cat([self.ids, ids], dim=1)
        return self.ids

    def with_neighbours(
        self, parts: list[tuple[Tensor, Tensor]], complete: int, pad: int
    ) -> tuple[Tensor, Tensor]:
        """Take in neighbours of the last of the `complete` chunks; returns those of all. Chunks before them
        that nothing was looked up for have none."""
        if self.neighbour_ids is not None:
            parts = [(self.neighbour_ids, self.neighbour_mask), *parts]
        missing = complete - sum(tokens.shape[1] for tokens, _ in parts)
        if missing > 0:
            first = int(self.neighbour_ids is not None)
            parts = [*parts[:first], _no_neighbours(parts[0][0], missing, pad), *parts[first:]]
        self.neighbour_ids, self.neighbour_mask = (part[:, :complete] for part in _joined(parts, pad))
        return self.neighbour_ids, self.neighbour_mask

    def __len__(self) -> int:
        return self.retro.config.dec_num_layers

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.decoding.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1  # none

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens: -j forgets j, as transformers asks today; older 5.x give the positive
        number of tokens to keep."""
        length = self.decoding.length
        if tokens_to_remove:
            length = tokens_to_remove if tokens_to_remove > 0 else max(0, length + tokens_to_remove)
        self.decoding.crop(length)
        if self.ids is not None:
            self.ids = self.ids[:, :length]
        if self.neighbour_ids is not None:
            chunks = length // self.decoding.chunk_size
            self.neighbour_ids = self.neighbour_ids[:, :chunks]
            self.neighbour_mask = self.neighbour_mask[:, :chunks]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        if self.ids is None:
            return
        rows = beam_idx.to(self.ids.device)
        self.decoding.select(rows)
        self.ids = self.ids[rows]
        if self.neighbour_ids is not None:
            self.neighbour_ids, self.neighbour_mask = self.neighbour_ids[rows], self.neighbour_mask[rows]

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.ids is not None:
            self.reorder_cache(torch.arange(len(self.ids)).repeat_interleave(repeats))

    def reset(self) -> None:
        self.crop(-self.decoding.length)


class _Remembering(Cached):
    """For one call of `generate`: beams share their past, candidates of assisted generation are thrown away
    and written again, and without a cache every token begins anew."""

    def __deepcopy__(self, memo: dict) -> "_Remembering":
        return self  # transformers copies the arguments for an assistant; a datastore is not to be copied


# -------------------------------------------------------------------------------------------- model


@dataclass
class RetroCausalLMOutput(CausalLMOutputWithPast):
    """loss () · logits (b, n, v) · past_key_values, a RetroCache if one was used · and, when asked for:

    hidden_states  the decoder's residual stream after the embeddings and each layer, (b, n, d) each, the
                   last one after the final norm
    attentions     what was read of the neighbours: for each layer with chunked cross-attention
                   (b, h, n, k, r), a row is 0 where there was nothing to read
    neighbour_ids  (b, l, k, r) neighbours of the complete chunks, also those that a retriever found
    """

    neighbour_ids: Tensor | None = None


class RetroForCausalLM(transformers.PreTrainedModel, transformers.GenerationMixin):
    """RETRO with Hugging Face's interface.

        model = RetroForCausalLM.from_pretrained(folder)         # ours, or what save_pretrained wrote
        model = RetroForCausalLM.from_retro(loaded.model, loaded.tokenizer)  # from load_model; not copied
        model.generate(input_ids, attention_mask=…, retriever=datastore, num_neighbours=2, max_new_tokens=64)

    `retro` is the model inside. Its tensors have the same names here, so weight files are interchangeable.
    A fitted model (`retro_core.retrofit`) goes in with `from_retro` too, and stays one of ours on disk.
    """

    config_class = RetroHFConfig
    base_model_prefix = "base"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _no_split_modules = ["RetroBase"]  # layers are not cut apart over devices
    retro: Model

    def __init__(self, config: RetroHFConfig, retro: Model | None = None):
        super().__init__(config)
        retro = Retro(config.to_retro()) if retro is None else retro
        if isinstance(retro, Retro):
            self.base, self.lm_head = retro.base, retro.lm_head
            self.__dict__["retro"] = retro  # not as a child: its weights have their names already
        else:
            self.retro = retro
        # Retro has set its initial values; only what is new (added tokens) is for `_init_weights`.
        for module in self.modules():
            module._is_hf_initialized = True
        self.generation_config = generation_settings(config.pad_token_idx, None)
        self._tied_weights_keys = self.get_expanded_tied_weights_keys()
        self.post_init()

    # ------------------------------------------------------------------------------- from and to disk

    @classmethod
    def from_retro(cls, retro: Model, tokenizer: Tokenizer | None = None) -> "RetroForCausalLM":
        """A Hugging Face model around `retro` (or a fitted model), sharing its weights. From the tokenizer,
        if given, `generate` knows where a document ends."""
        dtype = str(next(retro.parameters()).dtype).removeprefix("torch.")
        model = cls(RetroHFConfig(**retro.config.to_dict(), dtype=dtype), retro).train(retro.training)
        if tokenizer is not None:
            model.generation_config = generation_settings(tokenizer.pad_id, tokenizer.end_id)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any):
        """As Hugging Face's, but weights must be complete: raises CheckpointError naming what is missing or
        unexpected, where transformers would go on with random ones."""
        asked_for_info = kwargs.pop("output_loading_info", False)
        name = pretrained_model_name_or_path
        model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        for kind, verb, has in (("missing_keys", "lacks", "has"), ("unexpected_keys", "has", "has not")):
            keys = sorted(info[kind])
            if keys:
                more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
                raise CheckpointError(
                    f"{name} {verb} {', '.join(keys[:3])}{more}, which a model with this config {has}. "
                    "Give the config that belongs to these weights, or copy the folder again."
                )
        folder = Path(name or "", kwargs.get("subfolder", ""))
        is_told = kwargs.get("generation_config") or (folder / "generation_config.json").is_file()
        if name and not is_told and (folder / TOKENIZER_FILE).is_file():
            tokenizer = Tokenizer.load(folder)
            model.generation_config = generation_settings(tokenizer.pad_id, tokenizer.end_id)
        return (model, info) if asked_for_info else model

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As Hugging Face's. Save the tokenizer into the same folder and `load_model` opens it too.

        Raises InputError for a fitted model.
        """
        if self._is_fitted:
            raise InputError(
                "A fitted model is saved without its base, which Hugging Face's files cannot express. Call "
                "retro_core.checkpoint.save_model(folder, model.retro, tokenizer)."
            )
        super().save_pretrained(save_directory, *args, **kwargs)
        (Path(save_directory) / SUMS_FILE).unlink(missing_ok=True)  # of other weights, if there is one

    # ---------------------------------------------------------------------------------------- weights

    @property
    def _is_fitted(self) -> bool:
        return not isinstance(self.retro, Retro)

    def train(self, mode: bool = True) -> "RetroForCausalLM":
        self.retro.training = mode
        return super().train(mode)

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Names of tensors that are another one."""
        if self._is_fitted:
            return {}
        source = "base.dec_embs.weight"
        tied = {"lm_head.weight": source} if self.config.tie_embeddings else {}
        if self.config.dec_cca_layers and self.config.enc_share_decoder_embs:
            tied["base.encoder.enc_embs.weight"] = source
        return tied

    def get_input_embeddings(self) -> nn.Embedding:
        return self.retro.lm.get_input_embeddings() if self._is_fitted else self.base.dec_embs

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.base.dec_embs = value
        if self.config.dec_cca_layers and self.config.enc_share_decoder_embs:
            self.base.encoder.enc_embs = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.retro.lm.get_output_embeddings() if self._is_fitted else self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = self.retro.lm_head = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As Hugging Face's, and the same for the encoder, which reads the same vocabulary."""
        if self._is_fitted:
            raise InputError(
                "The vocabulary of a fitted model is its base's, which stays as it is. Resize the base, then "
                "fit."
            )
        result = super().resize_token_embeddings(*args, **kwargs)
        size = result.weight.shape[0]
        if self.config.dec_cca_layers and not self.config.enc_share_decoder_embs:
            old = self.base.encoder.enc_embs.weight
            rows = torch.cat([old, old.mean(dim=0).expand(max(0, size - len(old)), -1)])[:size]
            new = nn.Embedding.from_pretrained(rows.detach().clone(), freeze=not old.requires_grad)
            self.base.encoder.enc_embs = new
        self.config.num_embeddings = size
        self.retro.config = self.base.config = self.config.to_retro()
        return result

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)

    # ---------------------------------------------------------------------------------------- reading

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: RetroCache | None = None,
        use_cache: bool | None = None,
        neighbour_ids: Tensor | None = None,
        neighbour_mask: Tensor | None = None,
        retriever: Retriever | None = None,
        num_neighbours: int = _NUM_NEIGHBOURS,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
    ) -> RetroCausalLMOutput | tuple:
        """input_ids (b, n) · attention_mask (b, n), or (b, past + n) with a cache, by default 0 at padding ·
        labels (b, n): the tokens of input_ids themselves, -100 where there is no loss. They are shifted in
        here, as Hugging Face does; those of `Retro` and of `python -m retro_core train` are shifted before.

        neighbour_ids   (b, l, k, r) for l = (past + n) // m complete chunks, or the first of them if there
                        is a retriever for the others. Neither: Retro[Off]
        retriever       asked for every complete chunk whose neighbours are not known yet, `num_neighbours`
                        for each
        use_cache       True returns a RetroCache as past_key_values, from which the next tokens go on.
                        Without gradients only
        logits_to_keep  j > 0: logits of the last j positions only; a tensor of positions works too

        Raises InputError for what the model cannot read.
        """
        cache = self._cache(past_key_values, use_cache)
        mask = _new_columns(attention_mask, input_ids)
        past = 0 if cache is None else cache.get_seq_length()
        read, read_mask = self._neighbours(
            cache, input_ids, mask, neighbour_ids, neighbour_mask, retriever, num_neighbours
        )
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if hidden and cache is not None:
            raise InputError("A RETRO model with a cache gives no hidden_states. Pass use_cache=False.")
        everything = labels is not None or isinstance(logits_to_keep, Tensor)
        retro = self.retro if cache is None else cache.retro
        out = retro(
            input_ids,
            read,
            input_mask=mask,
            neighbour_mask=read_mask,
            capture=Capture(attention=bool(attentions), hidden_states=bool(hidden)),
            cache=None if cache is None else cache.decoding,
            logits_to_keep=0 if everything else logits_to_keep,
        )
        logits, loss = out.logits, None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.num_embeddings,
                num_items_in_batch=num_items_in_batch,
            )
        if everything:
            kept = logits_to_keep if isinstance(logits_to_keep, Tensor) else slice(-logits_to_keep, None)
            logits = logits[:, kept]
        result = RetroCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=cache,
            hidden_states=(*out.hidden_states[:-1], out.final_hidden) if hidden else None,
            attentions=None if out.attention is None else _by_new_token(out.attention, past),
            neighbour_ids=read if cache is None else cache.neighbour_ids,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return result if as_dict else result.to_tuple()

    def _cache(self, given: Cache | None, use_cache: bool | None) -> RetroCache | None:
        if given is None:
            return RetroCache(self.retro) if use_cache else None
        if not isinstance(given, RetroCache):
            raise InputError(
                f"past_key_values must be a RetroCache, got a {type(given).__name__}: RETRO also keeps what "
                "it read of the neighbours. Leave it out, or pass on what this model returned."
            )
        return given

    def _neighbours(
        self,
        cache: RetroCache | None,
        input_ids: Tensor,
        mask: Tensor | None,
        given: Tensor | None,
        given_mask: Tensor | None,
        retriever: Retriever | None,
        num_neighbours: int,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Neighbours (b, l, k, r) of all complete chunks and their mask: those that the cache knows, then
        those that are given, then what the retriever finds. Nones where there is nothing new to read."""
        m, pad = self.config.chunk_size, self.config.pad_token_idx
        ids = input_ids if mask is None else input_ids.masked_fill(~mask, pad)
        if cache is not None:
            ids = cache.with_new(ids)
        known, complete = (ids.shape[1] - input_ids.shape[1]) // m, ids.shape[1] // m
        parts: list[tuple[Tensor, Tensor]] = []
        if given is not None and (given.shape[1] > known or cache is None):
            there = (given != pad) if given_mask is None else given_mask
            parts.append((given[:, known:], there[:, known:].bool()))
            known = given.shape[1]
        if retriever is not None and known < complete:
            _check_retriever(retriever)
            parts.append(_look_up(retriever, ids[:, : complete * m], known, m, num_neighbours, pad))
        if not parts:
            return None, None
        return _joined(parts, pad) if cache is None else cache.with_neighbours(parts, complete, pad)

    # ------------------------------------------------------------------------------------- generation

    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        retriever: Retriever | None = None,
        num_neighbours: int = _NUM_NEIGHBOURS,
        **kwargs: Any,
    ):
        """As Hugging Face's `generate`: greedy, sampling, beams, assisted; see docs/hugging-face.md.

        retriever       finds neighbours of each chunk once it is complete; None is Retro[Off]
        num_neighbours  how many for each chunk
        neighbour_ids   (b, l, k, r) for the complete chunks of the prompt; with a retriever it finds those of
                        the others, without one the others have none

        Padding ids are never written (`suppress_tokens` of the model's generation_config).
        """
        _check_cache_kind(kwargs.get("cache_implementation"))
        given = kwargs.get("neighbour_ids")
        ids = kwargs.get("input_ids") if inputs is None else inputs
        if given is not None and ids is not None and given.dim() == 4:
            n, m = ids.shape[-1], self.config.chunk_size
            cache = kwargs.get("past_key_values")
            past = 0 if cache is None else cache.get_seq_length()
            n += past if n <= past else 0  # with a cache, the new tokens only, or all of them
            if given.shape[1] > -(-n // m):
                raise InputError(
                    f"The prompt's {n} tokens have {n // m} complete chunks of {m}, got neighbours for "
                    f"{given.shape[1]}. Give neighbours (b, {n // m}, k, r)."
                )
            # Those of an incomplete chunk would be read as soon as it is full, whatever then stands in it.
            for name in ("neighbour_ids", "neighbour_mask"):
                if kwargs.get(name) is not None:
                    kwargs[name] = kwargs[name][:, : n // m]
        if retriever is not None:
            _check_retriever(retriever)
            remembers = isinstance(retriever, _Remembering)  # an assistant is handed the model's own
            kwargs["retriever"] = retriever if remembers else _Remembering(retriever)
            kwargs["num_neighbours"] = num_neighbours
        return super().generate(inputs, *args, **kwargs)

    def generate_batch(self, *args: Any, **kwargs: Any):
        raise InputError(
            "Continuous batching needs a paged cache, which RETRO's is not. Call generate with a batch that "
            "is padded on the left."
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: RetroCache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)
        inputs = {name: value for name, value in inputs.items() if name in _ACCEPTED}
        given = inputs.get("neighbour_ids")
        if given is None or inputs.get("retriever") is not None:
            return inputs
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        missing = (past + inputs["input_ids"].shape[1]) // self.config.chunk_size - given.shape[1]
        if missing > 0:
            there = inputs.get("neighbour_mask")
            there = (given != self.config.pad_token_idx) if there is None else there.bool()
            none = _no_neighbours(given, missing, self.config.pad_token_idx)
            both = _joined([(given, there), none], self.config.pad_token_idx)
            inputs["neighbour_ids"], inputs["neighbour_mask"] = both
        return inputs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ):
        _check_cache_kind(generation_config.cache_implementation)
        generation_config.cache_implementation = None
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = RetroCache(self.retro)
        return super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)

    def _get_candidate_generator(self, generation_config: Any, *args: Any, **kwargs: Any):
        """Before assisted generation: refuse what it cannot do here, and give neighbours only to an assistant
        that can read them."""
        if generation_config.assistant_early_exit is not None:
            raise InputError(
                "RETRO's layers are not trained to predict before the last one, so assistant_early_exit does "
                "not work. Give an assistant_model, or prompt_lookup_num_tokens."
            )
        if generation_config.output_attentions:
            raise InputError(
                "Assisted generation does not return attentions of RETRO. Leave output_attentions out, or "
                "call the model on the finished text."
            )
        if not isinstance(kwargs.get("assistant_model"), RetroForCausalLM):
            given = kwargs["model_kwargs"]
            kwargs["model_kwargs"] = {name: given[name] for name in given if name not in _OF_NEIGHBOURS}
        return super()._get_candidate_generator(generation_config, *args, **kwargs)


_ACCEPTED = frozenset(inspect.signature(RetroForCausalLM.forward).parameters)


def generation_settings(pad_id: int, end_id: int | None) -> transformers.GenerationConfig:
    """What `generate` does unless told otherwise: stop at the end of the document, never write padding."""
    return transformers.GenerationConfig(
        pad_token_id=pad_id, eos_token_id=end_id, suppress_tokens=None if pad_id == end_id else [pad_id]
    )


def _check_cache_kind(kind: str | None) -> None:
    if kind not in (None, "dynamic", "dynamic_full"):  # of transformers' own kinds, those that grow
        raise InputError(
            f"RETRO's cache holds neighbours besides keys and values, so there is no {kind!r} one. "
            "Leave cache_implementation out."
        )


def _check_retriever(retriever: Retriever) -> None:
    if not callable(getattr(retriever, "retrieve", None)):
        raise InputError(
            "A retriever answers retrieve(chunks, num_neighbours), as a Datastore does, got a "
            f"{type(retriever).__name__}. Open the datastore first: Datastore.open(name)."
        )


def _new_columns(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor | None:
    """Of a mask over all tokens so far, the part of these (b, n)."""
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2 or attention_mask.shape[1] < input_ids.shape[1]:
        raise InputError(
            "attention_mask must be (b, n), 1 where there is a token, got shape "
            f"{list(attention_mask.shape)} for input_ids {list(input_ids.shape)}. Give the tokenizer's "
            "attention_mask."
        )
    return attention_mask[:, -input_ids.shape[1] :].bool()


def _look_up(
    retriever: Retriever, ids: Tensor, known: int, chunk_size: int, num_neighbours: int, pad: int
) -> tuple[Tensor, Tensor]:
    """Neighbours (b, l - known, k, r) of the chunks in ids (b, l * m) without the first `known`, and their
    mask; padding alone has none. A row's text begins in the first chunk that is not padding alone."""
    texts = ids.cpu().numpy().reshape(len(ids), -1, chunk_size)
    says = (texts != pad).any(axis=-1)  # (b, l)
    first_chunks = texts[np.arange(len(texts)), says.argmax(axis=1)]
    later = texts[:, known:]
    chunks = later.reshape(-1, chunk_size)
    found = retrieve_each(retriever, first_chunks.repeat(later.shape[1], axis=0), chunks, num_neighbours)
    there = found.mask & says[:, known:].reshape(-1, 1, 1)
    shape = (len(ids), -1, *found.tokens.shape[-2:])
    tokens, mask = torch.from_numpy(found.tokens).long(), torch.from_numpy(there)
    return tokens.reshape(shape).to(ids.device), mask.reshape(shape).to(ids.device)


def _by_new_token(attention: CcaWeights, past: int) -> tuple[Tensor, ...]:
    """For each CCA layer (b, h, n, k, r): row t belongs to the t-th token after the `past` first ones."""
    rows = rearrange(attention.weights, "a b l h m k r -> a b h (l m) k r")
    m = attention.weights.shape[4]
    # Row 0 is of the last token of the first chunk in there.
    start = past - (attention.first_chunk * m + m - 1)
    after = attention.num_tokens - past + start - rows.shape[3]
    return tuple(F.pad(rows, (0, 0, 0, 0, -start, after)))


def _no_neighbours(like: Tensor, count: int, pad: int) -> tuple[Tensor, Tensor]:
    """Neighbours of `count` chunks that have none, of the sizes of `like` (b, l, k, r), and their mask."""
    b, _, k, r = like.shape
    return like.new_full((b, count, k, r), pad), like.new_zeros((b, count, k, r), dtype=torch.bool)


def _joined(parts: list[tuple[Tensor, Tensor]], pad: int) -> tuple[Tensor, Tensor]:
    """Neighbours one after the other along the chunk axis. The first part says how many there are and how
    long they are; others may have fewer and shorter ones."""
    _, _, k, r = parts[0][0].shape
    ids, masks = [], []
    for tokens, mask in parts:
        missing = (0, r - tokens.shape[3], 0, k - tokens.shape[2])
        if min(missing) < 0:
            raise InputError(
                f"The first chunks have {k} neighbours of {r} tokens, later ones {tokens.shape[2]} of "
                f"{tokens.shape[3]}. Give num_neighbours and neighbour_ids that agree."
            )
        ids.append(F.pad(tokens, missing, value=pad))
        masks.append(F.pad(mask, missing))
    return torch.cat(ids, dim=1), torch.cat(masks, dim=1)


AutoConfig.register(MODEL_TYPE, RetroHFConfig)
AutoModelForCausalLM.register(RetroHFConfig, RetroForCausalLM)
