"""How a new vocabulary stands to the old one of a model that a run starts from, piece by piece."""

import numpy as np
from tokenizers import pre_tokenizers

from biomlm.convert.load import Loaded
from biomlm.core.errors import MismatchError
from biomlm.model.encoder import MaskedLM
from biomlm.model.vocabulary_transfer import MOST_TOKENS, Overlap, focus_weights, mean_weights, transfer
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.tokenizer.formats import folder
from biomlm.tokenizer.formats.folder import Tokenizer

ROLES = ("bos", "pad", "eos", "unk", "mask")


def renew(loaded: Loaded, config: PretrainConfig, reader: Shards) -> MaskedLM:
    """Move a loaded model to the shards' vocabulary, by `config.init_vocabulary` (see `model.vocabulary_transfer`).

    Raises:
        MismatchError: There is no tokenizer beside the model, so nobody knows what its rows stand for.
    """
    if loaded.tokenizer_dir is None:
        raise MismatchError(
            "it has no tokenizer beside it", file=config.init, remedy="Put its tokenizer files into its folder."
        )
    old, new = folder.load(loaded.tokenizer_dir), reader.tokenizer
    matched, rows, how = overlap(old, new), loaded.config.vocab_size, config.init_vocabulary
    if how == "random":
        special = {getattr(new.ids, role) for role in ROLES}
        matched = Overlap([ids if i in special else [] for i, ids in enumerate(matched.pieces)], matched.shared)
    if how == "focus":
        tokens = reader.tokens[:MOST_TOKENS]
        weights_vo = focus_weights(matched, rows, tokens[tokens != new.ids.eos])
    else:
        weights_vo = mean_weights(matched, rows)
    return transfer(loaded.model, weights_vo, new.ids.pad, config.model.pad_vocab_to)


def overlap(old: Tokenizer, new: Tokenizer) -> Overlap:
    """Compare two vocabularies; special tokens correspond by their roles."""
    special = {getattr(new.ids, role): getattr(old.ids, role) for role in ROLES}
    taken = set(special.values())
    same_kind = _is_byte_level(old) and _is_byte_level(new)
    old_ids = {_surface(old, i, same_kind): i for i in range(old.vocab_size) if i not in taken}
    pieces: list[list[int]] = []
    shared = np.zeros(new.vocab_size, dtype=np.bool_)
    for i in range(new.vocab_size):
        surface = _surface(new, i, same_kind)
        old_id = special.get(i, old_ids.get(surface))
        shared[i] = old_id is not None
        pieces.append([old_id] if old_id is not None else _spell(old, surface, same_kind))
    return Overlap(pieces, shared)


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    return isinstance(tokenizer.hf.pre_tokenizer, pre_tokenizers.ByteLevel)


def _surface(tokenizer: Tokenizer, i: int, same_kind: bool) -> str:
    """Return the piece between byte-level vocabularies (it may be half a character), else its text, a blank before a word's start."""
    if same_kind:
        return tokenizer.pieces[i]
    text = tokenizer.decode([i]).strip().removeprefix("##")
    return f" {text}" if tokenizer.is_word_start[i] else text


def _spell(old: Tokenizer, surface: str, same_kind: bool) -> list[int]:
    """List the old pieces that a new one is written with."""
    ids = [token.id for token in old.hf.model.tokenize(surface)] if same_kind else old.encode(surface)
    return [i for i in ids if i != old.ids.unk and i < old.vocab_size]
