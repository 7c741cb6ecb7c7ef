"""Mixing sources: the stated shares of tokens, each sequence once a pass, nothing but (configuration, shards, seed, step)."""

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.core.errors import ConfigError, DataError
from biomlm.pretrain.data.batches import Batches
from biomlm.pretrain.data.config import BatchConfig, MixConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.mixture import Mixture, Sources, shares
from biomlm.pretrain.data.sequences import Sequences
from biomlm.pretrain.objectives.config import PAIRINGS, MlmConfig


def made(counts: dict[str, int], seed: int = 0) -> tuple[Sequences, Sources]:
    """So many sequences of each source, of one document each and random lengths, the sources in turn shuffled together."""
    random, names = np.random.default_rng(seed), sorted(counts)
    of = random.permutation(np.repeat(np.arange(len(names)), [counts[name] for name in names]))
    length = random.integers(5, 60, len(of))
    bounds = np.concatenate([[0], np.cumsum(length)])
    nothing = np.zeros(0, np.int64)
    labels = np.full(len(of), -100)
    start, stop = bounds[:-1, None], bounds[1:, None]
    sequences = Sequences(start=start, stop=stop, tokens=length + 2, labels=labels, separators=nothing)
    return sequences, Sources(names, of, bounds)


def mixture(counts: dict[str, int], config: MixConfig, seed: int = 0) -> tuple[Mixture, Sequences, Sources]:
    sequences, sources = made(counts)
    return Mixture(lambda _: sequences, sources, config, seed), sequences, sources


COUNTS = {"notes": 300, "pmc": 900, "pubmed": 2000}


@pytest.mark.parametrize(
    ("config", "stated"),
    [
        (MixConfig(weights={"notes": 2, "pmc": 1, "pubmed": 1}), [0.5, 0.25, 0.25]),
        (MixConfig(weights={"notes": 0, "pmc": 3, "pubmed": 1}), [0, 0.75, 0.25]),
        (MixConfig(temperature=2), None),
    ],
)
def test_epochs_have_the_stated_shares_of_tokens(config: MixConfig, stated: list[float] | None) -> None:
    mixed, sequences, sources = mixture(COUNTS, config)
    natural = np.bincount(sources.of(sequences), sequences.tokens)
    wanted = np.array(stated) if stated else np.sqrt(natural) / np.sqrt(natural).sum()
    tokens = np.zeros(3)
    for epoch in range(8):
        read = mixed(epoch).sequences
        of_epoch = np.bincount(sources.of(read), read.tokens, 3)
        tokens += of_epoch
        assert abs(of_epoch.sum() / natural.sum() - 1) < 0.03
    assert np.abs(tokens / tokens.sum() - wanted).max() < 0.005


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_a_source_is_read_whole_before_any_of_it_again(one: int, two: int, seed: int) -> None:
    mixed, _, sources = mixture({"a": 17, "b": 40}, MixConfig(weights={"a": one, "b": two}), seed)
    read: list[Counter[int]] = [Counter(), Counter()]
    for epoch in range(7):
        now = mixed(epoch)
        for start, of, number in zip(now.sequences.start[:, 0], sources.of(now.sequences), now.passes, strict=True):
            assert read[of][int(start)] == number, "passes are numbered as they come"
            read[of][int(start)] += 1
    for source, size in zip(read, (17, 40), strict=True):
        seen = [*source.values(), *[0] * (size - len(source))]
        assert max(seen) - min(seen) <= 1


def test_the_order_depends_on_seed_and_pass_only() -> None:
    config = MixConfig(weights={"notes": 1, "pmc": 1, "pubmed": 1})
    again = [mixture(COUNTS, config, seed)[0](3).sequences.start for seed in (1, 1, 2)]
    assert (again[0] == again[1]).all()
    assert (again[0] != again[2]).any()


