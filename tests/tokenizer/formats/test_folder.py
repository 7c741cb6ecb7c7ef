"""The tokenizer folder: Hugging Face and fairseq read the same ids from it, and files that disagree are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from biomlm.core.errors import DataError, MismatchError
from biomlm.tokenizer.formats import bytelevel, fairseq, fairseq_folder, folder

ODD = "  The p53 in HER2-positive tumours, don't <s> it <mask>: é \ue000 \U0001f600 \x07 naïve\n\tend "


def test_special_ids_are_robertas(tok: Path) -> None:
    tokenizer = folder.load(tok)
    assert tokenizer.ids == folder.SpecialIds(bos=0, pad=1, eos=2, unk=3, mask=1999)
    assert tokenizer.vocab_size == 2000
    assert tokenizer.pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokenizer.pieces[-1] == "<mask>"


def test_any_text_survives_and_never_becomes_special(tok: Path) -> None:
    tokenizer = folder.load(tok)
    ids = tokenizer.encode(ODD)
    assert tokenizer.decode(ids) == ODD
    assert not set(ids) & {0, 1, 2, 3, 1999}
    assert tokenizer.encode_batch([ODD, "", "a"]) == [ids, [], tokenizer.encode("a")]


def test_transformers_reads_the_same_ids(tok: Path, abstracts: list[str]) -> None:
    from transformers import AutoTokenizer

    ours, theirs = folder.load(tok), AutoTokenizer.from_pretrained(tok)
    for text in abstracts:
        assert theirs(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"] == ours.encode(text)
    assert theirs("gene")["input_ids"] == [0, *ours.encode("gene"), 2]
    assert theirs.convert_ids_to_tokens(theirs("The <mask> of")["input_ids"])[2] == "<mask>"  # lstrip took the blank
    assert (theirs.mask_token_id, theirs.pad_token_id, theirs.model_max_length) == (1999, 1, 512)
    assert theirs.tokenize("Gene") != theirs.tokenize("gene")


def test_dictionary_is_in_order_of_frequency_and_encoder_in_order_of_learning(tok: Path) -> None:
    counts = [count for _, count in fairseq.read_dict(tok / "dict.txt")]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == 2000 - 5
    encoder = fairseq.read_vocab(tok / "encoder.json")
    merges = fairseq.read_merges(tok / "vocab.bpe")
    assert list(encoder) == [*sorted(bytelevel.alphabet()), *(a + b for a, b in merges)]
    assert list(encoder.values()) == list(range(2000 - 5))


def test_to_fairseq_and_back_is_the_same_folder(tok: Path, tmp_path: Path) -> None:
    files = fairseq_folder.fairseq_files(tok)
    (tmp_path / "fs").mkdir()
    for name, content in files.items():
        (tmp_path / "fs" / name).write_bytes(content)
    back = fairseq_folder.from_fairseq(*(tmp_path / "fs" / name for name in fairseq.FILES), tmp_path / "back")
    assert back.fingerprint == folder.load(tok).fingerprint
    for name in folder.FILES:
        assert (tok / name).exists() == (tmp_path / "back" / name).exists()
        if (tok / name).exists():
            assert (tok / name).read_bytes() == (tmp_path / "back" / name).read_bytes(), name


def test_fairseq_files_of_a_plain_hugging_face_folder(tok: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tok / name, tmp_path / name)
    derived, own = fairseq_folder.fairseq_files(tmp_path), fairseq_folder.fairseq_files(tok)
    assert derived["encoder.json"] == own["encoder.json"]
    assert derived["vocab.bpe"] == own["vocab.bpe"]
    symbols = [[line.split()[0] for line in files["dict.txt"].splitlines()] for files in (derived, own)]
    assert symbols[0] == symbols[1]


def test_a_dictionary_may_lack_pieces_and_hold_padding(tok: Path, tmp_path: Path) -> None:
    files = fairseq_folder.fairseq_files(tok)
    lines = files["dict.txt"].decode().splitlines()
    kept = [*lines[:-100], "madeupword0000 0", "madeupword0001 0"]
    for name, content in {**files, "dict.txt": "\n".join(kept).encode()}.items():
        (tmp_path / name).write_bytes(content)
    tokenizer = fairseq_folder.from_fairseq(*(tmp_path / name for name in fairseq.FILES), tmp_path / "tok")
    assert tokenizer.vocab_size == 4 + 1895 + 2 + 1
    assert tokenizer.ids.mask == tokenizer.vocab_size - 1
    assert tokenizer.outside == 100
    full = folder.load(tok)
    text = "".join(bytelevel_text(full, i) for i in range(4, 1999))
    assert tokenizer.encode(text) == [i if i < 1899 else 3 for i in full.encode(text)]
    assert 3 in tokenizer.encode(text)


def bytelevel_text(tokenizer: folder.Tokenizer, i: int) -> str:
    return tokenizer.decode([i]).replace("\ufffd", "")


def test_word_starts(tok: Path) -> None:
    tokenizer = folder.load(tok)
    starts = tokenizer.is_word_start
    assert starts.dtype == np.bool_
    assert starts.shape == (2000,)
    assert starts[[0, 1, 2, 3, 1999]].all()
    ids = tokenizer.encode(" tumours")
    assert starts[ids].tolist() == [True] + [False] * (len(ids) - 1)


def test_copy_leaves_other_files_alone(tok: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    folder.copy(tok, tmp_path)
    assert folder.load(tmp_path).fingerprint == folder.load(tok).fingerprint
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "manifest.json").exists()


def swap_vocab(path: Path) -> None:
    vocab = json.loads((path / "vocab.json").read_text())
    a, b = list(vocab)[10:12]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (path / "vocab.json").write_text(json.dumps(vocab))


def drop_merge(path: Path) -> None:
    lines = (path / "merges.txt").read_text().splitlines()
    (path / "merges.txt").write_text("\n".join([*lines[:50], *lines[51:]]))


def foreign_merge(path: Path) -> None:
    with (path / "merges.txt").open("a") as file:
        file.write("q qqqqq\n")


def swap_dict(path: Path) -> None:
    lines = (path / "dict.txt").read_text().splitlines()
    (path / "dict.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]))


def other_mask(path: Path) -> None:
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": "[MASK]"}))
    (path / "special_tokens_map.json").unlink()


def other_map(path: Path) -> None:
    names = json.loads((path / "special_tokens_map.json").read_text())
    (path / "special_tokens_map.json").write_text(json.dumps({**names, "pad_token": "<s>"}))


def mask_is_a_number(path: Path) -> None:
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": 7}))


def added_is_a_list(path: Path) -> None:
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**config, "added_tokens_decoder": [1]}))


def other_mask_id(path: Path) -> None:
    config = json.loads((path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["7"] = config["added_tokens_decoder"].pop("1999")
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def not_json(path: Path) -> None:
    (path / "tokenizer.json").write_text("{")


def not_utf8(path: Path) -> None:
    (path / "merges.txt").write_bytes(b"#version: 0.2\n\xff\xfe a\n")


@pytest.mark.parametrize(
    ("damage", "sides"),
    [
        (swap_vocab, ("vocab.json", "tokenizer.json")),
        (drop_merge, ("merges.txt", "tokenizer.json")),
        (foreign_merge, ("merges.txt", "vocabulary")),
        (swap_dict, ("dict.txt", "tokenizer.json")),
        (other_mask, ("tokenizer_config.json", "vocabulary")),
        (other_map, ("special_tokens_map.json has pad_token <s>", "tokenizer_config.json <pad>")),
        (mask_is_a_number, ("tokenizer_config.json", "a special token is a name")),
        (added_is_a_list, ("tokenizer_config.json", "added_tokens_decoder")),
        (other_mask_id, ("tokenizer_config.json", "tokenizer.json")),
        (not_json, ("tokenizer.json", "not a tokenizer")),
        (not_utf8, ("merges.txt", "UTF-8")),
    ],
)
def test_files_that_disagree_are_refused(
    tok: Path, tmp_path: Path, damage: Callable[[Path], None], sides: tuple[str, str]
) -> None:
    folder.copy(tok, tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError) as caught:
        folder.load(tmp_path)
    assert all(side in str(caught.value) for side in sides)


def test_fairseq_cannot_have_another_kind(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b")
    Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    assert folder.load(tmp_path).is_word_start.tolist() == [True] * 6 + [False]
    with pytest.raises(MismatchError, match="byte-level BPE"):
        fairseq_folder.fairseq_files(tmp_path)


@pytest.mark.shared
def test_robertas_own_files(shared: Path, tmp_path: Path) -> None:
    source = shared / "gpt2_bpe"
    tokenizer = fairseq_folder.from_fairseq(*(source / name for name in fairseq.FILES), tmp_path)
    assert (tokenizer.vocab_size, tokenizer.ids.mask, tokenizer.outside) == (50265, 50264, 0)
    assert tokenizer.encode("Hello world") == [31414, 232]  # as published with fairseq's roberta.base
    assert tokenizer.pieces[50260:50262] == ["<|endoftext|>", "madeupword0000"]


@pytest.mark.shared
def test_fairseqs_golden_dictionary(shared: Path, tmp_path: Path) -> None:
    source = shared / "fairseq_golden"
    files = (source / "data-bin" / "dict.txt", source / "bpe" / "encoder.json", source / "bpe" / "vocab.bpe")
    tokenizer = fairseq_folder.from_fairseq(*files, tmp_path)
    with np.load(source / "fairseq-0.12.2" / "logits.npz") as golden:
        assert tokenizer.vocab_size == int(golden["vocab"])
        assert tokenizer.ids.mask == int(golden["mask"])


def test_what_is_no_folder_is_refused_by_its_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hf download roberta-base"):
        folder.load("roberta-base")
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(DataError, match="this is a file"):
        folder.load(tmp_path / "vocab.txt")
