"""The configuration of `biomlm tokenizer train`, which every kind of vocabulary reads."""

from dataclasses import dataclass, field
from typing import Literal

from biomlm.core.errors import ConfigError
from biomlm.core.fields import only, require_positive, runtime


@dataclass(frozen=True)
class TrainConfig:
    """Learn a vocabulary.

    Args:
        docs: Folder of documents (`biomlm corpus build`); its train split is used.
        out: Tokenizer folder to write.
        kind: `bpe` is RoBERTa's byte-level BPE, `wordpiece` BERT's, `gatortron` SentencePiece's BPE rewritten as WordPiece.
        vocab_size: Ids in all, special tokens included.
        lowercase: Learn an uncased vocabulary (wordpiece only).
        sources: Learn from documents of these sources only, by the names of `corpus build`'s options; all if empty.
        weights: Source → how often its text counts, such as `{"notes": 2.5}`; 1 for the others; to three decimals.
        sample: Share of the documents to learn from, chosen by a hash of their ids.
        seed: Of the sample.
        min_frequency: Pairs of pieces that stand together less often are not merged (bpe and wordpiece only).
        memory: MiB for counting and learning; beyond it counts go to disk.
        model_max_length: Tokens that the model will take, stated in the folder.
        workers: Processes that count words; 0 takes one a core.
    """

    docs: str = field(metadata={"reads": True})
    out: str = field(metadata={"runtime": True})
    kind: Literal["bpe", "wordpiece", "sentencepiece-bpe", "sentencepiece-unigram", "gatortron"] = "bpe"
    vocab_size: int = 50001
    lowercase: bool = False
    sources: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    sample: float = 1.0
    seed: int = only(1, lambda c: c.sample < 1, "--sample")
    min_frequency: int = 2
    memory: int = 2048
    model_max_length: int = 512
    workers: int = runtime(0)

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size", "model_max_length")
        if self.lowercase and self.kind != "wordpiece":
            raise ConfigError(f"{self.kind} is always cased", remedy="Leave --lowercase out, or take --kind wordpiece.")
        if self.min_frequency != 2 and self.kind not in ("bpe", "wordpiece"):
            raise ConfigError(f"{self.kind} has no min_frequency", remedy="Leave --min_frequency out.")
        if not 0 < self.sample <= 1:
            raise ConfigError("sample is a share of the documents", remedy="Give a --sample above 0 and up to 1.")
        if any(weight < 0.001 for weight in self.weights.values()):
            raise ConfigError("a weight is 0.001 or more", remedy="Leave a source out with --sources.")
        if self.sources and set(self.weights) - set(self.sources):
            raise ConfigError("a weight is given for a source that is left out", remedy="Name it in --sources as well.")
        if self.workers < 0 or self.memory < 16 or self.min_frequency < 1:
            raise ConfigError(
                "workers is from 0 on, memory from 16 on, min_frequency from 1 on", remedy="Correct that option."
            )


@dataclass(frozen=True)
class EncodeConfig:
    """Encode documents into token shards.

    Args:
        docs: Folder of documents (`biomlm corpus build`).
        tokenizer: Tokenizer folder (`biomlm tokenizer train`, or Hugging Face's).
        out: Folder of shards to write.
        pos: spaCy pipeline (name or folder) whose Universal POS tags are written beside the tokens; none if empty.
        workers: Processes that encode; 0 takes one a core.
    """

    docs: str = field(metadata={"reads": True})
    tokenizer: str = field(metadata={"reads": True})
    out: str = field(metadata={"runtime": True})
    pos: str = ""
    workers: int = runtime(0)


@dataclass(frozen=True)
class CompareConfig:
    """Compare vocabularies on documents.

    Args:
        tokenizers: Tokenizer folders.
        docs: Folder of documents (`biomlm corpus build`).
        split: The split to compare on: `valid` was not learnt from.
        documents: Documents to compare on at most, drawn from the whole split by a hash of their ids.
        terms: Files of biomedical terms: one a line, or `.tsv` with IOB tags (word, tab, tag), whose entities are taken.
        examples: Terms to show as each vocabulary cuts them: those on which they differ most.
        page: Markdown file to write the comparison to.
    """

    tokenizers: list[str]
    docs: str
    split: str = "valid"
    documents: int = 2000
    terms: list[str] = field(default_factory=list)
    examples: int = only(12, lambda c: bool(c.terms), "--terms")
    page: str = ""

    def __post_init__(self) -> None:
        require_positive(self, "documents")
