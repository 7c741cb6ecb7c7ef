"""A stranger's `config.json`: nothing of it runs or reaches the network, and whatever it says is read, passed over or refused."""

import copy
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from biomlm.convert.load import load_model
from biomlm.core.errors import CheckpointError, UserError

Convert = Callable[..., Path]
SIZES = {
    "vocab_size": 89,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "Roberta": lambda: transformers.RobertaConfig(**SIZES, type_vocab_size=1),
    "Bert": lambda: transformers.BertConfig(**SIZES, id2label={0: "a", 1: "b"}),
    "ModernBert": lambda: transformers.ModernBertConfig(
        **SIZES, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3
    ),
}
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
events: list[str] = []
watching = [False]


def note(event: str, _: object) -> None:
    """Python never lets go of such a hook, so it has a switch."""
    if watching[0] and event in FORBIDDEN:
        events.append(event)


sys.addaudithook(note)


@pytest.fixture(autouse=True)
def nothing_runs() -> Iterator[None]:
    events.clear()
    watching[0] = True
    yield
    watching[0] = False
    assert not events


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("stranger") / request.param
    torch.manual_seed(0)
    getattr(transformers, f"{request.param}ForMaskedLM")(FAMILIES[request.param]()).save_pretrained(folder)
    return folder


@pytest.fixture
def stranger(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "stranger")


def state(folder: Path, **more: Any) -> None:
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | more))


def test_what_could_fetch_or_run_is_not_handed_on(stranger: Path, convert: Convert) -> None:
    plain = load_file(convert(stranger, "hf", "plain") / "model.safetensors")
    state(
        stranger,
        attn_implementation="org/kernels",
        _attn_implementation="org/kernels",
        attn_implementation_internal="org/kernels:flash",
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
        _name_or_path="org/model",
        torch_dtype="float8_e4m3fn",
        dtype="os.system",
        use_kernels=True,
        adapters={"a": "org/adapter"},
        base_model_tp_plan={"layers.*": "colwise"},
        problem_type=None,
        transformers_weights="../../elsewhere.safetensors",
    )
    (stranger / "adapter_config.json").write_text('{"base_model_name_or_path": "org/model", "peft_type": "LORA"}')
    (stranger / "generation_config.json").write_text('{"custom_generate": "org/model"}')
    written = convert(stranger, "hf", "written")
    again = load_file(written / "model.safetensors")
    assert all(torch.equal(plain[name], again[name]) for name in plain.keys() | again.keys())
    assert "org/" not in (written / "config.json").read_text()
    assert not (written / "adapter_config.json").exists()


POOL: tuple[Any, ...] = (
    None,
    -1,
    0,
    7,
    1e9,
    0.5,
    10**30,
    "x",
    "org/repo",
    "",
    [],
    ["x"],
    {},
    {"0": "x"},
    True,
    [[]],
    {"a": {"b": 1}},
)


def mutated(config: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """One statement of a configuration, or of a part of it, removed, replaced or put under another key."""
    changed: dict[str, Any] = copy.deepcopy(config)
    place = changed
    while True:
        key = draw.choice(sorted(place))
        if not isinstance(place[key], dict) or not place[key] or draw.random() < 0.3:
            break
        place = place[key]
    kind = draw.randrange(4)
    if kind == 0:
        del place[key]
    elif kind == 1:
        place[draw.choice(sorted(changed))] = place.pop(key)
    else:
        place[key] = draw.choice(POOL)
    return changed


def check(stranger: Path, convert: Convert, count: int, converted: int) -> None:
    config = json.loads((stranger / "config.json").read_text())
    before, draw, said = load_model(stranger), random.Random(5), list[str]()
    for i in range(count):
        (stranger / "config.json").write_text(json.dumps(mutated(config, draw)))
        try:
            if i < converted:
                written = convert(stranger, "hf", f"out-{i}")
                shutil.rmtree(written)
            after = load_model(stranger)
        except UserError as error:
            said.append(str(error))
            continue
        for name, tensor in before.model.state_dict().items():
            assert torch.equal(tensor, after.model.state_dict()[name])
    assert 0 < len(said) < count
    assert all(len(message.splitlines()) <= 2 and "biomlm-scratch-" not in message for message in said)


def test_mutations_are_read_or_refused(stranger: Path, convert: Convert) -> None:
    check(stranger, convert, 60, 12)


@pytest.mark.slow
def test_a_thousand_mutations_are_read_or_refused(stranger: Path, convert: Convert) -> None:
    check(stranger, convert, 1000, 250)


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"hidden_size": "36"}, "hidden_size"),
        ({"architectures": 3, "pad_token_id": True}, "pad_token_id"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
    ],
)
def test_another_type_is_named(stated: dict[str, Any], named: str, stranger: Path, convert: Convert) -> None:
    state(stranger, **stated)
    with pytest.raises(CheckpointError, match=named):
        convert(stranger, "hf", "out")
