"""WordPiece as BERT has it (Devlin et al. 2019), cased or uncased: cleaning, the split into words, the Hugging Face object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from biomlm.core.errors import DataError
from biomlm.tokenizer.formats.fairseq import REMEDY, read_text

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
INSIDE = "##"  # in front of a piece that does not open a word
PUNCTUATION = pre_tokenizers.BertPreTokenizer()


def normalizer(
    lowercase: bool, strip_accents: bool | None = None, tokenize_chinese_chars: bool = True
) -> normalizers.Normalizer:
    """Return the normalizer of BERT: unless `strip_accents` says otherwise, an uncased vocabulary strips accents as well."""
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=tokenize_chinese_chars, strip_accents=strip_accents, lowercase=lowercase
    )


CASED, UNCASED = normalizer(False), normalizer(True)


def split_cased(text: str) -> list[str]:
    """Cut a text into words, as the cased tokenizer does."""
    return [word for word, _ in PUNCTUATION.pre_tokenize_str(CASED.normalize_str(text))]


def split_uncased(text: str) -> list[str]:
    """Cut a text into words, as the uncased tokenizer does."""
    return [word for word, _ in PUNCTUATION.pre_tokenize_str(UNCASED.normalize_str(text))]


def hugging_face(
    vocab: Mapping[str, int], lowercase: bool, strip_accents: bool | None = None, tokenize_chinese_chars: bool = True
) -> Tokenizer:
    """Make the `tokenizers` object of a BERT vocabulary.

    Args:
        vocab: Piece → id, with the special tokens.
        lowercase: Whether it is uncased.
        strip_accents: Whether accents are taken off; None for just where it is uncased.
        tokenize_chinese_chars: Whether every Chinese character is a word.
    """
    hf = Tokenizer(models.WordPiece(dict(vocab), unk_token="[UNK]", max_input_chars_per_word=100))
    hf.normalizer = normalizer(lowercase, strip_accents, tokenize_chinese_chars)
    hf.pre_tokenizer = PUNCTUATION
    hf.decoder = decoders.WordPiece(prefix=INSIDE)
    hf.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    hf.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return hf


def settings(lowercase: bool, model_max_length: int) -> dict[str, Any]:
    """Give the content of `tokenizer_config.json`.

    Args:
        lowercase: Whether it is uncased; this states it.
        model_max_length: Tokens that the model takes, special ones included.
    """
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return {
        "tokenizer_class": "BertTokenizer",
        "model_max_length": model_max_length,
        "do_lower_case": lowercase,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        **names,
    }


def read_vocab(file: Path) -> dict[str, int]:
    """Read a `vocab.txt` as piece → id.

    Raises:
        DataError: A piece stands in it twice, or a special token is missing.
    """
    vocab: dict[str, int] = {}
    for i, piece in enumerate(read_text(file).removesuffix("\n").split("\n")):
        if vocab.setdefault(piece.removesuffix("\r"), i) != i:
            raise DataError("this piece stands in it twice", file=file, record=f"line {i + 1}", remedy=REMEDY)
    for name in SPECIALS:
        if name not in vocab:
            raise DataError(f"the vocabulary lacks the special token {name}", file=file, remedy=REMEDY)
    return vocab


def is_uncased(vocab: Mapping[str, int]) -> bool:
    """Say whether no piece but the special ones has a capital."""
    return not any(piece != piece.lower() for piece in vocab if not piece.startswith("["))


def files(vocab: Mapping[str, int]) -> dict[str, bytes]:
    """Give `vocab.txt` as name → content."""
    return {"vocab.txt": "".join(f"{piece}\n" for piece in sorted(vocab, key=vocab.__getitem__)).encode()}
