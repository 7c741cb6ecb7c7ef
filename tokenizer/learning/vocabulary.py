"""Hold a learnt vocabulary of any kind, and learn merges up to the size that was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from biomlm.core.errors import ConfigError, DataError
from biomlm.core.progress import progress
from biomlm.tokenizer.config import TrainConfig
from biomlm.tokenizer.learning.merges import LearntMerges, Words, learn


@dataclass(frozen=True)
class LearntVocabulary:
    """A learnt vocabulary, as `folder.write` takes it.

    Args:
        hf: The `tokenizers` object.
        settings: `tokenizer_config.json`.
        files: The other files: name → content.
    """

    hf: Tokenizer
    settings: Mapping[str, Any]
    files: Mapping[str, bytes]


def learn_merges(words: Words, specials: int, config: TrainConfig) -> LearntMerges:
    """Learn as many merges as fill the vocabulary behind the special tokens and the base symbols.

    Raises:
        ConfigError: The size does not even hold those.
        DataError: The text supports fewer merges.
    """
    smallest = specials + words.base
    if config.vocab_size < smallest:
        raise ConfigError(
            f"a vocabulary of {config.vocab_size} cannot hold {specials} special tokens and {words.base} symbols",
            remedy=f"Give a --vocab_size of at least {smallest}.",
        )
    most = config.vocab_size - smallest
    with progress("learn merges", most, "merges") as bar:
        learnt = learn(words, most, config.min_frequency, bar.advance)
    if len(learnt.merges) < most:
        raise too_large(config, smallest + len(learnt.merges))
    return learnt


def too_large(config: TrainConfig, supported: int) -> DataError:
    """Return the error that names the size that was asked for and the one that the text supports."""
    return DataError(
        f"a vocabulary of {config.vocab_size} ids was asked for, and the text supports {supported}",
        file=config.docs,
        remedy=f"Give more text or a --vocab_size of at most {supported}.",
    )
