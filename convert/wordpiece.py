"""A tokenizer folder from BERT's `vocab.txt`, which is all that Google published with its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from biomlm.convert.safe_load.archive import scratch
from biomlm.core.errors import DataError
from biomlm.core.files import write_json
from biomlm.tokenizer.formats import bert, stated

SPECIALS = {
    name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
}
LONGEST_WORD = 100  # characters, as in BERT's tokenization.py; longer words are [UNK]


def folder(vocabulary: Path, model_max_length: int, settings: Mapping[str, Any] | None = None) -> Path:
    """Write a tokenizer folder; where it is.

    If nothing says so, a vocabulary with a capital in any piece is cased; else text is lowered and loses its accents, as BERT's
    tokenizer does it.

    Args:
        vocabulary: A piece a line; the line's number is its id.
        model_max_length: In tokens.
        settings: What `tokenizer_config.json` states, if there is one.

    Raises:
        DataError: It lacks a special piece, or has one twice, or the settings state what cannot be applied.
    """
    pieces = vocabulary.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    vocab = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
    missing = [piece for piece in SPECIALS.values() if piece not in vocab]
    if missing or len(vocab) != len(pieces):
        problem = f"it lacks {missing[0]}" if missing else f"{len(pieces) - len(vocab)} of its pieces stand in it twice"
        raise DataError(problem, file=vocabulary, remedy="Get the vocabulary that belongs to the checkpoint.")
    guessed = not any(piece != piece.lower() for piece in vocab if not piece.startswith("["))
    said = {"do_lower_case": guessed, **(settings or {})}
    if said["do_lower_case"] is None:
        said["do_lower_case"] = guessed
    stated.check_programs(vocabulary.parent, said)
    options = stated.wordpiece(vocabulary.parent, said)
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
    tokenizer.normalizer = bert.normalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tokenizer.add_special_tokens(list(SPECIALS.values()))
    stated.add_tokens(vocabulary.parent, tokenizer, said)
    target = scratch()
    tokenizer.save(str(target / "tokenizer.json"))
    written = {"tokenizer_class": "BertTokenizer", "do_lower_case": options["lowercase"]}
    written |= {key: said[key] for key in ("strip_accents", "tokenize_chinese_chars") if key in said}
    write_json(target / "tokenizer_config.json", written | {"model_max_length": model_max_length} | SPECIALS)
    write_json(target / "special_tokens_map.json", SPECIALS)
    (target / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocab), encoding="utf-8")
    return target
