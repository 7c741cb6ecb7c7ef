"""Compiling, recomputing and choosing a kernel leave a model's outputs and gradients as they are; freezing leaves its weights."""

import importlib.util
import os
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from biomlm.core.errors import ConfigError
from biomlm.model.compute import make_deterministic, prepare, require_compiler
from biomlm.model.config import SIZES, ComputeConfig, ModelConfig, Shape
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels import attention
from biomlm.model.optim.optimizer import freeze
from biomlm.model.packed import Packed

CPU = Device(torch.device("cpu"), "fp32")
V = 97
BATCHES = [(5, 7), (9, 3, 11), (4, 4, 4), (30,)]
TORCHS_OWN = (
    "ignore:The .grad attribute of a Tensor that is not a leaf"  # raised and hidden inside torch.compile itself
)


def model_of(shape: Shape, dropout: float = 0.0) -> MaskedLM:
    torch.manual_seed(0)
    config = ModelConfig(shape, "tiny", num_hidden_layers=4, hidden_dropout=dropout, attention_dropout=dropout)
    return MaskedLM(config.resolve(V, 40, 1)).train()


def outputs(model: MaskedLM) -> list[Tensor]:
    """Logits of a few batches and the gradients of what is deepest."""
    found = []
    for lengths in BATCHES:
        torch.manual_seed(1)
        logits = model(Packed(torch.randint(4, V, (sum(lengths),)), lengths))
        model.zero_grad()
        logits.square().sum().backward()
        found += [logits.detach(), model.encoder.word_embeddings.weight.grad]
    return [x.clone() for x in found if x is not None]


def recompute(model: MaskedLM) -> None:
    prepare(model.encoder, CPU, ComputeConfig(recompute=True))


def compiled(model: MaskedLM) -> None:
    model.encoder.compile_layers("loop", "aot_eager")  # needs no C++ compiler


@pytest.mark.filterwarnings(TORCHS_OWN)
@pytest.mark.parametrize("shape", ["roberta", "modernbert"])
@pytest.mark.parametrize("change", [recompute, compiled])
def test_the_figures_stay_the_same(shape: Shape, change: Callable[[MaskedLM], None]) -> None:
    expected = outputs(model_of(shape))
    model = model_of(shape)
    change(model)
    for mine, reference in zip(outputs(model), expected, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5)


def test_recomputing_draws_the_same_dropout() -> None:
    expected = outputs(model_of("roberta", dropout=0.3))
    model = model_of("roberta", dropout=0.3)
    recompute(model)
    for mine, reference in zip(outputs(model), expected, strict=True):
        torch.testing.assert_close(mine, reference)


def test_recomputing_keeps_less_for_the_backward_pass() -> None:
    def kept(model: MaskedLM) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.nbytes), x)[1], lambda x: x):
            model(Packed(torch.full((40,), 5), (40,)))
        return sum(sizes)

    model = model_of("roberta")
    usual = kept(model)
    recompute(model)
    assert kept(model) < usual / 2


@pytest.mark.filterwarnings(TORCHS_OWN)
def test_one_compilation_serves_all_layers_and_lengths() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = model_of("roberta")
    compiled(model)
    outputs(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


@pytest.mark.filterwarnings(TORCHS_OWN)
@pytest.mark.parametrize(("shape", "graphs"), [("roberta", 2), ("modernbert", 3)])
def test_attention_for_any_lengths_is_part_of_the_graph_and_new_lengths_make_no_other(
    shape: Shape, graphs: int
) -> None:
    """On the meta device, with torch's own operation, forward and backward; the last layer is one kind, a local one another."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    draws, meta = random.Random(0), torch.device("meta")
    with meta:
        config = ModelConfig(shape, "tiny", num_hidden_layers=4).resolve(V, 512, 1)
        model = MaskedLM(config).train().to(torch.bfloat16)
    model.encoder.compile_layers("varlen", "aot_eager")
    for _ in range(30):
        lengths = tuple(draws.randint(1, 512) for _ in range(draws.randint(1, 9)))
        packed = Packed(torch.empty(sum(lengths), dtype=torch.int64, device=meta), lengths)
        rows_m = torch.empty(draws.randint(1, 40), dtype=torch.int64, device=meta)
        model.encoder(packed, rows_m)[-1].float().sum().backward()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize(
    ("capability", "dropout", "installed", "taken"),
    [((9, 0), 0.0, True, True), ((9, 0), 0.1, True, False), ((9, 0), 0.0, False, False), ((8, 0), 0.0, True, False)],
)
def test_flash_attention_3_is_taken_on_hopper_without_dropout(
    capability: tuple[int, int], dropout: float, installed: bool, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wiring; torch's own tests hold it to the second version."""
    activated = list[str]()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", activated.append, raising=False)
    attention._capability.cache_clear()
    model = model_of("roberta", dropout=dropout)
    words = prepare(model.encoder, Device(torch.device("cuda"), "bf16"), ComputeConfig())
    attention._capability.cache_clear()
    assert activated == ["FA3"] * taken
    assert words == "cuda bf16, attention by varlen" + ", FlashAttention 3" * taken


def test_what_was_chosen_is_said_in_words() -> None:
    model = model_of("roberta", dropout=0.1)
    assert prepare(model.encoder, CPU, ComputeConfig()) == "cpu fp32, attention by blocks"
    words = prepare(model.encoder, CPU, ComputeConfig("loop", recompute=True))
    assert words == "cpu fp32, attention by loop, recomputing layers"
    with pytest.raises(ConfigError, match="varlen needs a GPU"):
        prepare(model.encoder, CPU, ComputeConfig("varlen"))


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Put back what is global in torch."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.mark.usefixtures("as_it_was")
def test_the_same_bits_on_a_gpu_are_asked_for_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(False)
    gpu = Device(torch.device("cuda"), "bf16")
    make_deterministic(gpu)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled(), "an operation without such a form raises"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ConfigError, match="CUBLAS_WORKSPACE_CONFIG is :0:0"):
        make_deterministic(gpu)


