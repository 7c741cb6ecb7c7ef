"""Held-out figures against an independent computation, in all and by source; filled-in examples of those sources only that may be shown."""

import gzip
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch
import torch.nn.functional as F

from biomlm.core import cli
from biomlm.core import config as configuration
from biomlm.core.files import read_json
from biomlm.core.metrics import read_metrics
from biomlm.model.config import ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.curriculum import Curriculum
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.pretrain.training.evaluate import Evaluator, TermEvaluator, evaluated
from biomlm.training.distributed.process_group import RankInfo, World

CPU = Device(torch.device("cpu"), "fp32")
SIZES = BatchConfig(tokens=256, max_length=32)
RUN = ["--model.size", "tiny", "--model.num_hidden_layers", "1", "--model.hidden_size", "32", "--steps", "4"]
RUN += ["--model.num_attention_heads", "2", "--batch.tokens", "256", "--batch.max_length", "32", "--eval_every", "2"]


@pytest.fixture(scope="module")
def two_sources(tiny_shards: Path, list_anew: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards, with every third document said to be a note and the others to be of PubMed."""
    folder = tmp_path_factory.mktemp("sources") / "shards"
    shutil.copytree(tiny_shards, folder)
    for split in ("train", "valid"):
        path = folder / f"{split}.docs.jsonl.gz"
        documents = [orjson.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        lines = [orjson.dumps({**d, "source": "pubmed" if i % 3 else "notes"}) for i, d in enumerate(documents)]
        path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n", mtime=0))
    list_anew(folder)
    return folder


@pytest.fixture(scope="module")
def model(tiny_shards: Path) -> MaskedLM:
    torch.manual_seed(0)
    shape = ModelConfig(size="tiny", num_hidden_layers=1, hidden_size=32, num_attention_heads=2)
    return MaskedLM(shape.resolve(300, 32, 1)).train()


def test_figures_are_those_of_a_plain_computation(two_sources: Path, model: MaskedLM) -> None:
    shards = Shards([two_sources], "valid")
    evaluator = Evaluator(shards, SIZES, 0.15, 0)
    found = evaluator(model, CPU)
    assert model.training
    model.eval()
    sources = [document["source"] for document in shards.documents()]
    document_of = {}
    for document, (first, last) in enumerate(zip(shards.doc_index[:-1], shards.doc_index[1:], strict=True)):
        begin, end = int(shards.sizes[:first].sum()), int(shards.sizes[:last].sum())
        document_of.update(dict.fromkeys(range(begin, end), document))
    losses: dict[str, list[float]] = {"pubmed": [], "notes": []}
    right: dict[str, list[bool]] = {"pubmed": [], "notes": []}
    for step in range(evaluator.batches.steps_per_epoch):
        for batch in evaluator.batches.step(step):
            with torch.no_grad():
                scores = F.log_softmax(model(batch.packed, batch.positions_m), dim=-1)
            assert batch.places_m is not None
            for row, label, place in zip(scores, batch.labels_m, batch.places_m.tolist(), strict=True):
                source = sources[document_of[place]]
                losses[source].append(-float(row[label]))
                right[source].append(int(row.argmax()) == int(label))
    model.train()
    flat = losses["pubmed"] + losses["notes"]
    assert found.masked_tokens == len(flat)
    assert found.loss == pytest.approx(sum(flat) / len(flat), abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    for source, values in losses.items():
        of = found.sources[source]
        assert of["masked_tokens"] == len(values) > 50
        assert of["loss"] == pytest.approx(sum(values) / len(values), abs=1e-5)
        assert of["accuracy"] == pytest.approx(sum(right[source]) / len(values))
        assert found.as_metrics()[f"loss/{source}"] == of["loss"]


class Dealt(World):
    """One of several ranks, whose sums come together in a list instead of over a network."""

    def __init__(self, rank: int, size: int, heard: list[torch.Tensor]):
        super().__init__(RankInfo())
        self.rank, self.size, self.heard, self.asked = rank, size, heard, 0

    def break_off_if_asked(self) -> None:
        self.asked += 1

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        self.heard.append(values.clone())
        return values.copy_(torch.stack(self.heard).sum(0))


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("tokens", [0, 500])
def test_any_number_of_ranks_gives_the_same_bits(two_sources: Path, model: MaskedLM, size: int, tokens: int) -> None:
    shards, heard = Shards([two_sources], "valid"), list[torch.Tensor]()
    worlds = [Dealt(rank, size, heard) for rank in range(size)]
    alone = Evaluator(shards, SIZES, 0.15, tokens)
    wanted, seen = alone(model, CPU), 0
    for world in worlds:
        evaluator = Evaluator(shards, SIZES, 0.15, tokens, world=world)
        found = evaluator(model, CPU)
        seen += int((heard[-1][: len(evaluated(alone.batches, alone.max_tokens)), 0] > 0).sum())
    assert found == wanted, "the last rank has heard of all the others"
    assert seen == len(evaluated(alone.batches, alone.max_tokens)), "each micro-batch is somebody's, once"
    assert len({len(part) for part in heard}) == 1, "all ranks go forward equally often"
    assert {world.asked for world in worlds} == {len(heard[0]) // size}, "before each of their micro-batches"


def test_one_source_has_no_figures_of_its_own(tiny_shards: Path, model: MaskedLM) -> None:
    assert Evaluator(Shards([tiny_shards], "valid"), SIZES, 0.15, 500)(model, CPU).sources == {}


def test_a_run_reports_by_source_and_mixes_by_weight(
    two_sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mix = ["--mix.weights", '{"notes": 3, "pubmed": 1}']
    assert cli.run(["pretrain", "--shards", str(two_sources), "--out", str(tmp_path / "run"), *RUN, *mix]) == 0
    result = read_json(tmp_path / "run" / "result.json")
    assert result["valid"]["sources"].keys() == {"notes", "pubmed"}  # type: ignore[index, union-attr, call-overload]
    passes = result["epochs_by_source"]
    assert passes["notes"] > 3 * passes["pubmed"] > 0  # type: ignore[index, call-overload, operator]
    assert 0 <= result["data_wait"] < 1  # type: ignore[operator]
    assert 0 < result["mfu"] < 1  # type: ignore[operator]
    valid = [record for record in read_metrics(tmp_path / "run") if record["split"] == "valid"]
    assert {"loss", "perplexity", "accuracy", "loss/notes", "loss/pubmed"} <= valid[0].keys()
    assert valid[-1]["epochs/notes"] == pytest.approx(passes["notes"], abs=1e-4)  # type: ignore[index, call-overload]
    shown = capsys.readouterr().out
    for row in ("passes over notes", "held-out loss, pubmed", "held-out perplexity", "model FLOPs utilisation"):
        assert row in shown


def test_examples_are_of_public_sources_only(
    two_sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = ["pretrain", "--shards", str(two_sources), "--out", str(run), *RUN, "--examples.count", "500"]
    assert cli.run(argv) == 0
    texts = (run / "examples.txt").read_text().split("\n\n")
    shards = Shards([two_sources], "valid")
    public = [number for number, d in enumerate(shards.documents()) if d["source"] == "pubmed"]
    assert texts[0].startswith("step 4;")
    assert any("Treatment with" in text for text in texts[1:])
    assert sum("[" in text for text in texts[1:]) > 0.8 * len(texts)
    evaluator = Evaluator(shards, SIZES, 0.15, 0)
    wanted = int((evaluator.sources.of(evaluator.batches.epochs(0).sequences) == 1).sum())
    assert len(texts) - 1 == wanted >= len(public)
    captured = capsys.readouterr()
    assert "Treatment" not in captured.out + captured.err
    assert not any("Treatment" in file.read_text() for file in (run / "metrics.jsonl", run / "manifest.json"))


def test_examples_of_other_sources_must_be_asked_for(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["pretrain", "--shards", str(tiny_shards), "--out", str(tmp_path / "run"), *RUN, "--examples.count", "2"]
    assert cli.run(argv) == 2
    assert "the held-out documents are of text" in capsys.readouterr().err
    assert cli.run([*argv, "--examples.sources", "text"]) == 0
    assert len((tmp_path / "run" / "examples.txt").read_text().strip().split("\n\n")) == 3


def test_none_are_written_unasked(two_sources: Path, tmp_path: Path) -> None:
    assert cli.run(["pretrain", "--shards", str(two_sources), "--out", str(tmp_path / "run"), *RUN]) == 0
    assert not (tmp_path / "run" / "examples.txt").exists()


def test_a_part_of_the_split_is_the_same_for_any_micro_batch(two_sources: Path, model: MaskedLM) -> None:
    shards = Shards([two_sources], "valid")
    found = [Evaluator(shards, BatchConfig(tokens, 1, 32), 0.15, 500)(model, CPU) for tokens in (32, 100, 256, 2000)]
    assert {one.tokens for one in found} == {found[0].tokens}
    assert 500 <= found[0].tokens < 532, "up to the sequence that reaches it"
    for one in found[1:]:
        assert one.masked_tokens == found[0].masked_tokens
        assert one.accuracy == found[0].accuracy
        assert one.loss == pytest.approx(found[0].loss, abs=1e-6)


def test_a_mean_over_nothing_is_no_figure(
    two_sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A held-out split of which no token is masked, as one of the single document `Ok.` may be."""
    run = tmp_path / "run"
    nothing = ["--eval_mask_rate", "1e-9"]
    assert cli.run(["pretrain", "--shards", str(two_sources), "--out", str(run), *RUN, *nothing]) == 0
    valid = read_json(run / "result.json")["valid"]
    assert (valid["loss"], valid["accuracy"], valid["perplexity"], valid["masked_tokens"]) == (None, None, None, 0)  # type: ignore[index, call-overload]
    records = [record for record in read_metrics(run) if record["split"] == "valid"]
    assert records
    assert all({"loss", "perplexity", "accuracy"}.isdisjoint(record) for record in records)
    assert "held-out loss" not in capsys.readouterr().out


def test_a_step_without_a_masked_token_is_no_part_of_the_recorded_mean(tiny_shards: Path, tmp_path: Path) -> None:
    """At a rate of 1% about half of the steps of 64 tokens predict nothing; the loss of a new model is near ln 300 in the others."""
    argv = [
        "pretrain",
        "--shards",
        str(tiny_shards),
        *RUN,
        "--optim.lr",
        "1e-6",
        "--log_every",
        "10",
        "--precision",
        "fp32",
    ]
    more = ["--steps", "30", "--batch.tokens", "64", "--mlm.mask_rate", "0.01", "--out", str(tmp_path / "run")]
    assert cli.run([*argv, *more]) == 0
    train = [record for record in read_metrics(tmp_path / "run") if record["split"] == "train"]
    plan = Curriculum(Shards([tiny_shards], "train"), load_config(tmp_path / "run"), False)
    empty = sum(not sum(len(batch.labels_m) for batch in plan.step(step)) for step in range(30))
    assert empty > 8
    assert all(abs(record["loss"] - math.log(300)) < 0.5 for record in train)


def load_config(run: Path) -> PretrainConfig:
    return configuration.parse(PretrainConfig, ["--config", str(run / "config.yaml")], prog="test")


def test_the_classes_of_held_out_pairs_are_counted(tiny_shards: Path, model: MaskedLM) -> None:
    shards = Shards([tiny_shards], "valid")
    objective = PretrainObjective(ObjectiveConfig(nsp=1), model.config)
    pairs = TermEvaluator(
        shards, SIZES, 0.15, 0, term=objective.terms[1], pairing=objective.config.pairing, segments=False
    )
    found = pairs(model.eval(), CPU, World(RankInfo()))
    labels = [
        batch.pair_labels_b for step in range(pairs.batches.steps_per_epoch) for batch in pairs.batches.step(step)
    ]
    counts = torch.cat([one for one in labels if one is not None]).bincount(minlength=2) / sum(map(len, labels))  # type: ignore[arg-type]
    assert [found["nsp_share_next"], found["nsp_share_random"]] == pytest.approx(counts.tolist())
    model.train()
