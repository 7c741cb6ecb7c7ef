"""Probe this machine: processor, memory, disk, GPUs, packages. Facts only; `launch.commands.doctor` judges them.

Packages that can be absent or broken are imported in a process of their own: one built for another torch can end the process
that imports it.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomlm.core.config import fairseq_env

GIB = 1 << 30
PATIENCE = 180  # seconds for a package's import
SLOW = 0.5  # seconds after which a measurement is not repeated
VERSIONS = ("torch", "transformers", "tokenizers", "safetensors", "datatrove", "numpy", "lxml", "tensorboard")
OPTIONAL = ("deepspeed", "ray", "flash_attn")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
APEX_PROBE = "import amp_C, apex.optimizers, apex.normalization; print('compiled')"


@dataclass(frozen=True)
class Gpu:
    """One CUDA device.

    Args:
        name: As its driver says.
        capability: Compute capability, such as (8, 0).
        memory: In bytes.
        supported: Whether this build of torch has kernels for it.
    """

    name: str
    capability: tuple[int, int]
    memory: int
    supported: bool = True


@dataclass(frozen=True)
class Package:
    """The result of importing a package.

    Args:
        version: Empty if it is not installed.
        problem: Why the import failed, else empty.
    """

    version: str = ""
    problem: str = ""

    @property
    def works(self) -> bool:
        """Whether it could be imported."""
        return bool(self.version) and not self.problem


@dataclass(frozen=True)
class Torch:
    """What torch finds on this machine.

    Args:
        version: With its build, such as `2.13.0+cpu`; empty if it cannot be imported.
        cuda: The CUDA version of the build; empty for a CPU build.
        problem: Why torch or its CUDA could not be started, else empty.
        gpus: CUDA devices.
        gflops: Precision → speed of a matrix product measured on the first GPU, else on the CPU, in GFLOP/s; 0 where it fails.
        attention: Kernel → whether a tiny call of it on that device works.
    """

    version: str = ""
    cuda: str = ""
    problem: str = ""
    gpus: tuple[Gpu, ...] = ()
    gflops: dict[str, float] = field(default_factory=dict)
    attention: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """All facts.

    Args:
        python: Version.
        system: Operating system.
        cpu: Model name.
        cores: That this process may use.
        flags: Of `CPU_FLAGS`, those that the processor has; None where this cannot be read.
        memory: Bytes that this process may use.
        memory_free: Bytes available now.
        disk_free: Bytes free in the current folder.
        driver: NVIDIA driver's version; empty if there is none.
        compiler: Whether a C++ compiler is on the PATH.
        ninja: Whether ninja is.
        versions: Required package → version, empty if absent.
        optional: Optional package → the result of its import.
        apex: `nvidia`, `nvidia, python only`, `another package` (PyPI's web toolkit) or empty.
        fairseq: The environment of `biomlm-fairseq-env`.
        fairseq_dir: Where it was looked for.
        torch: What torch finds.
    """

    python: str
    system: str
    cpu: str
    cores: int
    flags: tuple[str, ...] | None
    memory: int
    memory_free: int
    disk_free: int
    driver: str
    compiler: bool
    ninja: bool
    versions: dict[str, str]
    optional: dict[str, Package]
    apex: str
    fairseq: Package
    fairseq_dir: str
    torch: Torch


def probe() -> Machine:
    """Collect all facts; optional packages are imported in parallel."""
    env = fairseq_env()
    with ThreadPoolExecutor(len(OPTIONAL) + 2) as pool:
        optional = {name: pool.submit(try_import, name) for name in OPTIONAL}
        fairseq = pool.submit(_fairseq, env)
        apex = pool.submit(_apex)
        torch = _torch()
        memory, free = _memory()
        flags, model = _cpu()
        return Machine(
            python=platform.python_version(),
            system=platform.platform(),
            cpu=model,
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            flags=flags,
            memory=memory,
            memory_free=free,
            disk_free=shutil.disk_usage(".").free,
            driver=_driver(),
            compiler=any(shutil.which(name) for name in ("c++", "g++", "clang++")),
            ninja=shutil.which(
                "ninja", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            )
            is not None,
            versions={name: _version(name) for name in VERSIONS},
            optional={name: result.result() for name, result in optional.items()},
            apex=apex.result(),
            fairseq=fairseq.result(),
            fairseq_dir=str(env),
            torch=torch,
        )


def try_import(name: str, python: str = sys.executable) -> Package:
    """Import a package in a process of its own."""
    if python == sys.executable and importlib.util.find_spec(name) is None:
        return Package()
    code = f"import {name}; print('version', getattr({name}, '__version__', '?'))"
    succeeded, out, problem = _python(python, code)
    version = next((line.split()[1] for line in out.splitlines() if line.startswith("version ")), "")
    return Package(version or _version(name) or "?", "" if succeeded else problem)


def _python(python: str, code: str) -> tuple[bool, str, str]:
    """Run code in another Python: whether it succeeded, its output, and its last line of error."""
    try:
        result = subprocess.run(
            [python, "-P", "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, "", type(error).__name__
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    problem = lines[-1].strip() if lines else f"it ended with exit code {result.returncode}"
    return result.returncode == 0, result.stdout, problem


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _apex() -> str:
    """Tell the packages named apex apart: NVIDIA's has optimizers and, if compiled, amp_C; PyPI's is a web toolkit with neither."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if not any((folder / "optimizers").is_dir() for folder in folders):
        return "another package"
    return "nvidia" if _python(sys.executable, APEX_PROBE)[0] else "nvidia, python only"


def _fairseq(env: Path) -> Package:
    python = env / "bin" / "python"
    return try_import("fairseq", str(python)) if python.exists() else Package()


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line.strip() for line in out.splitlines() if line[:1].isdigit()), "")


