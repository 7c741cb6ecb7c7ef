"""Several folders of shards read as one: the same items, documents and tokens end to end, one tokenizer, places named by file."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from biomlm.core import cli
from biomlm.core.errors import MismatchError
from biomlm.core.files import read_json
from biomlm.core.manifest import Manifest
from biomlm.pretrain.data.dataset import Shards, held_out, require_apart
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


def lines_of(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines(keepends=True)


def test_folders_that_train_on_what_another_holds_out_are_refused(
    tiny_docs: Path,
    tiny_tokenizer: Path,
    tiny_shards: Path,
    tmp_path: Path,
    small_run: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same documents, split in two ways: `docs.jsonl.gz` says which ones are in both."""
    docs, shards, run = tmp_path / "docs", tmp_path / "shards", tmp_path / "run"
    lines = sorted(lines_of(tiny_docs / "train" / "00000.jsonl.gz") + lines_of(tiny_docs / "valid" / "00000.jsonl.gz"))
    files = []
    for split, chosen in (("train", [n % 5 > 0 for n in range(340)]), ("valid", [n % 5 == 0 for n in range(340)])):
        (docs / split).mkdir(parents=True)
        files.append(docs / split / "00000.jsonl.gz")
        files[-1].write_bytes(gzip.compress(b"".join(line for line, here in zip(lines, chosen, strict=True) if here)))
    Manifest("corpus build", {}, "tiny").finish(docs, files, {})
    argv = ["--docs", str(docs), "--tokenizer", str(tiny_tokenizer), "--out", str(shards)]
    assert cli.run(["tokenizer", "encode", *argv]) == 0

    def ids(split: str) -> list[set[str]]:
        found = [lines_of(folder / f"{split}.docs.jsonl.gz") for folder in (tiny_shards, shards)]
        return [{json.loads(line)["id"] for line in lines} for lines in found]

    train, valid = ids("train"), ids("valid")
    shared = (train[0] | train[1]) & (valid[0] | valid[1])
    words = small_run(tiny_shards, run, 2)
    words.insert(words.index("--shards") + 2, str(shards))
    capsys.readouterr()
    assert cli.run(words) == 2
    assert f"{len(shared)} of {len(valid[0] | valid[1])} held-out documents are trained on" in capsys.readouterr().err
    assert not run.exists()
    words[words.index("--shards") + 2] = str(tiny_shards)
    assert cli.run(words) == 2
    assert "names this folder twice" in capsys.readouterr().err


def test_notes_that_two_hospitals_number_alike_are_two_notes(tiny_shards: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_shards, tmp_path / "other")
    for split in ("train", "valid"):
        names = [
            f'{{"id": "note:{n}", "source": "notes", "links": []}}\n' for n in range(300 if split == "train" else 40)
        ]
        (other / f"{split}.docs.jsonl.gz").write_bytes(gzip.compress("".join(names).encode()))
    again = shutil.copytree(other, tmp_path / "again")
    train = Shards([other, again], "train")
    require_apart(train, held_out([other]))  # the same ids, other tokens
    for ending in (".bin", ".idx", ".doc_index.npy", ".segments.npy", ".docs.jsonl.gz"):
        shutil.copy(again / f"train{ending}", again / f"valid{ending}")
    with pytest.raises(MismatchError, match="300 of 300 held-out"):
        require_apart(Shards([other, again], "train"), held_out([again]))


def test_another_tokenizer_is_refused_naming_both(tiny_docs: Path, tiny_shards: Path, tmp_path: Path) -> None:
    docs, tokenizer, shards = str(tiny_docs), str(tmp_path / "tokenizer"), tmp_path / "shards"
    assert cli.run(["tokenizer", "train", "--docs", docs, "--vocab_size", "290", "--out", tokenizer]) == 0
    assert cli.run(["tokenizer", "encode", "--docs", docs, "--tokenizer", tokenizer, "--out", str(shards)]) == 0
    with pytest.raises(MismatchError) as caught:
        Shards([tiny_shards, shards], "train")
    assert str(tiny_shards) in str(caught.value)
    assert str(shards) in str(caught.value)
