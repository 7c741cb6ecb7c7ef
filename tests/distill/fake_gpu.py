"""Run by test_devices.py in a process of its own, since it gives torch another device: what computes, on tensors without numbers that know
their device and refuse to meet those of another. Prints a case's name and what it raised, as JSON.

With FAKE_SM (70 for compute capability 7.0) the device is cuda itself, as `make gpu-check` runs it: under a CUDA build of torch, which
believes that it has such a GPU (see fake_cuda.c), so that kernels are chosen and checked as there.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from biomlm.distill.losses.config import LossConfig
from biomlm.distill.losses.predictions import Weighting, prediction_losses
from biomlm.distill.losses.targets import Sampled, Targets, Top, Whole, sample, top
from biomlm.distill.objective import DistillObjective
from biomlm.distill.teachers.cache_blocks import decode_targets, encode_targets
from biomlm.distill.teachers.cached import _to_tensor
from biomlm.distill.teachers.cross_vocabulary import word_means
from biomlm.distill.teachers.teacher import TeacherOutputs, TeacherRequest, Teachers, TeacherSource, TeacherStates
from biomlm.finetune.tasks.crf import CrfClassifier, negative_log_likelihood
from biomlm.finetune.tasks.heads import TokenClassifier, sequence_classifier
from biomlm.model import encoder
from biomlm.model.config import ModelConfig
from biomlm.model.device import Device, choose
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import linear_cross_entropy
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.training.distributed.engine import LossModule
from biomlm.training.objective import LossDenominators

SM = os.environ.get("FAKE_SM", "")
GPU = "cuda" if SM else "gpu"
PIECES, LENGTHS = 61, (9, 4, 12)
T, M = sum(LENGTHS), 6
PAIRED = {"bert": ("nsp", "sop"), "megatron-bert": ("drp", "sso")}
KERNELS = ("auto",) if SM else ("padded", "efficient")
PRECISIONS = ("auto", "fp16", "fp32") if SM else ("fp32",)


class Aligned(TeacherSource):
    """Gives the same states for every micro-batch."""

    def __init__(self, configs: Sequence[Any], states_wu: Tensor, word_of_t: Tensor):
        super().__init__(configs)
        self.states_wu, self.word_of_t = states_wu, word_of_t

    def require(self, requests: Sequence[TeacherRequest]) -> None: ...

    def __call__(self, batch: Batch, requests: Sequence[TeacherRequest]) -> TeacherOutputs:
        states = dict.fromkeys(requests[0].layers, self.states_wu)
        return TeacherOutputs(None, [TeacherStates(states, word_of_t=self.word_of_t)])


class Autocast(_DummyBackendModule):
    """What autocast asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def model(shape: str = "roberta", width: int = 128, kernel: str = KERNELS[0]) -> MaskedLM:
    how: Any = {"shape": shape, "num_hidden_layers": 4, "hidden_size": width, "num_attention_heads": 2}
    how["attention_dropout"] = 0.0 if kernel == "efficient" else 0.1
    with torch.device(GPU):
        made = MaskedLM(replace(ModelConfig(**how).resolve(PIECES, 16, 1), local_window=3))
    made.encoder.use_attention(kernel)  # type: ignore[arg-type]
    return made


def batch(pairs: bool = False) -> Batch:
    """Made on the CPU and moved, as the loader's are."""
    ids_t, rows_m = torch.ones(T, dtype=torch.int64), torch.ones(M, dtype=torch.int64)
    packed = Packed(ids_t, LENGTHS, torch.ones_like(ids_t) if pairs else None)
    pair_labels_b = torch.ones(len(LENGTHS), dtype=torch.int64) if pairs else None
    return Batch(packed, rows_m, torch.ones_like(rows_m), pair_labels_b=pair_labels_b).to(torch.device(GPU))


