"""Training on several machines: the host file, the commands, and a real run on two "machines" that are this one."""

import os
from pathlib import Path

import pytest

from biolm.core.errors import ConfigError
from biolm.launch import hosts
from biolm.launch.hosts import Host, commands, read, run_stage

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


def test_every_machine_gets_its_rank_and_the_first_ones_name() -> None:
    first, second = commands(["pretrain", "--out", "a b"], [Host("gpu01", 8), Host("gpu02", 4)])
    assert second[:-1] == [*hosts.SSH, "gpu02"]
    assert "--nnodes 2 --node-rank 1 --master-addr gpu01" in second[-1]
    assert "--nproc-per-node 8" in first[-1]
    assert second[-1].endswith("-m biolm.core pretrain --out 'a b'")


@pytest.mark.usefixtures("ssh")
def test_a_machine_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torchrun(_words: object, _slots: int, node: list[str]) -> list[str]:
        return ["bash", "-c", "sleep 2; exit 3" if node[3] == "1" else "echo begun; exec sleep 60"]

    monkeypatch.setattr(hosts, "torchrun", torchrun)
    log = tmp_path / "logs" / "model.log"
    assert run_stage(["pretrain"], log, [Host("one", 1), Host("two", 1)]) == 3
    assert log.with_name("model-one.log").read_text() == "begun\n"


@pytest.mark.slow
@pytest.mark.usefixtures("ssh")
def test_two_machines_train_one_model(tmp_path: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two would wait for the other in vain if ranks, address or port were wrong."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(hosts, "PORT", 20_000 + os.getpid() % 20_000)
    sizes = [
        "--model.size",
        "tiny",
        "--model.num_hidden_layers",
        "1",
        "--batch.tokens",
        "128",
        "--batch.max_length",
        "32",
    ]
    words = ["pretrain", "--shards", str(tiny_shards), "--out", str(tmp_path / "run"), "--steps", "4", *sizes]
    code = run_stage(
        [*words, "--batch.accumulation", "2"], tmp_path / "model.log", [Host("127.0.0.1", 1), Host("localhost", 1)]
    )
    assert code == 0, (tmp_path / "model-127.0.0.1.log").read_text()
    assert (tmp_path / "run" / "checkpoints" / "step_4" / "model.safetensors").exists()
