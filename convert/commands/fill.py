"""`biomlm convert fill MODEL`: what a model would put for `<mask>`, the quickest look at whether it has learnt anything."""

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from biomlm.convert.checks.probe_inputs import cut, encode
from biomlm.convert.config import FillConfig
from biomlm.convert.load import Loaded, load_model
from biomlm.core.errors import DataError
from biomlm.core.files import refuse_target, with_keys, write_json
from biomlm.model.packed import pack
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.folder import Tokenizer


def run(config: FillConfig) -> None:
    """Fill every mask; print a table and, with `out`, write JSON.

    Raises:
        DataError: The model has no tokenizer, or no masked-LM head.
    """
    refuse_target(config.out, [config.model], option="--out", ours=with_keys({"model", "sentences"}))
    loaded = load_model(config.model)
    if loaded.tokenizer_dir is None:
        raise DataError("this model has no tokenizer", file=config.model, remedy="Put its tokenizer's files beside it.")
    if not loaded.has_head:
        raise DataError("this model has no masked-LM head", file=config.model, remedy="Give a masked language model.")
    tokenizer = tokenizer_folder.load(loaded.tokenizer_dir)
    filled: list[dict[str, Any]] = [
        {"text": text, "fills": fills}
        for text in config.sentences
        for fills in fill(loaded, tokenizer, text, config.top_k)
    ]
    if config.out:
        write_json(config.out, {"model": config.model, "sentences": filled})
    table = Table("sentence", "fills", box=None, pad_edge=False)
    for sentence in filled:
        words = ", ".join(f"{f['token'].strip()} {f['probability']:.3f}" for f in sentence["fills"])
        table.add_row(sentence["text"], words)
    Console(highlight=False, markup=False).print(table)


@torch.inference_mode()
def fill(loaded: Loaded, tokenizer: Tokenizer, text: str, top_k: int) -> list[list[dict[str, Any]]]:
    """Give, for every mask of a text, the likeliest tokens and their probabilities, best first.

    Args:
        loaded: The model.
        tokenizer: Its tokenizer.
        text: A sentence with masks; what lies beyond the longest sequence is cut off.
        top_k: Tokens for a mask.
    """
    ids = cut(encode(tokenizer, text), loaded.config.max_positions)
    positions_m = torch.tensor([i for i, token in enumerate(ids) if token == tokenizer.ids.mask], dtype=torch.int64)
    logits_mv = loaded.model(pack([ids]), positions_m)[:, : tokenizer.vocab_size]
    best = logits_mv.softmax(-1).topk(min(top_k, logits_mv.shape[1]))
    return [
        [{"token": tokenizer.decode([i]), "probability": p} for i, p in zip(indices, values, strict=True)]
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
