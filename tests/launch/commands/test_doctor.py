"""Verdicts from facts alone, so that a V100 or an H100 can be judged on any machine; and the facts of this one."""

import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from biomlm.core import cli
from biomlm.launch import machine
from biomlm.launch.commands.doctor import Capability, judge
from biomlm.launch.machine import GIB, Gpu, Machine, Package, Torch, has_kernels, try_import

CUDA13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CUDA126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]

BARE = Machine(
    python="3.12.1",
    system="Linux",
    cpu="Some CPU",
    cores=8,
    flags=("avx2",),
    memory=64 * GIB,
    memory_free=32 * GIB,
    disk_free=500 * GIB,
    driver="",
    compiler=True,
    ninja=True,
    versions={"torch": "2.13.0"},
    optional={},
    apex="",
    fairseq=Package(),
    fairseq_dir=".venv-fairseq",
    torch=Torch("2.13.0+cpu", gflops={"fp32": 100.0, "bf16": 20.0, "fp16": 1.0}, attention={"math": True}),
)


def gpu(name: str, capability: tuple[int, int], cuda: str, built: list[str]) -> Machine:
    device = Gpu(name, capability, 32 * GIB, has_kernels(capability, built))
    flash = {"math": True, "flash": capability >= (8, 0)}
    speeds = {"fp32": 1e4, "bf16": 1e5, "fp16": 1e5}
    return replace(BARE, driver="570.1", torch=Torch(f"2.13.0+cu{cuda}", cuda, "", (device,), speeds, flash))


def verdicts(facts: Machine) -> dict[str, Capability]:
    return {capability.name: capability for capability in judge(facts)}


def test_a_plain_cpu_trains_in_fp32() -> None:
    seen = verdicts(BARE)
    assert seen["training on a GPU"].verdict == "no"
    assert seen["precision bf16"].verdict == "no"
    assert "fp32" in seen["precision bf16"].remedy
    assert seen["attention kernels"].verdict == "yes"


def test_a_cpu_with_amx_trains_in_bf16() -> None:
    fast = replace(BARE.torch, gflops={"fp32": 290.0, "bf16": 2388.0, "fp16": 303.0})
    bf16 = verdicts(replace(BARE, torch=fast, flags=("avx512f", "amx_bf16")))["precision bf16"]
    assert bf16.verdict == "yes"
    assert "8.2 × fp32" in bf16.found
    assert "amx_bf16" in bf16.found


def test_a_v100_needs_fp16_and_a_cuda_12_build() -> None:
    good = verdicts(gpu("V100", (7, 0), "12.6", CUDA126))
    assert good["training on a GPU"].verdict == "yes"
    assert good["precision bf16"].verdict == "no"
    assert good["precision fp16"].verdict == "yes"
    assert "loss scaling: what --precision auto takes here" in good["precision fp16"].found
    assert "Train in fp16" in good["precision bf16"].remedy
    assert good["attention kernels"].verdict == "partly"
    lost = verdicts(gpu("V100", (7, 0), "13.0", CUDA13))["training on a GPU"]
    assert lost.verdict == "no"
    assert "12.6" in lost.remedy


def test_an_h100_can_do_all() -> None:
    seen = verdicts(gpu("H100", (9, 0), "13.0", CUDA13))
    done = {name for name, capability in seen.items() if capability.verdict == "yes"}
    assert {"training on a GPU", "precision bf16", "precision fp16", "attention kernels"} <= done
    assert seen["flash-attn"].remedy.startswith("Optional")


def test_a_driver_without_a_cuda_build_of_torch() -> None:
    seen = verdicts(replace(BARE, driver="570.1"))["training on a GPU"]
    assert "CPU build" in seen.found
    assert "docs/install.md" in seen.remedy


def test_torch_that_cannot_be_imported() -> None:
    seen = verdicts(replace(BARE, torch=Torch(problem="libcudart.so.13: cannot open shared object file")))
    assert "libcudart" in seen["training"].found
    assert not [name for name in seen if name.startswith("precision")]


