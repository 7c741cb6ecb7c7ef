"""Write a tokenizer folder from BERT's `vocab.txt`, which is all that Google published with its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import processors

from biomlm.tokenizer.formats import bert, folder, stated

CLEANING = ("strip_accents", "tokenize_chinese_chars")


def write_folder(
    vocab_txt: Path, out: Path, *, model_max_length: int = 512, settings: Mapping[str, Any] | None = None
) -> folder.Tokenizer:
    """Write a tokenizer folder.

    Unless `do_lower_case` is stated, a vocabulary with a capital in any piece is cased; else text is lowered and loses its accents, as
    BERT's tokenizer does it.

    Args:
        vocab_txt: A piece a line; the line's number is its id. An `added_tokens.json` beside it is applied.
        out: Where to write; created if it does not exist.
        model_max_length: In tokens.
        settings: What `tokenizer_config.json` states, if there is one.

    Raises:
        DataError: The vocabulary lacks a special piece, or has one twice, or the settings state what cannot be applied.
    """
    vocab = bert.read_vocab(vocab_txt)
    settings = dict(settings or {})
    if settings.get("do_lower_case") is None:
        settings["do_lower_case"] = bert.is_uncased(vocab)
    stated.check_programs(vocab_txt.parent, settings)
    options = stated.wordpiece(vocab_txt.parent, settings)
    hf = bert.hugging_face(vocab, **options)
    # Does what the template does; it stays, for the fingerprint by which shards know the tokenizers of earlier conversions.
    hf.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    stated.add_tokens(vocab_txt.parent, hf, settings)
    cleaning = {key: settings[key] for key in CLEANING if key in settings}
    folder.write(out, hf, bert.settings(options["lowercase"], model_max_length) | cleaning, bert.files(vocab))
    return folder.load(out)
