"""Parts of the GPU benchmark that hold kernels to float64: attention by each kernel, the head's loss, and a step that reads nothing."""

import math
from collections.abc import Callable, Iterator
from typing import get_args

import plain  # noqa: F401
import torch
from gpu_common import Line, Settings, batches_of, engine_of, on_device, one_step
from torch import Tensor

from biomlm.core.errors import ConfigError
from biomlm.model.compute import DTYPES
from biomlm.model.config import Kernel
from biomlm.model.kernels.attention import attention, check
from biomlm.model.kernels.cross_entropy import linear_cross_entropy
from biomlm.model.packed import Packed
from biomlm.training.objective import LossDenominators

LENGTHS, HEADS, HEAD_SIZE, WINDOW = (1, 7, 130, 64, 257, 31), 3, 64, 16
DRAWS = 64  # of dropout
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}  # largest error, of numbers about 1


def exact(q_tnd: Tensor, k_tnd: Tensor, v_tnd: Tensor, window: int | None) -> Tensor:
    """Attention by its definition in float64, sequence by sequence."""
    outs = []
    for q, k, v in zip(*(torch.split(x.double(), LENGTHS) for x in (q_tnd, k_tnd, v_tnd)), strict=True):
        scores = torch.einsum("qnd,knd->nqk", q, k) / math.sqrt(HEAD_SIZE)
        if window is not None:
            at = torch.arange(len(q), device=q.device)
            scores = scores.masked_fill((at[:, None] - at).abs() > window, -torch.inf)
        outs.append(torch.einsum("nqk,knd->qnd", scores.softmax(-1), v))
    return torch.cat(outs)


def rows(settings: Settings) -> tuple[list[Tensor], Tensor, Packed]:
    """Queries, keys and values as slices of one tensor, as a layer has them; a gradient; where sequences begin."""
    device, dtype = settings.device.torch, DTYPES[settings.device.precision]
    draw, tokens = torch.Generator().manual_seed(0), sum(LENGTHS)
    qkv = torch.randn(tokens, 3, HEADS, HEAD_SIZE, generator=draw).to(device, dtype).requires_grad_()
    gradient = torch.randn(tokens, HEADS, HEAD_SIZE, generator=draw).to(device, dtype)
    return [qkv, *qkv.unbind(1)], gradient, Packed(torch.zeros(tokens, dtype=torch.int64, device=device), LENGTHS)


def kernels(settings: Settings, dropout: float) -> Iterator[Kernel]:
    """Those that can run here."""
    for kernel in get_args(Kernel):
        if kernel == "flex" and not settings.on_gpu:  # has no backward pass on a CPU
            continue
        try:
            check(kernel, settings.device.torch, DTYPES[settings.device.precision], dropout)
        except ConfigError:
            continue
        yield kernel


def parity_attention(settings: Settings) -> Iterator[Line]:
    """Outputs and gradients of every kernel."""
    for kernel in kernels(settings, 0.0):
        for window in (None, WINDOW):
            yield caught(
                f"attention by {kernel}, window {window}", lambda k=kernel, w=window: errors_of(settings, k, w)
            )  # type: ignore[misc]


def caught(what: str, work: Callable[[], tuple[dict[str, float], str]]) -> Line:
    """The line of one kernel, whatever becomes of it: the others follow."""
    try:
        return Line("parity", what, *work())
    except Exception as error:
        return Line("parity", what, problem=f"{type(error).__name__}: {str(error)[:200]}")


def errors_of(settings: Settings, kernel: Kernel, window: int | None) -> tuple[dict[str, float], str]:
    """The largest errors of outputs and gradients, and what is wrong with them."""
    (qkv, q, k, v), gradient, packed = rows(settings)
    out = attention(q, k, v, packed, 0.0, window, kernel)
    (own,) = torch.autograd.grad(out, qkv, gradient)
    twin = qkv.detach().double().requires_grad_()
    reference = exact(*twin.unbind(1), window)
    (expected,) = torch.autograd.grad(reference, twin, gradient.double())
    errors = {
        "output": float((out.double() - reference).abs().max()),
        "gradient": float((own.double() - expected).abs().max() / expected.abs().max()),
    }
    most = ROUNDING[qkv.dtype]
    return errors, f"{errors}, allowed {most}" if not max(errors.values()) <= most else ""


