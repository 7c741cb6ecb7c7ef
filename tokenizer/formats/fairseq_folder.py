"""Tokenizer folders made of fairseq's files, and fairseq's files of a tokenizer folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from biomlm.core.errors import MismatchError
from biomlm.tokenizer.formats import bytelevel, consistency, fairseq
from biomlm.tokenizer.formats.folder import Tokenizer, load, write


def from_fairseq(
    dict_txt: str | Path,
    encoder_json: str | Path,
    vocab_bpe: str | Path,
    folder: str | Path,
    model_max_length: int = 512,
) -> Tokenizer:
    """Write a tokenizer folder from fairseq's files, with the dictionary's order applied: the folder's ids are the model's.

    Pieces that the dictionary leaves out are unknown to the model. The merges need them, so they get ids behind `<mask>`
    (`Tokenizer.outside`): a Hugging Face model must have copies of the unknown token's row there.

    Raises:
        DataError: The files disagree.
    """
    encoder = fairseq.read_vocab(Path(encoder_json))
    merges = fairseq.read_bpe(vocab_bpe)
    sources = (dict_txt, encoder_json, vocab_bpe)
    files = {name: fairseq.plain(Path(file).read_bytes()) for name, file in zip(fairseq.FILES, sources, strict=True)}
    return _from_bpe(folder, Path(dict_txt), encoder, merges, files, model_max_length)


def from_dictionary(dict_txt: Path, bpe: Path, folder: Path, model_max_length: int = 512) -> Tokenizer:
    """Write a tokenizer folder from a fairseq dictionary and `vocab.json` with `merges.txt`, as `from_fairseq` does.

    The two are those of fairseq's `--bpe hf_byte_bpe`, whose numbers are the dictionary's symbols, or those of a Hugging Face folder,
    whose numbers are the model's ids (`fairseq.numbering` tells them apart).

    Args:
        dict_txt: The dictionary.
        bpe: A folder with those two, or with the `tokenizer.json` of a byte-level BPE.
        folder: Where to.
        model_max_length: In tokens.

    Raises:
        DataError: The files disagree.
    """
    if (bpe / "vocab.json").is_file():
        vocab, merges = fairseq.read_vocab(bpe / "vocab.json"), fairseq.read_merges(bpe / "merges.txt")
    else:
        loaded = load(bpe)
        vocab = loaded.hf.get_vocab(with_added_tokens=True)
        merges = [(left, right) for left, right in loaded.state["model"]["merges"]]
    encoder = fairseq.numbering(dict_txt, vocab, merges)
    contents = (fairseq.plain(dict_txt.read_bytes()), orjson.dumps(encoder), bytelevel.merges_bytes(merges))
    return _from_bpe(
        folder, dict_txt, encoder, merges, dict(zip(fairseq.FILES, contents, strict=True)), model_max_length
    )


def _from_bpe(
    folder: str | Path,
    dict_txt: Path,
    encoder: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    files: Mapping[str, bytes],
    model_max_length: int,
) -> Tokenizer:
    vocab = fairseq.model_vocab(dict_txt, encoder)
    consistency.check_merges(dict_txt, vocab, merges)
    hf = bytelevel.hugging_face(vocab, merges)
    write(folder, hf, bytelevel.settings(model_max_length), {**files, **bytelevel.files(vocab, merges)})
    return load(folder)


def fairseq_files(folder: str | Path) -> dict[str, bytes]:
    """Give fairseq's `dict.txt`, `encoder.json` and `vocab.bpe` of a tokenizer folder as name → content.

    A folder that has them gives them as they are. For a Hugging Face folder they are derived: counts are 0, BPE ids are in order
    of learning.

    Raises:
        MismatchError: The tokenizer is not plain byte-level BPE with RoBERTa's special ids: fairseq cannot have it.
    """
    folder = Path(folder)
    tokenizer = load(folder)
    if all((folder / name).exists() for name in fairseq.FILES):
        return {name: fairseq.plain((folder / name).read_bytes()) for name in fairseq.FILES}
    state = tokenizer.state
    if tokenizer.added:
        problem = f"fairseq has no place for tokens added to the BPE, such as {tokenizer.added[0]['content']!r}"
        raise MismatchError(problem, file=folder, remedy="Convert to Hugging Face's format instead.")
    if tokenizer.pieces[:4] != list(bytelevel.SPECIALS) or (state["decoder"] or {}).get("type") != "ByteLevel":
        raise MismatchError(
            "fairseq needs byte-level BPE with <s> 0, <pad> 1, </s> 2, <unk> 3",
            file=folder,
            remedy="Convert to Hugging Face's format instead, or choose a tokenizer of RoBERTa's kind.",
        )
    merges = [(left, right) for left, right in state["model"]["merges"]]
    return fairseq.files(tokenizer.pieces, merges, [0] * tokenizer.vocab_size)
