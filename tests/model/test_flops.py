"""FLOPs of a step against torch's own counter, and peaks by name."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from biomlm.model import config as config_module
from biomlm.model import flops
from biomlm.model.config import ModelConfig, Shape
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.flops import measured_peak, peak, step_flops
from biomlm.model.kernels import attention_cpu, linear
from biomlm.model.packed import Packed
from biomlm.model.shapes import SHAPES, Features

LENGTHS = (32, 48, 16)  # and 16 positions: sizes that need not be rounded up on a CPU


# Features in combinations that no shape has.
MADE = {
    "gated": Features(gated=True, embedding_norm=False, token_types=2),
    "rotary": Features(rotary=True, first_norm=False),
    "local": Features(pre_norm=True, local=True, bias=False, cut=True),
}


@pytest.mark.parametrize("shape", [*SHAPES, *MADE])
def test_a_steps_flops_are_those_that_torch_counts(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "SHAPES", {**SHAPES, **MADE})
    for module in (linear, attention_cpu):
        monkeypatch.setattr(module, "DTYPES", set())  # whose products the counter does not know
    config = ModelConfig(shape=shape, size="tiny", hidden_dropout=0, attention_dropout=0).resolve(1000, 48, 1)
    model, positions = MaskedLM(config), torch.arange(0, 96, 6)
    model.encoder.use_attention("blocks")  # nor torch's fused attention
    packed = Packed(torch.randint(4, 1000, (96,)), LENGTHS)
    with FlopCounterMode(display=False) as counted:
        model(packed, positions).sum().backward()
    assert counted.get_total_flops() == pytest.approx(step_flops(config, LENGTHS, 16, 16), rel=0.001)


def test_local_attention_costs_its_window() -> None:
    config = ModelConfig(shape="modernbert", size="base").resolve(50_000, 8192, 1)
    assert sum(config.is_local(layer) for layer in range(12)) == 8
    long, short = (step_flops(config, [length] * (8192 // length), 0) for length in (8192, 64))
    seen = 8 * (129 - 64) + 4 * (8192 - 64)
    assert long - short == pytest.approx(3 * 4 * 768 * 8192 * seen)


def test_roberta_base_needs_about_six_flops_a_parameter_and_token() -> None:
    """The usual rule of thumb, without the embeddings and with 15% of the head: 6 × (85.0M + 0.15 × 39.2M) + 12 × 12 × 768 × 512."""
    config = ModelConfig(size="base").resolve(50_265, 512, 1)
    tokens = 16 * 512
    a_token = step_flops(config, [512] * 16, round(0.15 * tokens)) / tokens
    assert a_token == pytest.approx(6 * (85.0e6 + 0.15 * 39.2e6) + 12 * 12 * 768 * 512, rel=0.01)


# Names as torch.cuda.get_device_name prints them.
NAMES = {
    "NVIDIA GB200": 2500,
    "NVIDIA B200": 2250,
    "NVIDIA GH200 480GB": 989.4,
    "NVIDIA H200": 989.4,
    "NVIDIA H200 NVL": 835.5,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA A800-SXM4-80GB": 312,
    "NVIDIA A40": 149.7,
    "NVIDIA A30": 165,
    "NVIDIA A10G": 70,
    "NVIDIA A10": 125,
    "NVIDIA L4": 121,
    "NVIDIA L40": 181.05,
    "NVIDIA L40S": 362.05,
    "NVIDIA RTX A6000": 154.8,
    "NVIDIA RTX 6000 Ada Generation": 364.2,
    "NVIDIA GeForce RTX 3090": 71,
    "NVIDIA GeForce RTX 3090 Ti": 80,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 4090 D": 147.1,
    "Tesla T4": 65,
    "Tesla V100-SXM2-32GB": 125,
    "Tesla V100-SXM3-32GB": 125,
    "Tesla V100-PCIE-16GB": 112,
    "Tesla V100S-PCIE-32GB": 130,
}


def test_known_gpus_have_their_datasheets_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, teraflops in NAMES.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak(Device(torch.device("cuda"), "bf16")) == teraflops * 1e12, name


@pytest.mark.parametrize(
    "name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "Quadro RTX 6000", "NVIDIA A100X", "NVIDIA TITAN V"]
)
def test_a_gpu_that_is_not_listed_is_measured(name: str) -> None:
    assert flops.known(name) is None


def test_a_slice_has_its_share_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seventh of an A100 for MIG has 14 of the card's 108 multiprocessors."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=14))
    assert peak(Device(torch.device("cuda"), "bf16")) == pytest.approx(312e12 * 14 / 108)


def test_a_cpus_rate_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flops.SIZE, "cpu", 256)
    device = Device(torch.device("cpu"), "fp32")
    first = measured_peak(device)
    assert 1e8 < first < 1e14
    assert measured_peak(device) == first
    measured_peak.cache_clear()
