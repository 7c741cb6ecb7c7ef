"""The check's own reading of fairseq's files: against what the real fairseq made of texts, and the check that stands on it."""

import json
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from biomlm.convert.checks.fairseq_reference import FairseqFiles
from biomlm.convert.checks.probe_inputs import sentences

DATA = Path(__file__).parents[2] / "data" / "convert"
BPE = DATA / "bpe"


def test_ids_are_those_of_the_real_fairseq() -> None:
    files = FairseqFiles(BPE / "dict.txt", BPE / "encoder.json", BPE / "vocab.bpe", is_gpt2=True)
    entries = json.loads((DATA / "ids.json").read_text(encoding="utf-8"))
    assert len(entries) > 20
    found = files([entry["text"] for entry in entries])
    assert [[0, *ids, 2] for ids in found] == [entry["ids"] for entry in entries]


def test_the_merges_are_those_of_tokenizers() -> None:
    theirs = ByteLevelBPETokenizer(str(BPE / "encoder.json"), str(BPE / "vocab.bpe"))
    symbols = [line.rsplit(" ", 1)[0] for line in (BPE / "dict.txt").read_text().splitlines()]
    ids = {symbol: 4 + i for i, symbol in enumerate(symbols)}
    files = FairseqFiles(BPE / "dict.txt", BPE / "encoder.json", BPE / "vocab.bpe", is_gpt2=False)
    texts = [sentence for sentence in sentences() if sentence.isascii()]
    assert files(texts) == [[ids.get(str(i), 3) for i in theirs.encode(text).ids] for text in texts]


@pytest.mark.parametrize("is_gpt2", [True, False])
def test_which_lines_are_merges(is_gpt2: bool, tmp_path: Path) -> None:
    """gpt2_bpe drops the first line and what has no line end; hf_byte_bpe only a line `#version`."""
    pieces = ["Ġ", "a", "b", "c", "ab", "bc"]
    (tmp_path / "n.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (tmp_path / "d.txt").write_text("".join(f"{i} 1\n" for i in range(6)))
    (tmp_path / "m.txt").write_text("a b\nb c")
    files = FairseqFiles(tmp_path / "d.txt", tmp_path / "n.json", tmp_path / "m.txt", is_gpt2=is_gpt2)
    assert files(["ab", "bc"]) == ([[5, 6], [6, 7]] if is_gpt2 else [[8], [9]])
