"""Do a model's tokenizer and the one that was written beside its conversion give the same ids? Asked on a thousand real sentences.

Three answers are compared: what the source's own rules give (fairseq's by `checks.fairseq_reference`, a Hugging Face folder's by
transformers), what our reading of it gives, by which everything here computes, and what the written files give to the target's users.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomlm.convert.checks.probe_inputs import sentences, texts
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.safe_load.archive import scratch
from biomlm.core.errors import ConversionError
from biomlm.core.files import read_json, write_json
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.tokenizer.formats.folder import Tokenizer

SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True)
class Agreement:
    """How many sentences all tokenizers gave the same ids for.

    Args:
        equal: Sentences with equal ids.
        sentences: Sentences compared; 0 when the source has no tokenizer.
        by: Whose rules the source was read by, beside our own reading.
    """

    equal: int
    sentences: int
    by: str = ""

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


def agree(source: SourceCheckpoint, folder: Path, token_ids: TokenIds, *, words: bool = False) -> Agreement:
    """Compare a source's tokenizer with the one in a written folder, which is read as its own format's users will read it.

    Args:
        source: The source, with its tokenizer loaded if it has one.
        folder: The target.
        token_ids: Gives texts' ids by the tokenizer there.
        words: Whether it reads a first word like the others, with a blank in front.
    """
    tokenizer = source.tokenizer
    if tokenizer is None:
        return Agreement(0, 0)
    examples = _examples()
    if words and source.word_state:
        examples = [text for text in examples if _is_cut_after_cleaning(source, text)]
    given = _with_blank(examples) if words else examples
    if words and source.word_state:
        read = own = _by_words(source, examples)
    else:
        read = tokenizer.encode_batch(given)
        own = _known(tokenizer, source.token_rule(given)) if source.token_rule else read
    written = token_ids(tokenizer, folder, examples)
    return Agreement(
        sum(a == b == c for a, b, c in zip(own, read, written, strict=True)),
        len(examples),
        str(source.token_rule or ""),
    )


def alike(a: SourceCheckpoint, b: SourceCheckpoint) -> Agreement | None:
    """Compare the tokenizers of two models; None if one has none."""
    if a.tokenizer is None or b.tokenizer is None:
        return None
    words = a.reads_words or b.reads_words
    cut = [model for model in (a, b) if model.word_state]
    examples = [text for text in _examples() if all(_is_cut_after_cleaning(model, text) for model in cut)]
    sides = ((a, a.tokenizer), (b, b.tokenizer))
    both = zip(*(_ids(model, tokenizer, examples, words=words) for model, tokenizer in sides), strict=True)
    return Agreement(sum(x == y for x, y in both), len(examples))


def _ids(model: SourceCheckpoint, tokenizer: Tokenizer, examples: Sequence[str], *, words: bool) -> list[list[int]]:
    """Give the ids that a model reads for each text."""
    if model.word_state:
        return _by_words(model, examples)
    given = _with_blank(examples) if words else examples
    return _known(tokenizer, model.token_rule(given)) if model.token_rule else tokenizer.encode_batch(given)


def _is_cut_after_cleaning(model: SourceCheckpoint, text: str) -> bool:
    """Return whether a text has as many words before BERT's cleaning, as in training, as behind it, where a pipeline cuts.

    Cleaning takes away what has no width, and accents that are characters of their own.
    """
    assert model.tokenizer
    assert model.cutting
    cleaning, cut = model.tokenizer.hf.normalizer, model.cutting.words
    return not cleaning or len(cut(cleaning.normalize_str(text))) == len(cut(text))


def _by_words(model: SourceCheckpoint, examples: Sequence[str]) -> list[list[int]]:
    """Give the ids of texts that are cut into words first."""
    assert model.tokenizer
    assert model.cutting
    rows = [model.tokenizer.encode_batch(model.cutting.spelled(text)) for text in examples]
    return [[i for word in row for i in word] for row in rows]


def _examples() -> list[str]:
    return [text for text in [*sentences(), *texts()] if "<mask>" not in text]


def _with_blank(examples: Sequence[str]) -> list[str]:
    return [f" {text}" if text and text[0] != " " else text for text in examples]


def _known(tokenizer: Tokenizer, ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Replace ids past the model's, which are unknown to it."""
    return [[tokenizer.ids.unk if i >= tokenizer.vocab_size else i for i in row] for row in ids]


def by_transformers(source: Tokenizer, folder: Path, examples: Sequence[str]) -> list[list[int]]:
    """Give the ids that a user of transformers gets, without the special tokens around them; those past the model's are unknown to it."""
    return _known(source, _transformers_ids(folder, examples, folder))


@dataclass(frozen=True)
class TransformersRule:
    """Gives texts' ids as transformers reads a stranger's tokenizer folder, of which it sees nothing else.

    Args:
        folder: With `tokenizer.json`, or with the files that stand for it.
        model_type: Of its model, by which transformers chooses a class where the folder names none.
        cased: Whether a vocabulary is that does not say so itself.
    """

    folder: Path
    model_type: str
    cased: bool | None = None

    def __str__(self) -> str:
        """Name the rules."""
        return "transformers"

    def __call__(self, examples: Sequence[str]) -> list[list[int]]:
        """Give the ids of each text, without special tokens around them."""
        copy = scratch()
        for name in tokenizer_folder.FILES:
            if (self.folder / name).is_file():
                tokenizer_folder.copy_file(self.folder / name, copy / name)
        stated = read_json(copy / SETTINGS) if (copy / SETTINGS).is_file() else {}
        if self.cased is not None and stated.get("do_lower_case") is None:
            write_json(copy / SETTINGS, {**stated, "do_lower_case": not self.cased})
        write_json(copy / "config.json", {"model_type": self.model_type})
        return _transformers_ids(copy, examples, self.folder)


def _transformers_ids(folder: Path, examples: Sequence[str], named: Path) -> list[list[int]]:
    """Read a folder by transformers; a message names the folder that it was made from."""
    import transformers

    try:
        loaded: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return loaded(list(examples), add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[no-any-return]
    except Exception as error:  # whatever a stranger's tokenizer_config.json makes transformers stumble over
        problem = str(error).replace(str(folder), named.name)[:120]
        raise ConversionError(
            f"transformers cannot read the tokenizer that goes along ({type(error).__name__}: {problem})",
            file=named,
            remedy="Mend the source's tokenizer_config.json, or give --tokenizer.",
        ) from None
