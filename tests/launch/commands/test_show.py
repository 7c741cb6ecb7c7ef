"""`biomlm launch show`: what is printed is the same recipe, and every place that it names holds the value."""

import re
from pathlib import Path

import pytest
import yaml

from biomlm.core import cli
from biomlm.launch import resolve
from biomlm.launch.recipe import read
from biomlm.launch.resolve import shipped

PACKAGE = Path(resolve.__file__).resolve().parents[1]
LINE = re.compile(r"^\s*(?:- )?([\w./-]+): (.*?)\s+# ([^\s:]+):(\d+)(?:: .*)?$")


@pytest.mark.parametrize("scale", ["full", "smoke"])
@pytest.mark.parametrize("name", shipped())
def test_what_is_shown_runs_the_same_commands(
    name: str, scale: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["launch", "show", name, "--scale", scale]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out, encoding="utf-8")
    original, again = read(name, "o", scale), read(str(shown), "o")
    assert [stage.words for stage in again.stages] == [stage.words for stage in original.stages]
    assert [stage.reads for stage in again.stages] == [stage.reads for stage in original.stages]
    assert again.description == original.description


@pytest.mark.parametrize("name", shipped())
def test_every_place_holds_its_value(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["launch", "show", name]) == 0
    lines = [found for line in capsys.readouterr().out.splitlines() if (found := LINE.match(line))]
    assert len(lines) > 20
    for key, value, file, line in (found.groups() for found in lines):
        source = (PACKAGE / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        if isinstance(number := yaml.safe_load(value), (int, float)) and not isinstance(number, bool):
            numbers = [float(word) for word in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", source)]
            assert float(number) in numbers, f"{key}: {value} is not on {file}:{line}: {source}"


def test_the_comment_behind_a_value_and_the_head_of_a_configuration_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "# From a paper.\nstages:\n  - name: model\n    verb: pretrain\n    config: gatortron-345m\n"
        "    args: {shards: s, out: '${out}/m', optim: {lr: 2.0e-4}} # tried: 1e-4 is slower\n"
    )
    assert cli.run(["launch", "show", str(tmp_path / "mine.yaml")]) == 0
    told = capsys.readouterr().out
    assert "#   From a paper." in told
    assert "Published for the 3.9B model are length, rate, warm-up" in told
    assert re.search(r"lr: 0.0002 +# .*mine.yaml:6: tried: 1e-4 is slower", told)
    assert re.search(r"steps: 500000 +# pretrain/configs/gatortron-345m.yaml:\d+: the decay's", told)