def parity_dropout(settings: Settings) -> Iterator[Line]:
    """The mean of many draws is the output without dropout, and the draws differ."""
    for kernel in kernels(settings, 0.1):
        yield caught(f"dropout in attention by {kernel}", lambda k=kernel: dropout_of(settings, k))  # type: ignore[misc]


def dropout_of(settings: Settings, kernel: Kernel) -> tuple[dict[str, float], str]:
    """How many standard errors the mean of draws is away from the output without dropout (1 is expected), and what is wrong with it."""
    (_, q, k, v), _, packed = rows(settings)
    with torch.no_grad():
        draws = torch.stack([attention(q, k, v, packed, 0.1, None, kernel).double() for _ in range(DRAWS)])
    reference = exact(q.detach(), k.detach(), v.detach(), None)
    # Rounding of the draws, which their mean keeps, is no matter of chance: 16-bit numbers about 1 have some 1e-3 of it.
    rounding = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[q.dtype]
    errors = (draws.var(0) / DRAWS + rounding**2).sqrt()
    far, spread = float(((draws.mean(0) - reference) / errors).square().mean().sqrt()), float(draws.std(0).mean())
    problem = (
        f"{far:.2f} standard errors away" if not 0.3 < far < 2.0 else "" if spread > 1e-2 else "nothing is dropped"
    )
    return {"standard errors": far, "spread": spread}, problem


def parity_loss(settings: Settings) -> Iterator[Line]:
    """The head's loss and gradients, at once and in blocks."""
    device, dtype = settings.device.torch, DTYPES[settings.device.precision]
    draw, (m, h, v) = torch.Generator().manual_seed(0), (257, 128, 5000)
    x_mh, labels_m = torch.randn(m, h, generator=draw).to(device), torch.randint(v, (m,), generator=draw).to(device)
    weight_vh = (torch.randn(v, h, generator=draw) / math.sqrt(h)).to(device)
    leaves = [x.to(dtype).double().requires_grad_() for x in (x_mh, weight_vh)]
    expected = torch.nn.functional.cross_entropy(leaves[0] @ leaves[1].t(), labels_m, reduction="sum")
    gradients = torch.autograd.grad(expected, leaves)
    for name, block in (("at once", 1 << 25), ("in blocks", 64 * v)):
        own = [x.clone().requires_grad_() for x in (x_mh, weight_vh)]
        bias_v = torch.zeros(v, device=device, requires_grad=True)
        with settings.device.autocast():
            loss, _ = linear_cross_entropy(*own, bias_v, labels_m, block)
        found = torch.autograd.grad(loss, own)
        errors = {"loss": abs(float(loss) / float(expected) - 1)}
        for which, mine, reference in zip(("states", "decoder"), found, gradients, strict=True):
            errors[which] = float((mine.double() - reference).norm() / reference.norm())
        most = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}[dtype]
        yield Line("parity", f"loss {name}", errors, f"{errors}" if not max(errors.values()) <= most else "")


def reads_nothing(settings: Settings) -> Iterator[Line]:
    """A micro-batch, forward and backward, in which the host never waits for the device."""
    encoder = settings.encoder(settings.sizes[0])
    engine = engine_of(encoder, settings.device)
    batches = batches_of(settings, encoder, 3)
    one_step(engine, batches[0], 0)
    engine.begin(1, timed=False)
    moved, totals = [on_device(batch, settings.device) for batch in batches[1:]], LossDenominators.of(batches[1:])
    if settings.on_gpu:
        torch.cuda.set_sync_debug_mode("error")
    try:
        for number, batch in enumerate(moved):
            sums = engine.backward(batch, totals, 1.0, last=number == 1)
    finally:
        if settings.on_gpu:
            torch.cuda.set_sync_debug_mode("default")
    loss = engine.step(sums, lambda *_: True).figures["loss"]
    yield Line("sync", "two micro-batches", {"loss": loss, "watched": settings.on_gpu})
