"""Which precision `auto` is on which GPU."""

import pytest
import torch

from biomlm.model.device import choose, expand_segments


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 0), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((8, 9), "bf16"), ((10, 0), "bf16")],
)
def test_auto_is_what_a_gpus_tensor_cores_multiply(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    device = choose("auto")
    assert (device.torch.type, device.precision) == ("cuda", precision)


def test_blocks_of_memory_grow_unless_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = list[str]()
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", settings.append, raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    expand_segments()
    assert not settings
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    expand_segments()
    assert settings == ["expandable_segments:True"]
