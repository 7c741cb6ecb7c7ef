"""Read and write fairseq's three files of a byte-level BPE, and give the order of ids that they define.

`encoder.json` numbers pieces, `vocab.bpe` lists merges, and `dict.txt` lists the numbers by falling frequency; the model's id of a
piece is four (the special tokens) plus its line in `dict.txt`. Source: `fairseq/data/dictionary.py` and `encoders/gpt2_bpe.py`.
"""

import codecs
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from biomlm.core.errors import DataError
from biomlm.core.files import read_json
from biomlm.tokenizer.formats import bytelevel

FILES = ("dict.txt", "encoder.json", "vocab.bpe")
REMEDY = "Take all files from one tokenizer, or make the folder again with `biomlm tokenizer train`."


def read_vocab(file: Path) -> dict[str, int]:
    """Read a `vocab.json` or `encoder.json` as piece → id.

    Raises:
        DataError: A value is not a whole number.
    """
    vocab = read_json(file, remedy=REMEDY)
    if not all(isinstance(i, int) for i in vocab.values()):
        raise DataError("a vocabulary maps pieces to whole numbers", file=file, remedy=REMEDY)
    return vocab  # type: ignore[return-value]


def read_merges(file: str | Path) -> list[tuple[str, str]]:
    """Read the pairs of a `merges.txt`, in order, as `tokenizers` does.

    Raises:
        DataError: A line is not two pieces.
    """
    lines = read_text(Path(file)).split("\n")
    headed = lines[0].startswith("#version")
    return _pairs(Path(file), lines[headed:], 1 + headed)


def read_bpe(file: str | Path) -> list[tuple[str, str]]:
    """Read the pairs of a `vocab.bpe`, in order, as fairseq does.

    fairseq skips the first line, be it `#version` or a merge, and what follows the last line break (`gpt2_bpe_utils.get_encoder`).

    Raises:
        DataError: A line is not two pieces.
    """
    return _pairs(Path(file), read_text(Path(file)).split("\n")[1:-1], 2)


def _pairs(file: Path, lines: Sequence[str], first: int) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(lines, start=first):
        if not line:
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise DataError(
                "a merge is two pieces with a blank between", file=file, record=f"line {number}", remedy=REMEDY
            )
        merges.append((pair[0], pair[1]))
    return merges


def read_dict(file: str | Path) -> list[tuple[str, int]]:
    """Read the symbols and counts of a fairseq `dict.txt`, in order.

    Raises:
        DataError: A line is not a symbol and a count.
    """
    file = Path(file)
    entries = []
    for number, line in enumerate(read_text(file).removesuffix("\n").split("\n"), start=1):
        symbol, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not symbol or not count.isdigit():
            raise DataError("a line is a symbol and its count", file=file, record=f"line {number}", remedy=REMEDY)
        entries.append((symbol, int(count)))
    return entries


def plain(content: bytes) -> bytes:
    """Return a text file's content as programs write it that know no byte-order mark and no line ends but their own."""
    return content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def read_text(file: Path, remedy: str = REMEDY) -> str:
    """Read a file as UTF-8, with any kind of line end, as Python does; a byte-order mark is none of its text.

    Args:
        file: The file.
        remedy: What to do if it cannot be read.

    Raises:
        DataError: It is missing or is not UTF-8.
    """
    try:
        return plain(file.read_bytes()).decode()
    except FileNotFoundError:
        raise DataError("there is no such file", file=file, remedy=remedy) from None
    except UnicodeDecodeError as error:
        raise DataError("this is not UTF-8 text", file=file, record=f"byte {error.start}", remedy=remedy) from None


def order(symbols: Sequence[str]) -> list[str]:
    """Give all symbols of a masked-LM dictionary by model id: the specials, the file's lines, `<mask>` unless it is one of them."""
    return [*bytelevel.SPECIALS, *symbols, *([] if bytelevel.MASK in symbols else [bytelevel.MASK])]


