"""Run by test_devices.py in a process of its own, since it gives torch another device: what computes, on tensors without numbers that know
their device and refuse to meet those of another. Prints a case's name and what it raised, as JSON.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from biomlm.distill.losses.config import LossConfig
from biomlm.distill.losses.predictions import Weighting, prediction_losses
from biomlm.distill.losses.targets import Sampled, Targets, Top, Whole, sample, top
from biomlm.distill.objective import DistillObjective
from biomlm.distill.teachers.teacher import Teachers
from biomlm.finetune.tasks.heads import TokenClassifier, sequence_classifier
from biomlm.model import encoder
from biomlm.model.config import ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import linear_cross_entropy
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.training.objective import LossDenominators

GPU = "gpu"
PIECES, LENGTHS = 61, (9, 4, 12)
T, M = sum(LENGTHS), 6
PAIRED = ("bert", "megatron-bert")


class Autocast(_DummyBackendModule):
    """What autocast asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def model(shape: str = "roberta", width: int = 32, kernel: str = "padded") -> MaskedLM:
    how: Any = {"shape": shape, "num_hidden_layers": 2, "hidden_size": width, "num_attention_heads": 2}
    with torch.device(GPU):
        made = MaskedLM(ModelConfig(**how).resolve(PIECES, 16, 1))
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


def pretraining(shape: str, kernel: str) -> None:
    made, pairs = model(shape, kernel=kernel), shape in PAIRED
    with torch.device(GPU):
        objective = PretrainObjective(ObjectiveConfig(nsp=1.0 if pairs else 0.0), made.config)
    ends(objective(made, batch(pairs), LossDenominators(M, T, len(LENGTHS))), made, objective)


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


def distillation(distance: str, relation: str) -> None:
    how: Any = {"relation": relation, "distance": distance}
    parts = LossConfig(kl=1.0, mlm=1.0, hidden=1.0, pooled=1.0, embeddings=1.0, relations=1.0, **how)
    student, at = model(), torch.device(GPU)
    teachers = Teachers([model(width=48), model(width=48)], Device(at, "fp32"), PIECES)
    with at:
        objective = DistillObjective(teachers, student.config, parts, vocab_size=PIECES, steps=10, sources=["a", "b"])
    ends(objective(student, batch(), LossDenominators(M, T)), student.encoder, objective)


def finetuning(kind: str) -> None:
    made, given = model(), batch()
    with torch.device(GPU):
        task = TokenClassifier(made, 5) if kind == "token" else sequence_classifier(made, 5)
    rows_mk = task(given.packed, given.positions_m)
    ends({"loss": torch.nn.functional.cross_entropy(rows_mk, given.labels_m)}, task.classifier)


CASES: dict[str, Callable[[], None]] = {
    **{
        f"pretrain {s} {k}": partial(pretraining, s, k) for s in ("roberta", *PAIRED, "modernbert") for k in ("padded",)
    },
    "head whole": partial(head, 1 << 20, torch.float32),
    "head blocks": partial(head, 2 * PIECES, torch.float32),
    "head fp16 whole": partial(head, 1 << 20, torch.float16),
    "head fp16 blocks": partial(head, 2 * PIECES, torch.float16),
    **{f"teacher {kind}": partial(prediction, kind) for kind in ("whole", "top", "sample")},
    **{f"distill {d} {r}": partial(distillation, d, r) for d, r in (("cosine", "minilm"), ("mse", "minilmv2"))},
    **{f"finetune {kind}": partial(finetuning, kind) for kind in ("token", "sequence")},
}


def main() -> None:
    _setup_privateuseone_for_python_backend(GPU, Autocast())  # type: ignore[no-untyped-call]
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
