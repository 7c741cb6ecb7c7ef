"""Learn SentencePiece's vocabularies (Kudo and Richardson 2018), and GatorTron's: SentencePiece's BPE rewritten as WordPiece.

SentencePiece learns from our word counts, so its memory follows the number of distinct words. Its own model is kept beside Hugging
Face's files; both give the same ids.
"""

import io
import re
import tempfile
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from biomlm.core.errors import DataError, kind
from biomlm.core.progress import progress
from biomlm.tokenizer.config import TrainConfig
from biomlm.tokenizer.formats import bert
from biomlm.tokenizer.formats.bytelevel import MASK, SPECIALS
from biomlm.tokenizer.learning import wordpiece
from biomlm.tokenizer.learning.count import Counts
from biomlm.tokenizer.learning.vocabulary import LearntVocabulary, too_large

OPENS = "▁"  # in front of a piece that opens a word
UNUSED = tuple(f"[unused{i}]" for i in range(1, 100))
GATORTRON = ("[PAD]", *UNUSED, "[UNK]", "[CLS]", "[SEP]", "[MASK]")
THREADS = 16  # SentencePiece's sums depend on their number, so it is not the machine's


def split(text: str) -> list[str]:
    """Split a text at white space only: SentencePiece cuts the words itself."""
    return text.split()


def _train(counts: Counts, config: TrainConfig, vocab_size: int, **options: Any) -> bytes:
    """Learn SentencePiece's model of `vocab_size` pieces, its special ones included."""
    model = io.BytesIO()
    # Beside the output, for it holds words of notes: it is swept there if this process is killed.
    with tempfile.NamedTemporaryFile(
        "w", dir=config.out, prefix=".words.", suffix=".tmp", encoding="utf-8", newline="\n"
    ) as file:
        file.writelines(f"{word}\t{times}\n" for word, times in counts.items())
        file.flush()
        try:
            with progress("learn pieces", vocab_size, "pieces") as bar:
                sentencepiece.SentencePieceTrainer.train(
                    input=file.name,
                    input_format="tsv",
                    model_writer=model,
                    vocab_size=vocab_size,
                    normalization_rule_name="nmt_nfkc",
                    num_threads=THREADS,
                    minloglevel=2,
                    **options,
                )
                bar.advance(vocab_size)
        except RuntimeError as error:
            numbers = re.search(r"too high \((\d+)\).*<= (\d+)", str(error))
            if numbers:
                raise too_large(config, int(numbers[2]) + config.vocab_size - vocab_size) from None
            problem = kind(error)  # its message can quote a line
            raise DataError(
                f"SentencePiece cannot learn from it: {problem}", file=config.docs, remedy="Give more text."
            ) from None
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    proto.trainer_spec.ClearField("input")  # the name of the temporary file
    return bytes(proto.SerializeToString(deterministic=True))


def learn(counts: Counts, config: TrainConfig) -> LearntVocabulary:
    """Learn SentencePiece's BPE or unigram vocabulary: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, `<mask>` 4, pieces."""
    model = _train(
        counts,
        config,
        config.vocab_size,
        model_type=config.kind.removeprefix("sentencepiece-"),
        character_coverage=0.9995,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        control_symbols=[MASK],
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIALS, strict=True))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.model_max_length,
        "do_lower_case": False,
        "clean_up_tokenization_spaces": False,
        **names,
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": MASK,
    }
    return LearntVocabulary(hugging_face(model), settings, {"sentencepiece.model": model})


def hugging_face(model: bytes) -> Tokenizer:
    """Make the `tokenizers` object that gives a SentencePiece model's ids."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    scored = [(piece.piece, piece.score) for piece in proto.pieces]
    if proto.trainer_spec.model_type == proto.trainer_spec.BPE:
        vocab = {piece: i for i, (piece, _) in enumerate(scored)}
        hf = Tokenizer(models.BPE(vocab, _merges(vocab), unk_token="<unk>", fuse_unk=True))
    else:
        hf = Tokenizer(models.Unigram(scored, unk_id=proto.trainer_spec.unk_id, byte_fallback=False))
    charsmap = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    hf.normalizer = normalizers.Sequence([charsmap, normalizers.Replace(Regex(" {2,}"), " ")])
    hf.pre_tokenizer = pre_tokenizers.Metaspace(replacement=OPENS, prepend_scheme="always")
    hf.decoder = decoders.Metaspace(replacement=OPENS, prepend_scheme="always")
    hf.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    hf.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    hf.add_special_tokens([AddedToken(MASK, lstrip=True, special=True, normalized=False)])
    return hf


def _merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """List every way to make a piece of two others, in order of the pieces: SentencePiece merges the pair whose piece comes first."""
    merges = []
    for piece in vocab:
        cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        pairs = [(left, right) for left, right in cuts if left in vocab and right in vocab]
        merges += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges


def learn_gatortron(counts: Counts, config: TrainConfig) -> LearntVocabulary:
    """Learn GatorTron's vocabulary: its header, then SentencePiece's BPE pieces as WordPiece.

    Settings as published with it: nmt_nfkc, coverage 0.9999, pieces of up to 128 characters (docs of NVIDIA's GatorTron and
    Yang et al. 2022, "A large language model for electronic health records").
    """
    own = 3  # <unk>, <s>, </s> of SentencePiece
    more = 1  # `▁` alone is no WordPiece, and `▁##a` becomes the same one as `a`
    while True:
        model = _train(
            counts,
            config,
            config.vocab_size - len(GATORTRON) + own + more,
            model_type="bpe",
            character_coverage=0.9999,
            max_sentencepiece_length=128,
        )
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        pieces = [piece.piece for piece in proto.pieces[own:] if piece.piece != OPENS]
        as_wordpiece = [piece[1:] if piece.startswith(OPENS) else bert.INSIDE + piece for piece in pieces]
        vocab = dict.fromkeys([*GATORTRON, *as_wordpiece])
        if len(vocab) == config.vocab_size:
            return wordpiece.from_pieces({piece: i for i, piece in enumerate(vocab)}, False, config.model_max_length)
        more += config.vocab_size - len(vocab)
