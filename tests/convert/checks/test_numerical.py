"""The numerical check itself: what it is asked on, and that one wrong number anywhere does not get past it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import RobertaForMaskedLM

from biomlm.convert.checks.models import HuggingFace, Ours
from biomlm.convert.checks.numerical import LONG_DEPTH, compare, record
from biomlm.convert.checks.probe_inputs import batches, sentences, texts
from biomlm.convert.load import build, load_model, read_source
from biomlm.core import cli
from biomlm.model.config import EncoderConfig, Shape
from biomlm.model.encoder import MaskedLM
from biomlm.tokenizer.formats import folder as tokenizer_folder


def test_the_inputs_hold_what_a_check_needs(one_golden: Path) -> None:
    assert len(set(sentences())) == 1000
    assert len(texts()) == 99
    assert "" in texts()
    assert sum("<mask>" in text for text in texts()) == 12
    assert any(not text.isascii() for text in texts())
    loaded = load_model(one_golden)
    assert loaded.tokenizer_dir is not None
    for tokenizer in (tokenizer_folder.load(loaded.tokenizer_dir), None):
        groups = batches(loaded.config, tokenizer)
        assert sum(len(group) for group in groups) == 100
        assert [len(sequence) for sequence in groups[-1]] == [loaded.config.max_positions]
        assert any(max(map(len, group)) >= 4 * min(map(len, group)) for group in groups), "nothing is padded"


SHAPES: tuple[Shape, ...] = ("roberta", "bert", "megatron-bert", "modernbert")


def no_effect(name: str, place: int, config: EncoderConfig) -> bool:
    """A key's bias adds the same to a query's score of every key, and softmax takes it out."""
    return name.endswith("qkv.bias") and place // config.hidden_size == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_one_changed_number_of_any_tensor_is_found(shape: Shape) -> None:
    torch.manual_seed(0)
    types = {"roberta": 0, "modernbert": 0}.get(shape, 1)
    config = EncoderConfig(300, 24, 5, 2, 40, max_positions=40, type_vocab_size=types, shape=shape, local_window=4)
    model = MaskedLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float(name.endswith("norm.weight")), std=0.15)
    recording = record(Ours(model, True), config, None)
    changed = build(config, {name: value.clone() for name, value in model.state_dict().items()})
    unseen, source = [], torch.Generator().manual_seed(1)
    for name, value in changed.state_dict().items():
        flat = value.view(-1)
        place = int(torch.randint(len(flat), (1,), generator=source))
        before = flat[place].item()
        flat[place] += 0.05
        if compare(recording, Ours(changed, True)).first_above(1e-5) is None and not no_effect(name, place, config):
            unseen.append(name)
        flat[place] = before
    assert not unseen
    assert compare(recording, Ours(changed, True)).first_above(1e-5) is None


def test_a_fault_that_only_the_longest_sequence_shows_is_found(
    hf_model: RobertaForMaskedLM, hf_folder: Path, convert: Callable[..., Path]
) -> None:
    native = load_model(convert(hf_folder, "native"))
    recording = record(Ours(native.model, True), native.config, None)
    theirs = HuggingFace(hf_folder, read_source(hf_folder).config, True)
    assert compare(recording, theirs).first_above(1e-5) is None
    with torch.no_grad():
        theirs.model.roberta.embeddings.position_embeddings.weight[-1, 3] += 0.05
    assert compare(recording, theirs).first_above(1e-5) == "the embeddings"


def test_the_longest_sequence_goes_through_the_first_layers_alone(one_golden: Path) -> None:
    config = EncoderConfig(90, 24, LONG_DEPTH + 2, 2, 40, max_positions=30)
    model = MaskedLM(config).eval()
    recording = record(Ours(model, True), config, None)
    assert [len(states) for states in recording.hidden][-2:] == [LONG_DEPTH + 3, LONG_DEPTH + 1]
    assert len(model.encoder.layers) == LONG_DEPTH + 2


def test_a_narrower_model_is_computed_in_float32_and_stays_narrow() -> None:
    torch.manual_seed(0)
    config = EncoderConfig(90, 24, 3, 2, 40, max_positions=30, type_vocab_size=2, shape="bert")
    narrow = MaskedLM(config).eval().half()
    wide = build(config, {name: value.float() for name, value in narrow.state_dict().items()})
    recording = record(Ours(narrow, True), config, None)
    found = compare(recording, Ours(wide, True))
    assert max(found.hidden) == found.logits == 0
    assert recording.hidden[0][0].dtype == torch.float32
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.float16}


def test_a_model_that_packs_computes_the_short_texts_at_once_and_gives_them_back_by_batch() -> None:
    torch.manual_seed(0)
    config = EncoderConfig(90, 24, 3, 2, 40, max_positions=30)
    packing, one_by_one = Ours(MaskedLM(config).eval(), True), Ours(MaskedLM(config).eval(), True)
    one_by_one.model.load_state_dict(packing.model.state_dict())
    one_by_one.packs = False
    calls = []
    packing.model.encoder.register_forward_hook(lambda *_: calls.append(None))
    recording = record(packing, config, None)
    assert len(calls) == 2
    assert [len(states[0]) for states in recording.hidden] == [sum(map(len, group)) for group in recording.groups]
    found = compare(recording, one_by_one)
    assert max(found.hidden) < 1e-6
    assert found.logits is not None
    assert found.logits < 1e-6


def test_reading_a_checkpoint_does_not_import_torch_s_compiler(one_golden: Path) -> None:
    program = "import sys; from biomlm.convert.load import read_source; read_source(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, one_golden], capture_output=True, text=True, check=True)
    assert "biomlm.convert.load" in done.stdout.split()
    assert "torch._dynamo" not in done.stdout.split()


def test_a_classifier_of_three_kinds_of_pairs_is_carried(tiny_shards: Path, tmp_path: Path) -> None:
    """transformers' class for pairs has two answers; LinkBERT's document relations have three."""
    sizes = "--model.shape bert --model.num_hidden_layers 1 --model.hidden_size 16 --model.num_attention_heads 2"
    words = f"{sizes} --objective.sso 1 --batch.form pairs --batch.tokens 128 --batch.max_length 32 --steps 1 --precision fp32"
    run, hf = tmp_path / "run", tmp_path / "hf"
    assert cli.run(["pretrain", "--shards", str(tiny_shards), "--out", str(run), *words.split()]) == 0
    assert cli.run(["convert", str(run), str(hf), "--to", "hf"]) == 0
    ours, theirs = load_model(run).extra_tensors, load_model(hf).extra_tensors
    assert len(ours["seq_relationship.weight"]) == 3
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