def test_passes_read_are_those_of_the_sequences() -> None:
    mixed, sequences, sources = mixture(COUNTS, MixConfig(weights={"notes": 2, "pmc": 1, "pubmed": 1}))
    sizes, read = np.bincount(sources.of(sequences)), np.zeros(3)
    for epoch in range(3):
        now = mixed(epoch)
        half = np.random.default_rng(0).permutation(len(now.sequences))[: len(now.sequences) // 2]
        counted = read + np.bincount(sources.of(now.sequences)[half], minlength=3)
        found = mixed.passes_read(now, epoch, half)
        assert list(found.values()) == pytest.approx(counted / sizes, rel=0.01, abs=0.01)
        read += np.bincount(sources.of(now.sequences), minlength=3)


def test_sources_are_named_as_their_documents_have_them(tiny_shards: Path) -> None:
    both = Shards([tiny_shards, tiny_shards], "train")
    assert Sources.read(both, "source").names == ["text"]
    by_folder = Sources.read(Shards([tiny_shards], "train"), "folder")
    assert by_folder.names == [str(tiny_shards)]
    assert by_folder.bounds[-1] == len(both.tokens) / 2


@pytest.mark.parametrize(
    ("weights", "tokens", "said"),
    [
        ({"notes": 1.0, "pmd": 1.0}, {"notes": 9, "pubmed": 9}, "no source pmd"),
        ({"notes": 1.0}, {"notes": 9, "pubmed": 9}, "pubmed has no weight"),
        ({"notes": 1.0, "pubmed": 1.0}, {"notes": 0, "pubmed": 9}, "notes holds no tokens"),
        ({}, {"notes": 0, "pubmed": 9}, "notes holds no tokens"),
    ],
)
def test_sources_that_are_missing_or_empty_are_refused(
    weights: dict[str, float], tokens: dict[str, int], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        shares(tokens, MixConfig(weights=weights, temperature=1 if weights else 2))


def test_wrong_settings_are_refused() -> None:
    for settings_ in ({"temperature": 0.5}, {"weights": {"a": -1.0}}, {"weights": {"a": 0.0}}):
        with pytest.raises(ConfigError):
            MixConfig(**settings_)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exclude"):
        MixConfig(weights={"a": 1}, temperature=2)


def test_a_sequence_that_an_epoch_holds_twice_is_masked_differently(tiny_shards: Path, tmp_path: Path) -> None:
    """Two folders of the same documents, one of them read three times as often: its places come up to twice in an epoch."""
    second = shutil.copytree(tiny_shards, tmp_path / "again")
    names = [str(tiny_shards), str(second)]
    mix = MixConfig(by="folder", weights={names[0]: 3, names[1]: 1})
    shards = Shards(names, "train")
    made = Batches(shards, MlmConfig(), BatchConfig(tokens=1024, max_length=32), 3, mix=mix)
    masked: list[set[int]] = [set(), set()]  # by pass over the first folder, in its first epoch
    tokens = Counter[int]()
    for index in range(made.per_epoch):
        batch = made.micro_batch(0, index)
        assert batch is not None
        assert batch.places_m is not None
        passes_b = made.order.plan(0).micro_batch(index).passes
        of_m = np.repeat(passes_b, batch.packed.lengths)[batch.positions_m]
        first_m = batch.places_m < shards.tokens.bounds[1]
        tokens.update({True: int(first_m.sum()), False: int((~first_m).sum())})
        for number in (0, 1):
            masked[number] |= set(batch.places_m[first_m & (of_m == number)].tolist())
    assert tokens[True] / tokens[False] == pytest.approx(3, rel=0.1)
    both = len(masked[0] & masked[1]) / len(masked[1])
    assert 0.1 < both < 0.2, "a token of the second pass was masked in the first one as often as any other"


def test_pairs_are_mixed_too(tiny_shards: Path) -> None:
    mix = MixConfig(by="folder", weights={str(tiny_shards): 1})
    sizes = BatchConfig(tokens=512, max_length=64, form="pairs")
    shards = Shards([tiny_shards], "train")
    mixed = Batches(shards, MlmConfig(), sizes, 3, pairing=PAIRINGS["sop"], segments=True, mix=mix)
    plain = Batches(shards, MlmConfig(), sizes, 3, pairing=PAIRINGS["sop"], segments=True)
    assert mixed.per_epoch == plain.per_epoch
    for epoch in (0, 1):
        a, b = mixed.epochs(epoch), plain.epochs(epoch)
        assert sorted(a.sequences.start[:, 0]) == sorted(b.sequences.start[:, 0]), "the same pairs in another order"
        assert (a.passes == epoch).all()


@pytest.mark.parametrize("form", ["document", "full"])
@pytest.mark.parametrize("length", [16, 256])
@pytest.mark.parametrize(("notes", "pubmed"), [(0, 1), (1, 9), (3, 1)])
def test_shares_hold_where_sources_alternate(
    tiny_shards: Path, tmp_path: Path, form: str, length: int, notes: float, pubmed: float
) -> None:
    """Document after document of another source: tokens are recounted by the document that each of them stands in."""
    folder = shutil.copytree(tiny_shards, tmp_path / "shards")
    names = [["notes", "pubmed"][n % 2] for n in range(300)]
    lines = [json.dumps({"id": f"text:{n}", "source": name, "links": []}) + "\n" for n, name in enumerate(names)]
    (folder / "train.docs.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    shards = Shards([folder], "train")
    ends = np.cumsum(shards.sizes)[shards.doc_index[1:] - 1]
    sizes = BatchConfig(tokens=2048, max_length=length, form=form)  # type: ignore[arg-type]
    made = Batches(shards, MlmConfig(), sizes, 3, mix=MixConfig(weights={"notes": notes, "pubmed": pubmed}))
    tokens = Counter[str]()
    for epoch in range(4):
        sequences = made.epochs(epoch).sequences
        for start, stop in zip(sequences.start[:, 0], sequences.stop[:, 0], strict=True):
            places = np.arange(start, stop)
            of, counts = np.unique(
                np.searchsorted(ends, places[shards.tokens[places] != shards.ids.eos], "right"), return_counts=True
            )
            for document, count in zip(of.tolist(), counts.tolist(), strict=True):
                tokens[names[document]] += count
    assert tokens["notes"] / tokens.total() == pytest.approx(notes / (notes + pubmed), abs=0.012)
