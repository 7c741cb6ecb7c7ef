"""Training on several machines: the host file, the commands, and a real run on two "machines" that are this one."""

import os
from pathlib import Path

import pytest

from biomlm.core import cli
from biomlm.core.errors import ConfigError
from biomlm.core.files import read_json
from biomlm.core.metrics import read_metrics
from biomlm.launch.backends import hosts
from biomlm.launch.backends.hosts import Host, commands, read, run_stage
from biomlm.launch.backends.ranks import Machine

SSH = """\
#!/bin/bash
while [ "${1#-}" != "$1" ]; do [ "$1" = -o ] && shift; shift; done
shift
exec bash -c "$1"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ssh that stays here, whatever the host."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_host_file_is_deepspeeds(tmp_path: Path) -> None:
    file = tmp_path / "hostfile"
    file.write_text("# ours\ngpu01 slots=8\n\ngpu02 slots=4  # the old one\nlogin\n")
    assert read(file) == [Host("gpu01", 8), Host("gpu02", 4), Host("login", 1)]


@pytest.mark.parametrize("text", ["", "gpu01 slots=many\n", "gpu01\ngpu01\n", "-oProxyCommand=evil slots=1\n"])
def test_a_wrong_host_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hostfile"
    file.write_text(text)
    with pytest.raises(ConfigError):
        read(file)
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path / "none")


def test_every_machine_gets_its_ranks_and_the_first_ones_name() -> None:
    first, second = commands(["pretrain", "--out", "a b"], [Host("gpu01", 8), Host("gpu02", 4)])
    assert second[:-1] == [*hosts.SSH, "gpu02"]
    assert "--processes 8 --first 0 --size 12 --master gpu01:29500" in first[-1]
    assert "--processes 4 --first 8 --size 12 --master gpu01:29500" in second[-1]
    assert second[-1].endswith("--listens -- pretrain --out 'a b'")


@pytest.mark.usefixtures("ssh")
def test_a_machine_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are asked to end through their standard input."""

    def command(machine: Machine, _words: object) -> list[str]:
        return ["bash", "-c", "sleep 1; exit 3" if machine.first else "echo begun; read word; echo $word; exit 75"]

    monkeypatch.setattr(Machine, "command", command)
    log = tmp_path / "logs" / "model.log"
    assert run_stage(["pretrain"], log, [Host("one", 1), Host("two", 1)]) == 3
    assert log.with_name("model-one.log").read_text() == "begun\nSIGTERM\n"


RECIPE = """\
description: one model
stages:
  - name: model
    verb: pretrain
    args:
      shards: {shards}
      out: ${{out}}/model
      steps: 4
      model: {{size: tiny, num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 2}}
      batch: {{tokens: 128, max_length: 32, accumulation: 3}}
      log_every: 1
"""


@pytest.mark.slow
@pytest.mark.usefixtures("ssh")
def test_two_machines_train_the_model_of_one(
    tmp_path: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two would wait for the other in vain if ranks, address or port were wrong."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(hosts, "PORT", 20_000 + os.getpid() % 20_000)
    recipe, hostfile, out = tmp_path / "recipe.yaml", tmp_path / "hosts", tmp_path / "out"
    recipe.write_text(RECIPE.format(shards=tiny_shards))
    hostfile.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    code = cli.run(["launch", str(recipe), "--out", str(out), "--on", "hosts", "--hostfile", str(hostfile)])
    assert code == 0, (out / "logs" / "model-127.0.0.1.log").read_text()
    assert read_json(out / "model" / "result.json")["processes"] == 2
    alone = ["pretrain", "--config", str(out / "model" / "config.yaml"), "--out", str(tmp_path / "alone")]
    assert cli.run(alone) == 0
    ours, theirs = (
        [r for r in read_metrics(run) if r["split"] == "train"] for run in (out / "model", tmp_path / "alone")
    )
    assert [r["batches"] for r in ours] == [r["batches"] for r in theirs]
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], rel=1e-4)
