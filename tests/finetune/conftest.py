"""A data set of a tiny language in which the drug's name decides the tag."""

import random
from pathlib import Path

import pytest

DRUGS = ("aspirin", "heparin", "insulin", "metformin")
PLAIN = ("treatment", "with", "often", "protects", "the", "liver", "of", "patients", ",")


def sentence(rng: random.Random, words: int) -> list[tuple[str, str]]:
    """Words and tags; some entities have two words."""
    found: list[tuple[str, str]] = []
    while len(found) < words:
        if rng.random() < 0.25:
            found += [(rng.choice(DRUGS), "B-Drug")] + [("acid", "I-Drug")] * rng.randint(0, 1)
        else:
            found.append((rng.choice(PLAIN), "O"))
    return found


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train, devel and test files; every fifth sentence is several windows long."""
    folder, rng = tmp_path_factory.mktemp("toy"), random.Random(3)
    for fold, count in (("train", 160), ("devel", 30), ("test", 30)):
        rows = [sentence(rng, 60 if i % 5 == 0 else rng.randint(4, 12)) for i in range(count)]
        text = "\n".join("".join(f"{word}\t{tag}\n" for word, tag in row) for row in rows)
        (folder / f"{fold}.tsv").write_text(text, encoding="utf-8")
    return folder
