"""Tokenizers of the kinds that other models come with, trained in milliseconds."""

import tokenizers


def unigram(texts: list[str], size: int = 150) -> tokenizers.Tokenizer:
    """As T5's: pieces that begin with a mark for the blank, special tokens among the pieces."""
    inner = tokenizers.Tokenizer(tokenizers.models.Unigram())
    blanks, pieces = tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([blanks, pieces])
    inner.decoder = tokenizers.decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    inner.train_from_iterator(texts, tokenizers.trainers.UnigramTrainer(
        vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False))  # fmt: skip
    inner.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return inner


def word_piece(texts: list[str], size: int = 150) -> tokenizers.Tokenizer:
    """As BERT's, but split at blanks only, so that a special token in a text stays in one piece."""
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.decoder = tokenizers.decoders.WordPiece(cleanup=False)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner.train_from_iterator(texts, tokenizers.trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=special, show_progress=False))  # fmt: skip
    return inner


def bytes_for_the_unknown(texts: list[str], size: int = 450) -> tokenizers.Tokenizer:
    """As Llama 2's: pieces, and single bytes for characters that are in none."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    d = tokenizers.decoders
    inner.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{value:02X}>" for value in range(256))]
    inner.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False))  # fmt: skip
    return inner