def model_vocab(dict_txt: Path, encoder: Mapping[str, int]) -> dict[str, int]:
    """Give piece → model id as in fairseq; pieces that are not in the dictionary follow `<mask>`."""
    piece_of = {str(i): piece for piece, i in encoder.items()}
    vocab: dict[str, int] = {}
    for i, symbol in enumerate(order([symbol for symbol, _ in read_dict(dict_txt)])):
        own = symbol in (*bytelevel.SPECIALS, bytelevel.MASK) or symbol.startswith("madeupword")
        piece = symbol if own else piece_of.get(symbol)
        if piece is None or piece in vocab:
            why = "is not an id of encoder.json" if piece is None else "stands in it twice"
            raise DataError(f"symbol {symbol!r} {why}", file=dict_txt, record=f"line {i - 3}", remedy=REMEDY)
        vocab[piece] = i
    for piece in sorted(encoder, key=encoder.__getitem__):
        vocab.setdefault(piece, len(vocab))
    return vocab


def numbering(dict_txt: Path, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Give piece → its number in a dictionary, where `vocab.json` and `merges.txt` are all that there is of the BPE.

    In Hugging Face's folder of a fairseq model `vocab.json` holds the model's ids, and the dictionary's numbers are those of an
    `encoder.json`, in order of learning. fairseq's own `--bpe hf_byte_bpe` has in `vocab.json` what the dictionary's numbers mean.

    Raises:
        DataError: It is neither.
    """
    derived = numbering_of(sorted(vocab, key=vocab.__getitem__), merges)
    if is_numbered_by(dict_txt, derived, vocab):
        return derived
    if not in_order_of_learning(vocab, merges):
        problem = (
            "its numbers are neither those of the vocab.json beside it nor of an encoder.json in order of learning"
        )
        raise DataError(problem, file=dict_txt, remedy=f"Put the encoder.json there that it was made with. {REMEDY}")
    return dict(vocab)


def numbering_of(pieces: Sequence[str], merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Give piece → its number in order of learning, as in GPT-2's `encoder.json`."""
    return {piece: i for i, piece in enumerate(_learning_order(pieces, merges))}


def is_numbered_by(dict_txt: Path, encoder: Mapping[str, int], vocab: Mapping[str, int]) -> bool:
    """Say whether a dictionary's order, its symbols being ids of `encoder`, gives the model ids of `vocab`."""
    names = {str(i): piece for piece, i in encoder.items()}
    symbols = order([symbol for symbol, _ in read_dict(dict_txt)])
    return all(vocab.get(names.get(symbol, symbol)) == i for i, symbol in enumerate(symbols))


def in_order_of_learning(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> bool:
    """Say whether bytes and merges are numbered as they were learnt; a dictionary orders them by frequency."""
    learnt = dict.fromkeys([*sorted(bytelevel.alphabet()), *map("".join, merges)])
    numbers = [vocab[piece] for piece in learnt if piece in vocab]
    return numbers == sorted(numbers)


def files(pieces: Sequence[str], merges: Sequence[tuple[str, str]], counts: Sequence[int]) -> dict[str, bytes]:
    """Give fairseq's files as name → content.

    Args:
        pieces: [ids] all pieces in order of the model's ids, specials included.
        merges: Pairs of pieces, in order of learning.
        counts: [ids] how often each piece stands in the training text.
    """
    encoder = numbering_of(pieces, merges)
    own = {
        *bytelevel.SPECIALS,
        *([bytelevel.MASK] if pieces[-1] == bytelevel.MASK else []),
    }  # fairseq adds it behind the last line
    lines = (
        f"{encoder.get(piece, piece)} {count}\n"
        for piece, count in zip(pieces, counts, strict=True)
        if piece not in own
    )
    return {
        "dict.txt": "".join(lines).encode(),
        "encoder.json": orjson.dumps(encoder),
        "vocab.bpe": bytelevel.merges_bytes(merges),
    }


def _learning_order(pieces: Sequence[str], merges: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield bytes, then merges, then what is neither (GPT-2's `<|endoftext|>`), as GPT-2's encoder.json numbers them."""
    learnt = [*sorted(bytelevel.alphabet()), *(left + right for left, right in merges)]
    yield from learnt
    own = {*learnt, *bytelevel.SPECIALS, bytelevel.MASK}
    yield from (piece for piece in pieces if piece not in own and not piece.startswith("madeupword"))
