"""Plans: states by ZeRO stage from their definition, activations against what autograd keeps, published sizes."""

import pytest
import torch

from biomlm.core.fleet import Before, find
from biomlm.model.config import ModelConfig, Shape
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import Packed
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.planning.estimate import estimate, kept_per_token, largest_micro_batch, need, parameters

LENGTHS = (120, 80, 60, 52, 100, 100)  # of 512 tokens


def test_fsdp_keeps_whole_gradients_through_several_micro_batches() -> None:
    encoder = ModelConfig(size="base").resolve(50_048, 512, 1)
    once, often = (
        need(encoder, 512, 8, half=True, recompute=False, whole_gradients=whole).states for whole in (False, True)
    )
    assert once[:3] == often[:3]
    assert often[3] - once[3] == pytest.approx(4 * parameters(encoder) * 7 / 8 / 1e9)


def test_states_are_shared_out_as_zero_does() -> None:
    encoder = ModelConfig(size="base").resolve(50_265, 512, 1)
    p, n = parameters(encoder) / 1e9, 8
    assert need(encoder, 512, n, half=False, recompute=False).states == pytest.approx(
        (16 * p, 8 * p + 8 * p / n, 4 * p + 12 * p / n, 16 * p / n)
    )
    assert need(encoder, 512, n, half=False, recompute=False, state=1).states == pytest.approx(
        (12 * p, 8 * p + 4 * p / n, 4 * p + 8 * p / n, 12 * p / n)
    )


def test_the_largest_model_needs_sharing_on_a_v100() -> None:
    encoder = ModelConfig("megatron-bert", "3.9b").resolve(50_176, 512, 0)
    how = {"half": True, "recompute": True}
    fleet = find("8 x v100-32gb")
    assert largest_micro_batch(encoder, fleet, 0, **how) == 0
    assert largest_micro_batch(encoder, fleet, 3, **how) >= 8 * 512
    small = ModelConfig(size="base").resolve(50_265, 512, 1)
    plain = largest_micro_batch(small, find("v100-16gb"), 0, half=True, recompute=False)
    assert 8 * 512 <= plain < largest_micro_batch(small, find("v100-16gb"), 0, **how)


def test_a_gpu_without_a_micro_batch_waits() -> None:
    """Micro-batches are dealt in turn: 1 takes as long as 8 on a node of 8, and 12 as long as 16."""

    def rate(accumulation: int) -> object:
        config = PretrainConfig(shards="s", out="o", precision="bf16", batch=BatchConfig(accumulation=accumulation))
        return estimate(config, find("a100-80gb"), Before(50_048))["tokens a second"]

    assert rate(1) == pytest.approx(rate(8) / 8, rel=1e-5)  # type: ignore[operator]
    assert rate(12) == pytest.approx(rate(16) * 12 / 16, rel=1e-5)  # type: ignore[operator]


def test_the_plan_says_which_gpus_are_idle() -> None:
    """A node of 8; the share is that of places in the rounds which hold no micro-batch."""

    def said(accumulation: int) -> object:
        config = PretrainConfig(shards="s", out="o", batch=BatchConfig(accumulation=accumulation))
        return estimate(config, find("a100-80gb"), Before(50_048))["micro-batches of a step"]

    assert said(16) == "16 on 8 GPUs"
    assert said(12) == "12 on 8 GPUs: 25% of their time without work"
    assert said(3) == "3 on 8 GPUs: 5 GPUs would be idle, and the run is refused (raise batch.accumulation)"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", ["roberta", "modernbert"])
def test_activations_are_what_autograd_keeps(shape: Shape, padded: bool) -> None:
    """One layer more keeps so much more, counted by storage; attention's probabilities on a CPU apart, as a GPU's kernel keeps none."""

    def kept(layers: int) -> int:
        torch.manual_seed(0)
        config = ModelConfig(shape, "mini", num_hidden_layers=layers, hidden_dropout=0, attention_dropout=0)
        model = MaskedLM(config.resolve(300, 512, 1)).train()
        model.encoder.use_attention("padded" if padded else "loop")
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        found: dict[int, int] = {}

        def keep(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            hidden = model.encoder(Packed(torch.full((512,), 5), LENGTHS))
        for x in hidden:
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return sum(found.values())

    rate = 0.1 if shape == "roberta" else 0.0  # without dropout a GPU packs all but local layers
    encoder = ModelConfig(shape, "mini", hidden_dropout=0, attention_dropout=rate).resolve(300, 512, 1)
    measured = (kept(5) - kept(2)) / 3 / 512
    assert kept_per_token(encoder, half=False, recompute=False, padded=padded) == pytest.approx(measured, rel=0.15)
