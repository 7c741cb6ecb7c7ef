"""Do a model's tokenizer and the one that was written beside its conversion give the same ids? Asked on a thousand real sentences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomlm.convert.checks.probe_inputs import sentences, texts
from biomlm.core.errors import ConversionError
from biomlm.tokenizer.formats.folder import Tokenizer


@dataclass(frozen=True)
class Agreement:
    """How many sentences both tokenizers gave the same ids for.

    Args:
        equal: Sentences with equal ids.
        sentences: Sentences compared; 0 when the source has no tokenizer.
    """

    equal: int
    sentences: int

    @property
    def summary_text(self) -> str:
        """The result, for a summary."""
        return (
            f"{self.equal} of {self.sentences}" if self.sentences else "no tokenizer found: none written (--tokenizer)"
        )

    def demand(self, file: Path) -> None:
        """Refuse a conversion whose tokenizer reads differently.

        Raises:
            ConversionError: The two differ on a sentence.
        """
        if self.equal < self.sentences:
            raise ConversionError(
                f"the tokenizers differ on {self.sentences - self.equal} of {self.sentences} sentences; nothing was written",
                file=file,
                remedy="Please report this tokenizer.",
            )


TokenIds = Callable[[Tokenizer, Path, Sequence[str]], list[list[int]]]


def agree(source: Tokenizer | None, folder: Path, token_ids: TokenIds, *, words: bool = False) -> Agreement:
    """Compare a source's tokenizer with the one in a written folder, which is read as its own format's users will read it.

    Args:
        source: The source's; None if it has none.
        folder: The target.
        token_ids: Gives texts' ids by the tokenizer there.
        words: Whether it reads a first word like the others, with a blank in front.
    """
    if source is None:
        return Agreement(0, 0)
    examples = [text for text in [*sentences(), *texts()] if "<mask>" not in text]
    front = " " if words else ""
    source_ids = source.encode_batch([front + text if text and text[0] != " " else text for text in examples])
    written_ids = token_ids(source, folder, examples)
    return Agreement(sum(a == b for a, b in zip(source_ids, written_ids, strict=True)), len(examples))


def by_transformers(source: Tokenizer, folder: Path, examples: Sequence[str]) -> list[list[int]]:
    """Give the ids that a user of transformers gets, without the special tokens around them; those past the model's are unknown to it."""
    import transformers

    try:
        loaded: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a stranger's tokenizer_config.json makes transformers stumble over
        raise ConversionError(
            f"transformers cannot read the tokenizer that goes along ({type(error).__name__}: {str(error)[:120]})",
            file=folder,
            remedy="Mend the source's tokenizer_config.json, or give --tokenizer.",
        ) from None
    ids: list[list[int]] = loaded(list(examples), add_special_tokens=False, verbose=False)["input_ids"]
    return [[source.ids.unk if i >= source.vocab_size else i for i in row] for row in ids]
