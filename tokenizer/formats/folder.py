"""Write, load and copy a tokenizer folder (docs/design.md, section 2).

It is Hugging Face's folder with fairseq's three files beside it. A plain Hugging Face folder loads as well. Text never turns into
special ids: a literal `<s>` in a note is three characters, not the start of a sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import Tokenizer as HuggingFace

from biomlm.core.errors import DataError, kind, no_model
from biomlm.core.files import atomic_file, write_json, write_text
from biomlm.tokenizer.formats import bert, bytelevel, consistency, fairseq, stated
from biomlm.tokenizer.formats.fairseq import REMEDY

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "sentencepiece.model",
    *fairseq.FILES,
)
SPLITTERS = ("ByteLevel", "BertPreTokenizer", "Metaspace")  # pre-tokenisers that cut at every blank


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the special tokens: `bos` opens a sequence (`<s>` or `[CLS]`), `eos` closes it (`</s>` or `[SEP]`)."""

    bos: int
    pad: int
    eos: int
    unk: int
    mask: int


class Tokenizer:
    """A loaded tokenizer folder.

    Args:
        hf: The `tokenizers` object; it reads special tokens in raw text as plain characters.
        ids: The special ids.
        vocab_size: Ids of the model. Pieces with ids from here on are unknown to it (a fairseq dictionary may leave pieces of its
            BPE out); `encode` gives the unknown id for them.
        fingerprint: SHA-256 of `tokenizer.json`.
        settings: `tokenizer_config.json`.
    """

    def __init__(
        self, hf: HuggingFace, ids: SpecialIds, vocab_size: int, fingerprint: str, settings: Mapping[str, Any]
    ):
        self.hf, self.ids, self.vocab_size = hf, ids, vocab_size
        self.fingerprint, self.settings = fingerprint, settings
        hf.encode_special_tokens = True
        hf.no_padding()
        hf.no_truncation()
        self._encoder = _without_specials(self.state) if self.state["model"]["type"] == "Unigram" else hf

    def encode(self, text: str) -> list[int]:
        """Give the ids of a text, without special tokens around it."""
        return self._replace_outside(self._encoder.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Give the ids of each text, without special tokens around them."""
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._replace_outside(encoding.ids) for encoding in encodings]

    def starts(self, texts: Sequence[str]) -> list[list[int]]:
        """Give, for every id that `encode_batch` gives, the place in its text of the piece's first character."""
        encodings = self._encoder.encode_batch(list(texts), add_special_tokens=False)
        return [[start for start, _ in encoding.offsets] for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Give the text of ids; special tokens are written by their names."""
        return self.hf.decode([int(i) for i in ids], skip_special_tokens=False)

    def _replace_outside(self, ids: list[int]) -> list[int]:
        if self.outside:
            return [i if i < self.vocab_size else self.ids.unk for i in ids]
        return ids

    @cached_property
    def state(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""
        state: dict[str, Any] = orjson.loads(self.hf.to_str())
        return state

    @cached_property
    def outside(self) -> int:
        """The number of pieces that the model has no id for."""
        return self.hf.get_vocab_size(with_added_tokens=True) - self.vocab_size

    @cached_property
    def pieces(self) -> list[str]:
        """The pieces by id, [vocab_size]."""
        vocab = self.hf.get_vocab(with_added_tokens=True)
        return sorted(vocab, key=vocab.__getitem__)[: self.vocab_size]

    @cached_property
    def splits_at_blanks(self) -> bool:
        """Whether no piece reaches across a blank, so that words can be encoded one by one."""
        split = self.state["pre_tokenizer"] or {}
        at_blanks = split.get("type") in SPLITTERS and split.get("use_regex", True) and split.get("split", True)
        return at_blanks and not any(map(self._reaches_across, self.added))

    @cached_property
    def added(self) -> list[dict[str, Any]]:
        """The added tokens that are looked for in text: all but the special ones."""
        return [token for token in self.state["added_tokens"] if not token["special"]]

    def _reaches_across(self, token: Mapping[str, Any]) -> bool:
        """Say whether an added token takes in a blank between two words; text that is encoded has single blanks only."""
        forms = {token["content"]}
        if token["normalized"] and self.hf.normalizer:
            forms.add(self.hf.normalizer.normalize_str(token["content"]))
        return token["lstrip"] or token["rstrip"] or any(" " in form[1:] and "  " not in form for form in forms)

    @cached_property
    def is_word_start(self) -> npt.NDArray[np.bool_]:
        """Whether each piece begins a word, [vocab_size]; special tokens do, as in fairseq's whole-word masking."""
        special = {getattr(self.ids, role) for role in stated.ROLES}
        starts = _word_starts(self.state)
        return np.array([i in special or starts(piece) for i, piece in enumerate(self.pieces)], dtype=np.bool_)


def _without_specials(state: dict[str, Any]) -> HuggingFace:
    """Make a Unigram tokenizer that cannot find its special tokens in text, as `sentencepiece` does not.

    Their names get a line break in front, which no text that has been split at white space holds.
    """
    names = {token["content"] for token in state["added_tokens"] if token["special"]}
    vocab = [["\n" + piece if piece in names else piece, score] for piece, score in state["model"]["vocab"]]
    kept = [token for token in state["added_tokens"] if not token["special"]]
    changed = {**state, "added_tokens": kept, "post_processor": None, "model": {**state["model"], "vocab": vocab}}
    return HuggingFace.from_str(orjson.dumps(changed).decode())


def _word_starts(state: dict[str, Any]) -> Any:
    """Return the function that says whether a piece of this kind of tokenizer begins a word."""
    if state["model"]["type"] == "WordPiece":
        prefix = state["model"]["continuing_subword_prefix"]
        return lambda piece: not piece.startswith(prefix)
    return lambda piece: piece.startswith(("Ġ", "▁", "madeupword"))


def is_folder(folder: Path) -> bool:
    """Say whether there is a tokenizer that `load` reads, or would if it were whole."""
    kinds = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
    return any(all((folder / name).is_file() for name in names) for names in kinds)


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Say whether this is a byte-level BPE."""
    state = tokenizer.state
    return state["model"]["type"] == "BPE" and (state["decoder"] or {}).get("type") == "ByteLevel"


def in_order_of_learning(tokenizer: Tokenizer) -> bool:
    """Say whether this is a byte-level BPE whose ids are in order of learning, as its trainer leaves them."""
    model = tokenizer.state["model"]
    merges = [(left, right) for left, right in model.get("merges", [])]
    return is_byte_level(tokenizer) and fairseq.in_order_of_learning(model["vocab"], merges)


def load(folder: str | Path) -> Tokenizer:
    """Load a tokenizer folder: ours, or Hugging Face's with `tokenizer.json` or `vocab.json` and `merges.txt`.

    Raises:
        DataError: It is no such folder, or its files disagree.
    """
    folder = Path(folder)
    if not folder.exists():
        raise no_model(folder)
    if not folder.is_dir():
        raise DataError("this is a file", file=folder, remedy="Give a tokenizer's folder.")
    settings, file = stated.read(folder), folder / "tokenizer.json"
    stated.check_programs(folder, settings)
    if file.exists():
        text = fairseq.plain(file.read_bytes()).decode(errors="replace")
        try:
            hf = HuggingFace.from_str(text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # tokenizers raises bare Exception, and a panic of Rust's is not even that
            raise DataError(f"this is not a tokenizer ({kind(error)})", file=file, remedy=REMEDY) from None
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        vocab, merges = fairseq.read_vocab(folder / "vocab.json"), fairseq.read_merges(folder / "merges.txt")
        consistency.check_merges(folder, vocab, merges)
        consistency.check_specials(folder / "vocab.json", vocab)
        hf = bytelevel.hugging_face(vocab, merges, **stated.byte_level(folder, settings))
        stated.add_tokens(folder, hf, settings)
        text = hf.to_str()
    elif (folder / "vocab.txt").exists():
        if "do_lower_case" not in settings:
            problem = "vocab.txt alone does not say whether the vocabulary is cased"
            remedy = "State do_lower_case in tokenizer_config.json, or take the folder's tokenizer.json along."
            raise DataError(problem, file=folder, remedy=remedy)
        hf = bert.hugging_face(bert.read_vocab(folder / "vocab.txt"), **stated.wordpiece(folder, settings))
        stated.add_tokens(folder, hf, settings)
        text = hf.to_str()
    else:
        problem = "it has no tokenizer.json, no vocab.json with merges.txt and no vocab.txt"
        raise DataError(problem, file=folder, remedy="Give a tokenizer folder.")
    consistency.check(folder, hf, settings)
    ids = SpecialIds(**stated.special_ids(folder, hf, settings))
    return Tokenizer(hf, ids, _model_size(folder, hf), sha256(text.encode()).hexdigest(), settings)


def _model_size(folder: Path, hf: HuggingFace) -> int:
    size = hf.get_vocab_size(with_added_tokens=True)
    vocab = hf.get_vocab(with_added_tokens=True)
    if sorted(vocab.values()) != list(range(size)):
        raise DataError(f"its {size} ids are not 0 … {size - 1}, each once", file=folder, remedy=REMEDY)
    if not (folder / "dict.txt").exists():
        return size
    symbols = fairseq.read_dict(folder / "dict.txt")
    return len(fairseq.order([symbol for symbol, _ in symbols]))


def write(folder: str | Path, hf: HuggingFace, settings: Mapping[str, Any], files: Mapping[str, bytes]) -> list[Path]:
    """Write a tokenizer folder, and return the paths of its files.

    Args:
        folder: Where to write; created if it does not exist.
        hf: The `tokenizers` object.
        settings: What `tokenizer_config.json` states: class, casing, longest input, names of the special tokens.
        files: The other files: name → content.
    """
    folder = Path(folder)
    hf.encode_special_tokens = False
    added = {
        str(i): {
            "content": token.content,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "normalized": token.normalized,
            "special": token.special,
        }
        for i, token in hf.get_added_tokens_decoder().items()
    }
    names = {name: settings[name] for name in sorted(settings) if name.endswith("_token")}
    mask = next(token for token in added.values() if token["content"] == names["mask_token"])
    write_text(folder / "tokenizer.json", hf.to_str(pretty=True))
    write_json(
        folder / "special_tokens_map.json", {**names, "mask_token": {k: mask[k] for k in mask if k != "special"}}
    )
    write_json(folder / "tokenizer_config.json", {**settings, "added_tokens_decoder": added})
    for name, content in files.items():
        with atomic_file(folder / name) as tmp:
            tmp.write_bytes(content)
    return [folder / name for name in FILES if (folder / name).exists()]


def contents(folder: str | Path) -> dict[str, str]:
    """Give the SHA-256 of each of a folder's tokenizer files."""
    files = {name: Path(folder) / name for name in FILES}
    return {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}


def copy_file(source: Path, target: Path) -> None:
    """Copy one file of a tokenizer folder: a text as every program reads it, without a byte-order mark or other line ends than `\\n`."""
    content = source.read_bytes()
    target.write_bytes(content if source.suffix == ".model" else fairseq.plain(content))


def copy(source: str | Path, target: str | Path) -> None:
    """Copy a folder's tokenizer files into `target`, each of them whole or not at all; other files there are left alone.

    Raises:
        DataError: `source` is no tokenizer folder, or its files disagree.
    """
    load(source)
    for name in FILES:
        if (file := Path(source) / name).exists():
            with atomic_file(Path(target) / name) as tmp:
                copy_file(file, tmp)
