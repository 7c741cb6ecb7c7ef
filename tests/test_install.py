"""`tools/install.sh` on machines that are played: which build of torch is asked for, with which GPU and which package sources."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION = next(
    line.removeprefix("torch==")
    for line in (ROOT / "constraints.txt").read_text().split()
    if line.startswith("torch==")
)
PYTHON = """#!/bin/sh
# Stands in for Python and pip: makes an environment of itself, writes down what is installed, and has only what SERVED matches.
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip")
    for word; do case "$word" in
    torch==*) echo "$word" >>"$LOG"; case " $SERVED " in *" $word "*) touch "$LOG.torch" ;; *) exit 1 ;; esac ;;
    */locked.txt) if grep -q '^torch==' "$word"; then echo locked >>"$LOG"; touch "$LOG.torch"; fi ;;
    esac; done
    ;;
*) case "$2" in *find_spec*) [ -f "$LOG.torch" ] ;; *get_arch_list*) [ -n "$HAS_SM_70" ] ;; *deepspeed*) exit 1 ;; esac ;;
esac
"""
NVIDIA = """#!/bin/sh
for word; do case "$word" in --query-gpu=compute_cap) printf "$CAPABILITIES" ;; esac; done
"""


def installed(
    tmp_path: Path, capabilities: str | None, served: str, has_sm_70: bool = False
) -> tuple[int, list[str], str]:
    """Exit code, what was asked of torch (`locked`: what constraints.txt has), and what was said."""
    binaries, log = tmp_path / "bin", tmp_path / "log"
    binaries.mkdir()
    log.touch()
    if has_sm_70:
        Path(f"{log}.torch").touch()
    scripts = {"fake-python": PYTHON} | ({} if capabilities is None else {"nvidia-smi": NVIDIA})
    for name, text in scripts.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    env = {
        "PATH": f"{binaries}:/usr/bin:/bin",
        "PYTHON": str(binaries / "fake-python"),
        "LOG": str(log),
        "SERVED": served,
        "CAPABILITIES": capabilities or "",
        "HAS_SM_70": "yes" if has_sm_70 else "",
    }
    words = ["/bin/sh", "tools/install.sh", str(tmp_path / "venv")]
    ended = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return ended.returncode, log.read_text().split(), ended.stdout + ended.stderr


CU126 = f"torch=={VERSION}+cu126"


@pytest.mark.parametrize("capabilities", ["7.0\\n", "8.0\\n7.0\\n", "6.0\\n"])
def test_an_old_gpu_gets_the_build_that_has_its_kernels(capabilities: str, tmp_path: Path) -> None:
    code, asked, said = installed(tmp_path, capabilities, CU126)
    assert (code, asked) == (0, [CU126, CU126]), said


def test_without_it_it_says_what_to_do(tmp_path: Path) -> None:
    code, asked, said = installed(tmp_path, "7.0\\n", "")
    assert (code, asked) == (2, [CU126])
    assert "make setup TORCH_INDEX=ADDRESS" in said


def test_a_build_that_is_there_is_left(tmp_path: Path) -> None:
    code, asked, said = installed(tmp_path, "7.0\\n", "", has_sm_70=True)
    assert (code, asked) == (0, []), said


@pytest.mark.parametrize("capabilities", ["7.5\\n", "8.0\\n", "9.0\\n", "12.0\\n", ""])
def test_other_gpus_get_the_default(capabilities: str, tmp_path: Path) -> None:
    code, asked, said = installed(tmp_path, capabilities, "")
    assert (code, asked) == (0, ["locked"]), said


def test_without_a_gpu_the_cpu_build(tmp_path: Path) -> None:
    code, asked, said = installed(tmp_path, None, f"torch=={VERSION}+cpu")
    assert (code, asked) == (0, [f"torch=={VERSION}+cpu"]), said
