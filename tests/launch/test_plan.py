"""`biolm launch plan --fleet`: what training needs, against figures that follow from the definitions."""

import pytest

from biolm.core import cli
from biolm.core.errors import ConfigError
from biolm.core.fleet import FLEETS, find


def test_a_fleet_is_named_by_its_gpus_and_nodes() -> None:
    assert find("v100-16gb") == FLEETS["v100-16gb"]
    assert find("4 x a100-80gb").size == 32
    for wrong in ("v100", "many x v100-16gb", "x"):
        with pytest.raises(ConfigError, match="there is no fleet"):
            find(wrong)


def test_the_plan_of_a_fleet_names_its_options_and_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["launch", "plan", "demo", "--fleet", "v100-16gb"]) == 0
    said = capsys.readouterr().out
    assert "--precision fp16 --compute.recompute" in " ".join(said.split())
    assert "1 × 8 V100 16 GB" in said
    assert said.count("ZeRO 3 or FSDP") == 2, "of both pretrainings; distillation has no estimate"