def there(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        assert tensor is not None
        assert tensor.device.type == GPU, "it is elsewhere"


def ends(terms: dict[str, Tensor], *modules: torch.nn.Module) -> None:
    """A step's backward pass, after which every gradient is where its weight is."""
    there(*terms.values())
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    there(*(p.grad for module in modules for p in module.parameters() if p.requires_grad))


def computing(precision: str) -> Device:
    return choose(precision) if SM else Device(torch.device(GPU), "fp32")  # type: ignore[arg-type]


def pretraining(shape: str, objective: str, kernel: str, precision: str) -> None:
    """A step, and an evaluation, which has no dropout."""
    made, weights = model(shape, kernel=kernel), {} if objective == "mlm" else {objective: 1.0}
    with torch.device(GPU):
        part = PretrainObjective(ObjectiveConfig(**weights), made.config)
    loss, totals = LossModule(made, part, computing(precision)), LossDenominators(M, T, len(LENGTHS))
    ends(loss(batch(bool(weights)), totals), made, part)
    with torch.inference_mode():
        there(*loss.eval()(batch(bool(weights)), totals).values())


def head(block: int, dtype: torch.dtype) -> None:
    x_mh = torch.ones(M, 8, device=GPU, dtype=dtype, requires_grad=True)
    weight_vh = torch.ones(PIECES, 8, device=GPU, requires_grad=True)
    bias_v = torch.zeros(PIECES, device=GPU, requires_grad=True)
    labels_m = torch.ones(M, device=GPU, dtype=torch.int64)
    loss, right = linear_cross_entropy(x_mh, weight_vh.to(dtype), bias_v, labels_m, block)
    there(loss, right, *torch.autograd.grad(loss, (x_mh, weight_vh, bias_v)))


def targets(kind: str) -> Targets:
    whole = Whole((torch.zeros(M, PIECES, device=GPU), torch.zeros(M, PIECES, device=GPU)), 2.0)
    log_p_mv = whole.log_probabilities(slice(None))
    if kind == "whole":
        return whole
    return top(log_p_mv, 7) if kind == "top" else sample(log_p_mv, 7, torch.rand(M, 7, device=GPU).double())


def prediction(kind: str) -> None:
    """`distill cache` excerpts a teacher where it computes, and a student is held against what was kept."""
    wanted, logits_mv = targets(kind), torch.zeros(M, PIECES, device=GPU, requires_grad=True)
    if isinstance(wanted, Top | Sampled):
        there(*vars(wanted).values())
    labels_m = torch.ones(M, device=GPU, dtype=torch.int64)
    terms = prediction_losses(logits_mv, labels_m, wanted, Weighting(1.0, 0.5, 2.0))
    there(*terms, *torch.autograd.grad(terms[0], logits_mv))


def distillation(distance: str, relation: str, precision: str) -> None:
    how: Any = {"relation": relation, "distance": distance}
    parts = LossConfig(kl=1.0, mlm=1.0, hidden=1.0, pooled=1.0, embeddings=1.0, relations=1.0, **how)
    student, device = model(), computing(precision)
    teachers = Teachers([model(width=192), model(width=192)], device, PIECES)
    with torch.device(GPU):
        objective = DistillObjective(teachers, student.config, parts, vocab_size=PIECES, steps=10, sources=["a", "b"])
    ends(LossModule(student, objective, device)(batch(), LossDenominators(M, T)), student.encoder, objective)


def words(precision: str) -> None:
    """Teachers of another vocabulary, whose states and alignment come to the student's device."""
    student, device, given = model(), computing(precision), batch()
    word_of_t = given.packed.input_ids_t.new_zeros(T)
    parts = LossConfig(kl=0.0, mlm=1.0, hidden=1.0)
    teachers = Aligned([student.config], torch.zeros(4, 128, device=GPU), word_of_t)
    with torch.device(GPU):
        objective = DistillObjective(teachers, student.config, parts, vocab_size=PIECES, steps=10, sources=["a"])
    ends(LossModule(student, objective, device)(given, LossDenominators(M, T)), student.encoder)
    there(word_means(torch.zeros(T, 8, device=GPU), word_of_t, 4))


def cached(kind: str) -> None:
    """What a cache holds of the predictions and states, brought to the device."""
    with unset_fake_temporarily():  # it lies on a disk
        ids_mk, seven_mk, one_m = torch.arange(7).repeat(M, 1), torch.full((M, 7), 1 / 7), torch.zeros(M)
        kept = Top(ids_mk, seven_mk.log(), one_m) if kind == "top" else Sampled(ids_mk, seven_mk, one_m)
        arrays = encode_targets(kept, PIECES)
    found = decode_targets(arrays, PIECES, torch.device(GPU))
    there(*vars(found).values(), _to_tensor(np.zeros((T, 32), np.float16), torch.device(GPU)))


def finetuning(kind: str, precision: str) -> None:
    made, given, device = model(), batch(), computing(precision)
    with torch.device(GPU):
        task = {"token": TokenClassifier, "crf": CrfClassifier, "sequence": sequence_classifier}[kind](made, 5)
    with device.autocast():
        rows = task(given.packed, given.positions_m).float()
        loss = (negative_log_likelihood if kind == "crf" else torch.nn.functional.cross_entropy)(rows, given.labels_m)
    ends({"loss": loss}, task.classifier)
    with torch.inference_mode(), device.autocast():
        there(task.eval()(given.packed, given.positions_m))


CASES: dict[str, Callable[[], None]] = {
    **{
        f"pretrain {s} {o} {k} {p}": partial(pretraining, s, o, k, p)
        for s in ("roberta", *PAIRED, "modernbert")
        for o in ("mlm", *PAIRED.get(s, ()))
        for k in KERNELS
        for p in PRECISIONS
    },
    "head whole": partial(head, 1 << 20, torch.float32),
    "head blocks": partial(head, 2 * PIECES, torch.float32),
    "head fp16 whole": partial(head, 1 << 20, torch.float16),
    "head fp16 blocks": partial(head, 2 * PIECES, torch.float16),
    **{f"teacher {kind}": partial(prediction, kind) for kind in ("whole", "top", "sample")},
    **{
        f"distill {d} {r} {p}": partial(distillation, d, r, p)
        for d, r in (("cosine", "minilm"), ("mse", "minilmv2"))
        for p in PRECISIONS
    },
    **{f"distill words {p}": partial(words, p) for p in PRECISIONS},
    **{f"cached {kind}": partial(cached, kind) for kind in ("top", "sample")},
    **{
        f"finetune {kind} {p}": partial(finetuning, kind, p)
        for kind in ("token", "crf", "sequence")
        for p in PRECISIONS
    },
}


def capability(*_: Any) -> tuple[int, int]:
    return divmod(int(SM), 10)


def pretend() -> None:
    """Have torch's Python side believe in a GPU too."""
    if not SM:
        _setup_privateuseone_for_python_backend(GPU, Autocast())  # type: ignore[no-untyped-call]
        return
    torch.cuda.is_available = lambda: True  # type: ignore[assignment]
    torch.cuda.is_bf16_supported = lambda *_: capability() >= (8, 0)  # type: ignore[assignment]
    torch.cuda.get_device_capability = capability
    torch.cuda.get_device_name = lambda *_: "fake"
    Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign] # tensors without numbers have no memory


def main() -> None:
    pretend()
    encoder.initialise = lambda *_: None  # type: ignore[assignment] # it looks at numbers
    MaskedLM.to = lambda self, *_: self  # type: ignore[method-assign] # fake modules are made where they belong
    for name, case in CASES.items():
        problem = ""
        try:
            with FakeTensorMode():
                case()
        except Exception:
            problem = traceback.format_exc()
        print(json.dumps([name, problem]))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a device made in Python may abort while the interpreter goes down, when all has been said
