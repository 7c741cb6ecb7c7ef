"""`biomlm doctor`: what this machine can do, what it cannot, and what to do about it."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from biomlm.core.summary import summary
from biomlm.launch.machine import GIB, Machine, Package, probe

LOW_DISK = 20 * GIB  # a small corpus with its shards and a few checkpoints
AMPERE = (8, 0)  # the first GPUs with bf16 and flash attention
VOLTA = (7, 0)  # the first with fast fp16
WORTH = 1.2  # how much quicker than fp32 another precision must be on a CPU

Verdict = Literal["yes", "partly", "no"]
MARKS = {"yes": "green", "partly": "yellow", "no": "red"}


@dataclass(frozen=True)
class DoctorConfig:
    """Look at this machine.

    Args:
        json: Print JSON instead of tables.
    """

    json: bool = False


@dataclass(frozen=True)
class Capability:
    """One thing that a machine can or cannot do.

    Args:
        name: The thing.
        verdict: Whether it can.
        found: What was found.
        remedy: What to do if it matters to you; empty where all is well.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def run(config: DoctorConfig) -> None:
    """Probe the machine and print facts and verdicts."""
    machine = probe()
    verdicts = list(judge(machine))
    if config.json:
        report = {"machine": asdict(machine), "capabilities": [asdict(verdict) for verdict in verdicts]}
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    summary("this machine", _facts(machine))
    table = Table("", "can", "found", "what to do", box=None, pad_edge=False, header_style="dim")
    for c in verdicts:
        table.add_row(Text(c.name), Text(c.verdict, style=MARKS[c.verdict]), Text(c.found), Text(c.remedy))
    print()
    Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _facts(machine: Machine) -> dict[str, object]:
    flags = "unknown" if machine.flags is None else ", ".join(machine.flags) or "none of AVX2, AVX-512, AMX"
    rows: dict[str, object] = {
        "Python": machine.python,
        "system": machine.system,
        "processor": f"{machine.cpu}, {machine.cores} cores",
        "  instructions": flags,
        "memory": f"{machine.memory / GIB:.1f} GiB, {machine.memory_free / GIB:.1f} free",
        "disk free here": f"{machine.disk_free / GIB:.1f} GiB",
    }
    for i, gpu in enumerate(machine.torch.gpus):
        rows[f"GPU {i}"] = f"{gpu.name}, {gpu.memory / GIB:.0f} GiB, capability {gpu.capability[0]}.{gpu.capability[1]}"
    rows |= {name: version or "not installed" for name, version in machine.versions.items()}
    if machine.torch.gflops:
        rows["matrix products, GFLOP/s"] = ", ".join(f"{p} {speed:,.0f}" for p, speed in machine.torch.gflops.items())
    return rows


def judge(machine: Machine) -> Iterator[Capability]:
    """Yield every verdict, from the facts alone."""
    yield _disk(machine)
    yield _gpu(machine)
    if machine.torch.version:
        yield Capability("precision fp32", "yes", "always works; the reference")
        yield _bf16(machine)
        yield _fp16(machine)
        yield _attention(machine)
    yield _flash_attn(machine)
    yield _deepspeed(machine)
    yield _apex(machine)
    yield _fairseq(machine)
    yield _optional(
        "ray",
        machine.optional.get("ray", Package()),
        "pip install 'biomlm[ray]', to run corpus stages on a Ray cluster.",
    )


def _disk(machine: Machine) -> Capability:
    evidence = f"{machine.disk_free / GIB:.1f} GiB free"
    if machine.disk_free < LOW_DISK:
        return Capability(
            "room on disk", "partly", evidence, "Enough for the demo; give --out on a larger disk for a real corpus."
        )
    return Capability("room on disk", "yes", evidence)


def _gpu(machine: Machine) -> Capability:
    torch = machine.torch
    if not torch.version:
        return Capability(
            "training", "no", f"torch cannot be imported: {torch.problem}", "Install torch: docs/install.md."
        )
    unsupported = [gpu for gpu in torch.gpus if not gpu.supported]
    if unsupported:
        evidence = f"this build of torch (CUDA {torch.cuda}) has no kernels for {unsupported[0].name}"
        remedy = "Install a CUDA 12.6 build of torch, the last for capability 7.0 and below: docs/install.md."
        return Capability("training on a GPU", "no", evidence, remedy)
    if torch.gpus:
        return Capability("training on a GPU", "yes", f"{len(torch.gpus)} × {torch.gpus[0].name}, CUDA {torch.cuda}")
    if not machine.driver:
        return Capability("training on a GPU", "no", "no NVIDIA driver here", "Small models train on the CPU.")
    if not torch.cuda:
        evidence = f"driver {machine.driver}, but torch {torch.version} is a CPU build"
        return Capability("training on a GPU", "no", evidence, "Install a CUDA build of torch: docs/install.md.")
    evidence = torch.problem or f"driver {machine.driver}, CUDA {torch.cuda}, and torch sees no device"
    return Capability(
        "training on a GPU",
        "no",
        evidence,
        "Check nvidia-smi and CUDA_VISIBLE_DEVICES; an old driver needs an older CUDA.",
    )


