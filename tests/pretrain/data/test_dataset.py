"""Several folders of shards read as one: the same items, documents and tokens end to end, one tokenizer, places named by file."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from biomlm.core import cli
from biomlm.core.errors import MismatchError
from biomlm.core.files import read_json
from biomlm.pretrain.data.dataset import Shards, held_out
from biomlm.tokenizer.shards import ShardReader


@pytest.fixture(scope="module")
def second(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shards with training and held-out split exchanged, so that the two folders differ."""
    folder = tmp_path_factory.mktemp("second") / "shards"
    shutil.copytree(tiny_shards, folder)
    for ending in (".bin", ".idx", ".doc_index.npy", ".segments.npy", ".docs.jsonl.gz"):
        shutil.copy(tiny_shards / f"train{ending}", folder / f"valid{ending}")
        shutil.copy(tiny_shards / f"valid{ending}", folder / f"train{ending}")
    return folder


def test_folders_stand_end_to_end(tiny_shards: Path, second: Path) -> None:
    both, parts = Shards([tiny_shards, second], "train"), [ShardReader(f, "train") for f in (tiny_shards, second)]
    whole = np.concatenate([part.tokens for part in parts])
    assert both.tokens[:].tolist() == whole.tolist()
    places = np.random.default_rng(0).integers(0, len(whole), 1000)
    assert (both.tokens[places] == whole[places]).all()
    assert both.sizes.tolist() == [*parts[0].sizes, *parts[1].sizes]
    for name in ("doc_index", "segments"):
        first, other = (getattr(part, name) for part in parts)
        assert getattr(both, name).tolist() == [*first[:-1], *(other + len(parts[0]))]
    assert [d["id"] for d in both.documents()] == [d["id"] for part in parts for d in part.documents()]
    assert both.where(len(parts[0].tokens) + 7) == (second / "train.bin", 7)
    assert both.where(7) == (tiny_shards / "train.bin", 7)


def test_one_folder_has_its_own_fingerprint(tiny_shards: Path, second: Path) -> None:
    assert Shards([tiny_shards], "train").fingerprint == ShardReader(tiny_shards, "train").fingerprint
    orders = {Shards(order, "train").fingerprint for order in ([tiny_shards, second], [tiny_shards])}
    assert len(orders) == 2


def test_unigram_entropy_is_the_manifests(tiny_shards: Path) -> None:
    stated = read_json(tiny_shards / "manifest.json")["counts"]["valid"]["unigram_entropy"]  # type: ignore[index]
    found = held_out([tiny_shards])
    assert found is not None
    assert found.unigram_entropy == pytest.approx(stated, abs=1e-12)


def test_folders_without_a_held_out_split_are_passed_over(tiny_shards: Path, second: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(second, bare)
    (bare / "valid.idx").unlink()
    assert held_out([bare]) is None
    found = held_out([bare, tiny_shards])
    assert found is not None
    assert [reader.folder for reader in found.readers] == [tiny_shards]


def test_another_tokenizer_is_refused_naming_both(tiny_docs: Path, tiny_shards: Path, tmp_path: Path) -> None:
    docs, tokenizer, shards = str(tiny_docs), str(tmp_path / "tokenizer"), tmp_path / "shards"
    assert cli.run(["tokenizer", "train", "--docs", docs, "--vocab_size", "290", "--out", tokenizer]) == 0
    assert cli.run(["tokenizer", "encode", "--docs", docs, "--tokenizer", tokenizer, "--out", str(shards)]) == 0
    with pytest.raises(MismatchError) as caught:
        Shards([tiny_shards, shards], "train")
    assert str(tiny_shards) in str(caught.value)
    assert str(shards) in str(caught.value)