@pytest.mark.parametrize(
    ("apex", "verdict", "told"),
    [
        ("", "no", "not installed"),
        ("another package", "no", "web toolkit"),
        ("nvidia", "yes", "compiled"),
        ("nvidia, python only", "partly", "without its compiled"),
    ],
)
def test_apex_is_told_from_its_namesake(apex: str, verdict: str, told: str) -> None:
    seen = verdicts(replace(BARE, apex=apex))["apex"]
    assert seen.verdict == verdict
    assert told in seen.found


def test_optional_packages_absent_broken_and_half_there() -> None:
    packages = {"deepspeed": Package("0.19.8"), "ray": Package("2.60", "ImportError: no symbol")}
    seen = verdicts(replace(BARE, optional=packages, ninja=False))
    assert seen["DeepSpeed"].verdict == "partly"
    assert "ninja" in seen["DeepSpeed"].remedy
    assert "no symbol" in seen["ray"].found
    assert "biomlm[deepspeed]" in verdicts(BARE)["DeepSpeed"].remedy


def test_every_lack_has_a_remedy_and_a_full_disk_is_said() -> None:
    cases = [
        BARE,
        gpu("V100", (7, 0), "13.0", CUDA13),
        gpu("K80", (3, 7), "11.8", ["sm_37"]),
        replace(BARE, disk_free=GIB),
    ]
    for facts in cases:
        for capability in judge(facts):
            assert capability.found
            assert capability.verdict == "yes" or capability.remedy, capability
    assert verdicts(cases[-1])["room on disk"].verdict == "partly"


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((7, 0), CUDA13, False),
        ((7, 0), CUDA126, True),
        ((8, 9), CUDA13, True),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_80", "compute_90"], True),
        ((8, 0), ["sm_86"], False),
        ((8, 0), ["gfx90a"], False),
    ],
)
def test_kernels_run_on_their_own_major_version(capability: tuple[int, int], built: list[str], runs: bool) -> None:
    assert has_kernels(capability, built) is runs


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_package_that_kills_its_process_is_reported(packages: Path) -> None:
    (packages / "biomlm_test_crash.py").write_text("import os; os.abort()")
    (packages / "biomlm_test_good.py").write_text("__version__ = '1.2'; print('noise')")
    assert try_import("biomlm_test_crash").problem
    assert try_import("biomlm_test_good") == Package("1.2")
    assert try_import("biomlm_test_absent") == Package()
    assert not try_import("biomlm_test_absent").works


def test_apex_on_disk(packages: Path) -> None:
    assert machine._apex() == ""
    (packages / "apex").mkdir()
    (packages / "apex" / "__init__.py").touch()
    sys.path_importer_cache.clear()
    assert machine._apex() == "another package"
    for name in ("optimizers", "normalization"):
        (packages / "apex" / name).mkdir()
        (packages / "apex" / name / "__init__.py").touch()
    assert machine._apex() == "nvidia, python only"
    (packages / "amp_C.py").touch()
    assert machine._apex() == "nvidia"


def test_fairseq_is_looked_for_where_the_variable_says(tmp_path: Path) -> None:
    assert machine._fairseq(tmp_path / "nowhere") == Package()
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho version 0.12.3.1\n")
    python.chmod(0o755)
    assert machine._fairseq(tmp_path / "env") == Package("0.12.3.1")


def test_this_machine_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    told = orjson.loads(capfd.readouterr().out)
    here = told["machine"]
    assert here["python"] == ".".join(map(str, sys.version_info[:3]))
    assert here["memory"] >= here["memory_free"] > 0
    assert here["torch"]["gflops"]["fp32"] > 0
    assert here["torch"]["attention"]["math"]
    assert {c["verdict"] for c in told["capabilities"]} <= {"yes", "partly", "no"}


def test_the_tables_name_every_capability(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    facts = gpu("V100", (7, 0), "12.6", CUDA126)
    monkeypatch.setattr("biomlm.launch.commands.doctor.probe", lambda: facts)
    assert cli.run(["doctor"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in verdicts(facts))
    assert "V100, 32 GiB, capability 7.0" in told