def _bf16(machine: Machine) -> Capability:
    name, torch = "precision bf16", machine.torch
    if torch.gpus:
        weakest = min(gpu.capability for gpu in torch.gpus)
        if weakest >= AMPERE:
            return Capability(name, "yes", "Ampere or newer: the precision of choice")
        return Capability(
            name,
            "no",
            f"capability {weakest[0]}.{weakest[1]} has none in hardware",
            f"Train in {'fp16' if weakest >= VOLTA else 'fp32'}, which --precision auto takes here.",
        )
    gain = _gain(machine, "bf16")
    extensions = [flag for flag in machine.flags or () if flag in ("amx_bf16", "avx512_bf16")]
    evidence = f"{gain:.1f} × fp32 in matrix products" + (f" ({', '.join(extensions)})" if extensions else "")
    if gain >= WORTH:
        return Capability(name, "yes", evidence)
    return Capability(name, "no", evidence, "Give --precision fp32.")


def _fp16(machine: Machine) -> Capability:
    name, torch = "precision fp16", machine.torch
    if not torch.gpus:
        return Capability(
            name, "no", f"{_gain(machine, 'fp16'):.2g} × fp32 on this processor", "fp16 is for GPUs; use bf16 or fp32."
        )
    weakest = min(gpu.capability for gpu in torch.gpus)
    if weakest >= AMPERE:
        return Capability(name, "yes", "works with dynamic loss scaling; bf16 needs none")
    if weakest >= VOLTA:
        return Capability(name, "yes", "fast in hardware, with dynamic loss scaling: what --precision auto takes here")
    return Capability(name, "no", f"capability {weakest[0]}.{weakest[1]} computes it slowly", "Use fp32.")


def _gain(machine: Machine, precision: str) -> float:
    speeds = machine.torch.gflops
    return speeds.get(precision, 0.0) / speeds["fp32"] if speeds.get("fp32") else 0.0


def _attention(machine: Machine) -> Capability:
    working = [name for name, works in machine.torch.attention.items() if works]
    evidence = f"torch's own: {', '.join(working) or 'none'}"
    if not machine.torch.gpus:
        return Capability("attention kernels", "yes", f"{evidence}; biomlm's blocks on a CPU")
    if "flash" in working:
        return Capability("attention kernels", "yes", evidence)
    return Capability(
        "attention kernels",
        "partly",
        evidence,
        "Flash attention needs capability 8.0; packed sequences run slower here.",
    )


def _flash_attn(machine: Machine) -> Capability:
    package = machine.optional.get("flash_attn", Package())
    if any(gpu.capability >= AMPERE for gpu in machine.torch.gpus):
        return _optional(
            "flash-attn", package, "Optional: pip install flash-attn --no-build-isolation (it compiles for long)."
        )
    evidence = "installed, but it needs a GPU of capability 8.0" if package.version else "not installed"
    return Capability("flash-attn", "no", evidence, "Nothing: it would not run here.")


def _deepspeed(machine: Machine) -> Capability:
    package = machine.optional.get("deepspeed", Package())
    capability = _optional("DeepSpeed", package, "pip install 'biomlm[deepspeed]', for models that do not fit one GPU.")
    tools = (("a C++ compiler", machine.compiler), ("ninja", machine.ninja))
    lacking = " and ".join(name for name, present in tools if not present)
    if capability.verdict != "yes" or not lacking:
        return capability
    return Capability(
        "DeepSpeed",
        "partly",
        f"{capability.found}, without {lacking}",
        f"Install {lacking}: it compiles parts of itself.",
    )


def _apex(machine: Machine) -> Capability:
    build = (
        "Optional: build NVIDIA's from its source. torch's fused AdamW, autocast and GradScaler do most of its work."
    )
    if not machine.apex:
        return Capability("apex", "no", "not installed", build)
    if machine.apex == "another package":
        return Capability(
            "apex", "no", "the `apex` installed is a web toolkit, not NVIDIA's", f"pip uninstall apex. {build}"
        )
    if machine.apex == "nvidia":
        return Capability("apex", "yes", "NVIDIA's, compiled: taken with --optim.apex")
    return Capability(
        "apex", "partly", "NVIDIA's, without its compiled kernels", "Build it again with its C++ and CUDA extensions."
    )


def _fairseq(machine: Machine) -> Capability:
    remedy = "biomlm-fairseq-env makes one; reading and writing fairseq's files needs none (docs/fairseq.md)."
    if not machine.fairseq.version:
        return Capability("fairseq", "no", f"no environment in {machine.fairseq_dir} ($BIOMLM_FAIRSEQ_ENV)", remedy)
    return _optional("fairseq", machine.fairseq, "Remove the folder and run biomlm-fairseq-env again.")


def _optional(name: str, package: Package, remedy: str) -> Capability:
    if package.works:
        return Capability(name, "yes", package.version)
    if package.version:
        return Capability(
            name,
            "no",
            f"{package.version}, but its import fails: {package.problem[:160]}",
            "Install it again for this torch.",
        )
    return Capability(name, "no", "not installed", remedy)
