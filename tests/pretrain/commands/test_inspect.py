"""`biomlm pretrain inspect`: counts agree with a recount from the batches that a run was given, one token at a time."""

from pathlib import Path

import pytest

from biomlm.core import cli
from biomlm.core import config as configuration
from biomlm.core.files import read_json
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.curriculum import Curriculum
from biomlm.pretrain.data.dataset import Shards

SIZES = "--batch.tokens 256 --batch.max_length 32 --precision fp32 --model.num_hidden_layers 1 --model.hidden_size 16"
SHAPE = "--model.num_attention_heads 2 --steps 5 --log_every 2 --eval_every 5 --eval_tokens 200"
MASKS = "--seed 3 --mlm.unit ngram --mlm.mask_rate 0.3"


@pytest.fixture(scope="module")
def run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inspected") / "run"
    assert (
        cli.run(["pretrain", "--shards", str(tiny_shards), "--out", str(out), *f"{SIZES} {SHAPE} {MASKS}".split()]) == 0
    )
    return out


def test_counts_are_those_of_a_slow_recount(run: Path, tmp_path: Path) -> None:
    assert cli.run(["pretrain", "inspect", str(run), "--out", str(tmp_path / "counts.json")]) == 0
    counts = read_json(tmp_path / "counts.json")
    config = configuration.parse(PretrainConfig, ["--config", str(run / "config.yaml")], prog="x", as_it_was=True)
    shards = Shards(config.folders, "train")
    special = {shards.tokenizer.ids.bos, shards.tokenizer.ids.eos}
    pieces = shards.tokenizer.pieces
    text = predicted = masked = kept = words = whole = rows = word_count = 0
    for step in range(5):
        for batch in Curriculum(shards, config, False).step(step):
            labels = dict(zip(batch.positions_m.tolist(), batch.labels_m.tolist(), strict=True))
            ids, start = batch.packed.input_ids_t.tolist(), 0
            for length in batch.packed.lengths:
                sequence: list[list[tuple[int, int | None]]] = []
                for place in range(start, start + length):
                    original = labels.get(place, ids[place])
                    if original in special:
                        sequence.append([])
                        continue
                    text += 1
                    if place in labels:
                        predicted += 1
                        masked += ids[place] == shards.tokenizer.ids.mask
                        kept += ids[place] == original
                    if not sequence[-1] or pieces[original].startswith("Ġ"):
                        sequence.append([])
                    sequence[-1].append((place, labels.get(place)))
                before = False
                for word in sequence:
                    hits = [label is not None for _, label in word]
                    if len(word) > 1 and any(hits):
                        words += 1
                        whole += all(hits)
                    word_count += any(hits)
                    rows += any(hits) and not before
                    before = any(hits)
                start += length
    assert counts["own"] is True
    assert counts["steps"] == 5
    masks = counts["masks"]
    assert isinstance(masks, dict)
    assert masks["rate"] == {"share": round(predicted / text, 5), "of": text}
    assert masks["mask"] == {"share": round(masked / predicted, 5), "of": predicted}
    assert masks["kept"] == {"share": round(kept / predicted, 5), "of": predicted}
    assert masks["whole_words"] == {"share": 1.0, "of": words}
    assert whole == words
    assert masks["words_in_a_row"] == pytest.approx(word_count / rows, abs=1e-3)
    assert counts["pairs"] == []


def test_it_stops_after_so_many_tokens_and_tells_what_it_looked_at(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["pretrain", "inspect", str(run), "--tokens", "100"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "steps 1 " in told
    assert "the run's own not known" in told, "the first record is of two steps"
    assert "masks: rate" in told


def test_what_is_no_run_is_refused(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pretrain", "inspect", str(tiny_shards)]) == 2
    assert "was written by `biomlm tokenizer encode`" in capsys.readouterr().err