@pytest.mark.usefixtures("as_it_was")
def test_on_a_cpu_the_same_bits_cost_nothing_more() -> None:
    words = prepare(model_of("roberta").encoder, CPU, ComputeConfig(deterministic=True))
    assert words == "cpu fp32, attention by loop, deterministic"
    assert torch.are_deterministic_algorithms_enabled()


def test_frozen_layers_take_no_gradient() -> None:
    model = model_of("roberta")
    freeze(model, 2)
    frozen = {n.split(".")[2] if "layers" in n else n for n, p in model.named_parameters() if not p.requires_grad}
    names = {"word_embeddings.weight", "position_embeddings.weight", "embedding_norm.weight", "embedding_norm.bias"}
    assert frozen == {"0", "1", *(f"encoder.{name}" for name in names)}
    with pytest.raises(ConfigError, match="cannot freeze 5 of 4 layers"):
        freeze(model, 5)


@pytest.mark.parametrize(
    ("size", "shape", "billions"),
    [
        ("base", "roberta", 0.125),
        ("large", "roberta", 0.355),
        ("345m", "megatron-bert", 0.355),
        ("3.9b", "megatron-bert", 3.9),
        ("8.9b", "megatron-bert", 8.8),
    ],
)
def test_sizes_have_the_parameters_of_their_names(size: str, shape: Shape, billions: float) -> None:
    assert size in SIZES
    with torch.device("meta"):
        model = MaskedLM(ModelConfig(shape, size).resolve(50_265, 512, 1))  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.015)


def deviation(shape: Shape, name: str) -> float:
    torch.manual_seed(0)
    config = ModelConfig(shape, num_hidden_layers=8, hidden_size=128, num_attention_heads=2).resolve(500, 40, 1)
    return float(MaskedLM(config).state_dict()[name].std())


@pytest.mark.parametrize(
    ("shape", "inner", "output"),
    [("roberta", 0.02, 0.02), ("bert", 0.0176, 0.0176), ("megatron-bert", 0.02, 0.005), ("modernbert", 0.0176, 0.0044)],
)
def test_initial_weights_have_their_sources_deviation(shape: Shape, inner: float, output: float) -> None:
    """A normal cut at two deviations keeps 0.8796 of its deviation; eight layers divide outputs by √16."""
    assert deviation(shape, "encoder.layers.3.mlp.up.weight") == pytest.approx(inner, rel=0.03)
    assert deviation(shape, "encoder.word_embeddings.weight") == pytest.approx(inner, rel=0.03)
    assert deviation(shape, "encoder.layers.3.mlp.down.weight") == pytest.approx(output, rel=0.03)
    assert deviation(shape, "encoder.layers.3.attention.out.weight") == pytest.approx(output, rel=0.03)


def test_layers_that_nothing_can_compile_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="need the C\\+\\+ compiler `no-such-compiler`"):
        prepare(model_of("roberta").encoder, CPU, ComputeConfig(compile=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="need the package triton"):
        require_compiler(Device(torch.device("cuda"), "bf16"))
