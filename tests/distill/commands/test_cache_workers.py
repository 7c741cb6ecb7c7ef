"""Workers of a cache are dealt to the GPUs."""

from multiprocessing import get_context

import pytest
import torch

from biomlm.distill.commands import cache


def test_every_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(cache, "CacheBuilder", lambda config: config)
    started = get_context("spawn").Value("i")
    for _ in range(4):
        cache._start_worker("config", started)  # type: ignore[arg-type]
    assert taken == [0, 1, 2, 0]
    assert cache._builder == "config"  # type: ignore[comparison-overlap]
    monkeypatch.setattr(cache, "_builder", None)
