"""Byte-level BPE as GPT-2 and RoBERTa have it: the byte alphabet, the split into words, the Hugging Face object.

Source: Radford et al. 2019, "Language models are unsupervised multitask learners", and its released `encoder.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import regex  # type: ignore[import-untyped]
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"

# Contractions, then letters, digits or signs with at most one blank in front, then white space.
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def alphabet() -> list[str]:
    """Give GPT-2's character for each byte value: itself if it can be seen in Latin-1, else the next one from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    characters = [""] * 256
    for byte in visible:
        characters[byte] = chr(byte)
    for n, byte in enumerate(byte for byte in range(256) if byte not in visible):
        characters[byte] = chr(256 + n)
    return characters


SPLITTER = pre_tokenizers.ByteLevel(add_prefix_space=False)


def split(text: str) -> list[str]:
    """Cut a text into words, each with its blank in front.

    ASCII is cut by `regex`, which is faster. The rest is left to `tokenizers` itself: its Unicode tables are of another version than
    `regex`'s, and 17,480 rare characters fall into other classes.
    """
    if text.isascii():
        words: list[str] = WORD.findall(text)
        return words
    return [text[start:end] for _, (start, end) in SPLITTER.pre_tokenize_str(text)]


def _classes() -> npt.NDArray[np.uint8]:
    """Give [256] the class of each byte: blank 0, letter 1, digit 2, any other sign 3; meant for ASCII."""
    classes = np.full(256, 3, dtype=np.uint8)
    for byte in range(128):
        classes[byte] = 0 if byte == 32 else 1 if chr(byte).isalpha() else 2 if chr(byte).isdigit() else 3
    return classes


CLASS = _classes()


def ascii_starts(text: npt.NDArray[np.uint8], chunk: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Find where the words of an ASCII text begin, with the same result as `split`, all at once.

    Args:
        text: What stands between blanks, end to end, a blank in front of each but those that open a document; two zero bytes behind.
        chunk: Where each of them begins.
    """
    kind = CLASS[text]
    opens = np.zeros(len(text), dtype=np.bool_)
    opens[chunk] = True
    start = opens.copy()
    start[1:] |= (kind[1:] != kind[:-1]) & (kind[:-1] != 0)

    # A contraction is a word of its own where no other sign stands before its apostrophe.
    at = (text[:-2] == ord("'")).nonzero()[0]
    at = at[opens[at] | np.isin(kind[at - 1], (1, 2))]
    one, two = text[at + 1], text[at + 2]
    short = np.isin(one, np.frombuffer(b"stmd", dtype=np.uint8)) & ~opens[at + 1]
    pairs = [(one == ord(a)) & (two == ord(b)) for a, b in ("re", "ve", "ll")]
    long = np.logical_or.reduce(pairs) & ~opens[at + 1] & ~opens[at + 2]
    start[at[short | long] + 1] = False
    start[at[short] + 2] = True
    start[at[long] + 3] = True
    return start[: len(text) - 2].nonzero()[0]


def hugging_face(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], add_prefix_space: bool = False
) -> Tokenizer:
    """Make the `tokenizers` object of a RoBERTa vocabulary.

    Args:
        vocab: Piece → id, with the special tokens.
        merges: Pairs of pieces, in order of learning.
        add_prefix_space: Whether a text that does not begin with a blank is read as if it did.
    """
    hf = Tokenizer(models.BPE(dict(vocab), list(merges), fuse_unk=False))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    hf.decoder = decoders.ByteLevel()
    hf.post_processor = processors.RobertaProcessing(
        ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), add_prefix_space=add_prefix_space, trim_offsets=True
    )
    hf.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    hf.add_special_tokens([AddedToken(MASK, lstrip=True, special=True, normalized=False)])
    return hf


def settings(model_max_length: int) -> dict[str, Any]:
    """Give the content of `tokenizer_config.json`.

    Args:
        model_max_length: Tokens that the model takes, special ones included.
    """
    return {
        "tokenizer_class": "RobertaTokenizer",
        "model_max_length": model_max_length,
        "do_lower_case": False,
        "add_prefix_space": False,
        "trim_offsets": True,
        "errors": "replace",
        "clean_up_tokenization_spaces": False,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": MASK,
    }


def files(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> dict[str, bytes]:
    """Give `vocab.json` and `merges.txt` as name → content."""
    by_id = dict(sorted(vocab.items(), key=lambda item: item[1]))
    return {"vocab.json": orjson.dumps(by_id), "merges.txt": merges_bytes(merges)}


def merges_bytes(merges: Sequence[tuple[str, str]]) -> bytes:
    """Give the content of a `merges.txt` or `vocab.bpe`."""
    return "".join(["#version: 0.2\n", *(f"{left} {right}\n" for left, right in merges)]).encode()