def _cpu() -> tuple[tuple[str, ...] | None, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None, platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    words = fields.get("flags", fields.get("Features", "")).split()
    return tuple(flag for flag in CPU_FLAGS if flag in words), fields.get("model name", platform.machine())


def _memory() -> tuple[int, int]:
    """Read total and available bytes; a container's limit counts where it is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        total = min(total, int(limit)) if limit.isdigit() else total
    except (OSError, StopIteration):
        pass
    return total, min(free, total)


def _torch() -> Torch:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Torch(problem=str(error).splitlines()[0] if str(error) else type(error).__name__)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        has_cuda = torch.cuda.is_available()
        gpus = tuple(_gpu(torch, i) for i in range(torch.cuda.device_count())) if has_cuda else ()
    problem = str(caught[-1].message).splitlines()[0] if caught and not has_cuda else ""
    device = "cuda" if gpus and gpus[0].supported else "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Torch(
            str(torch.__version__),
            torch.version.cuda or "",
            problem,
            gpus,
            _gflops(torch, device),
            _attention(torch, device),
        )


def _gpu(torch: Any, index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    capability = (int(properties.major), int(properties.minor))
    return Gpu(
        properties.name, capability, properties.total_memory, has_kernels(capability, torch.cuda.get_arch_list())
    )


def has_kernels(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether a build of torch runs on a GPU: it has machine code of the same major version and no higher minor one, or older PTX."""
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        number = digits.rstrip("abcdefghijklmnopqrstuvwxyz")
        if not number.isdigit():
            continue
        built = (int(number[:-1]), int(number[-1]))
        if (kind == "compute" and built <= capability) or (built[0] == capability[0] and built[1] <= capability[1]):
            return True
    return False


def _gflops(torch: Any, device: str) -> dict[str, float]:
    """Measure n × n × n matrix products in GFLOP/s, the best of a few."""
    n = 4096 if device == "cuda" else 1024
    speeds = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        a = torch.ones(n, n, device=device, dtype=dtype)

        def once(a: Any = a) -> None:
            a @ a
            if device == "cuda":
                torch.cuda.synchronize()

        speeds[name] = 2 * n**3 / best / 1e9 if (best := _best(once)) else 0.0
    return speeds


def _best(work: Callable[[], None], rounds: int = 6) -> float:
    """Time the quickest round, in seconds, with one round only where it is slow; 0 if the work fails."""
    times: list[float] = []
    while len(times) < rounds and sum(times) < SLOW:
        start = time.perf_counter()
        try:
            work()
        except RuntimeError:
            return 0.0
        times.append(time.perf_counter() - start)
    return min(times)


def _attention(torch: Any, device: str) -> dict[str, bool]:
    """Try each of torch's attention kernels on 2 heads of 8 positions."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    dtype = torch.float16 if device == "cuda" else torch.float32
    q = torch.ones(1, 2, 8, 64, device=device, dtype=dtype)
    kinds = {
        "math": SDPBackend.MATH,
        "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
    }
    works = {}
    for name, kind in kinds.items():

        def once(kind: Any = kind) -> None:
            with sdpa_kernel(kind):
                torch.nn.functional.scaled_dot_product_attention(q, q, q)

        works[name] = _best(once, rounds=1) > 0
    return works | {"varlen": _varlen(torch, device)}


def _varlen(torch: Any, device: str) -> bool:
    """Try torch's attention over packed sequences."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    q = torch.ones(8, 2, 64, device=device, dtype=torch.bfloat16)
    ends = torch.tensor([0, 3, 8], device=device, dtype=torch.int32)
    try:
        varlen_attn(q, q, q, ends, ends, 5, 5)
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return True
