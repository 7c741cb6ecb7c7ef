"""What goes along beside the masked-LM head (pooler, next-sentence head, classifiers, question answering) computed on both sides.

A Hugging Face folder's are computed by transformers' own classes, each loaded from the folder; all others' by the formulas below, which are
those of fairseq's `RobertaClassificationHead` and of BERT's pooler: `tanh` in both.

Shape suffixes: b sequences, l places of the longest, t tokens, h hidden size, c classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.names.hf_architectures import Architecture
from biomlm.convert.names.table import Stacked
from biomlm.core.errors import CheckpointError, ConversionError
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import approximation

Kind = Literal["pooler", "seq_relationship", "qa_outputs", "sequence", "multiple_choice", "tokens"]
CLASSIFIERS = "classification_heads."
PREDICTION = "prediction_head"  # ModernBERT's, in front of its classifiers
TASKS: dict[str, Kind] = {
    "ForSequenceClassification": "sequence",
    "ForMultipleChoice": "multiple_choice",
    "ForTokenClassification": "tokens",
    "ForQuestionAnswering": "tokens",
}
CLASSES: dict[Kind, str] = {  # what comes first names the model, where it has several
    "sequence": "ForSequenceClassification",
    "multiple_choice": "ForMultipleChoice",
    "tokens": "ForTokenClassification",
    "qa_outputs": "ForQuestionAnswering",
    "seq_relationship": "ForNextSentencePrediction",
}
NEXT_OR_NOT = 2  # answers of transformers' ForNextSentencePrediction; a head with a third (LinkBERT) is carried, and no class computes it
PROBES = 4  # sequences: a head is a matrix or two, and does the same to each


@dataclass(frozen=True)
class Head:
    """One head.

    Args:
        kind: What it is computed from.
        module: Its neutral name in `extra_tensors`.
        classes: Its outputs.
    """

    kind: Kind
    module: str
    classes: int


def present(extra_tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> list[Head]:
    """Find the heads that a model has whole; the activation of each is `tanh`, or its reader has refused it."""
    modules = sorted({name.rpartition(".")[0] for name in extra_tensors})
    heads = [
        Head("pooler" if module == "pooler.dense" else module, module, len(extra_tensors[f"{module}.weight"]))  # type: ignore[arg-type]
        for module in modules
        if module in ("pooler.dense", "seq_relationship", "qa_outputs")
        and {f"{module}.weight", f"{module}.bias"} <= extra_tensors.keys()
        and not (module == "seq_relationship" and len(extra_tensors[f"{module}.weight"]) != NEXT_OR_NOT)
    ]
    for module in sorted({".".join(m.split(".")[:2]) for m in modules if m.startswith(CLASSIFIERS)}):
        last = f"{module}.out_proj" if f"{module}.out_proj.weight" in extra_tensors else module
        if {f"{last}.weight", f"{last}.bias"} <= extra_tensors.keys():
            heads.append(Head(_task(extra_tensors, facts, module), module, len(extra_tensors[f"{last}.weight"])))
    return heads


def _task(extra_tensors: Mapping[str, Tensor], facts: Mapping[str, Any], module: str) -> Kind:
    """Tell what a classifier is computed from: what its training or its class says; else the pooler, where there is one, or every token."""
    trained, stated = facts.get("finetune"), facts.get("architectures")
    names = [str(name) for name in stated] if isinstance(stated, list) else []
    kinds = [kind for name in names for end, kind in TASKS.items() if name.endswith(end)]
    if isinstance(trained, dict) and trained.get("head") in TASKS.values():
        return trained["head"]  # type: ignore[no-any-return]
    if kinds:
        return kinds[0]
    of_sequence = f"{module}.out_proj.weight" in extra_tensors or "pooler.dense.weight" in extra_tensors
    return "sequence" if of_sequence else "tokens"


def class_of(heads: Sequence[Head], architecture: Architecture, *, has_head: bool) -> str:
    """Name transformers' class for a model with these heads, and with the masked-LM head or without."""
    family, kinds = architecture.masked_lm.removesuffix("ForMaskedLM"), {head.kind for head in heads}
    first = next((kind for kind in CLASSES if kind in kinds), None)
    if first == "seq_relationship" and has_head:
        return f"{family}ForPreTraining"
    if first:
        return f"{family}{CLASSES[first]}"
    return architecture.masked_lm if has_head else architecture.base


def demand_equal(before: Mapping[str, Tensor], after: Mapping[str, Tensor], dtype: torch.dtype, file: Path) -> None:
    """Refuse a conversion to a number type that changed a tensor which is carried along and computes nothing.

    Raises:
        ConversionError: One is other than it was, or gone.
    """
    for name, tensor in before.items():
        if name not in after or not torch.equal(tensor.to(dtype), after[name].to(dtype)):
            problem = f"the tensor {name} is not written as it was; nothing was written"
            raise ConversionError(problem, file=file, remedy="Please report this checkpoint.")


def demand_labels(heads: Sequence[Head], before: Mapping[str, Any], after: Mapping[str, Any], file: Path) -> None:
    """Refuse a conversion that changed the names of a classifier's outputs.

    Raises:
        ConversionError: They are others, or gone.
    """
    named = any(head.module.startswith(CLASSIFIERS) for head in heads) and "id2label" in before
    if named and before["id2label"] != after.get("id2label"):
        problem = "the names of the classifier's labels are not written as they were; nothing was written"
        raise ConversionError(problem, file=file, remedy="Please report this checkpoint.")


def demand_numbers(source: SourceCheckpoint, file: Path) -> None:
    """Refuse a source that holds NaN or infinity, even in a row that nothing reads.

    Raises:
        CheckpointError: A tensor holds NaN or infinity.
    """
    for name, pieces in (
        Stacked(source.tensors).pieces | {name: (t,) for name, t in source.extra_tensors.items()}
    ).items():
        if not all(torch.stack(torch.aminmax(piece)).isfinite().all() for piece in pieces if piece.numel()):
            problem = f"the tensor {name} holds NaN or infinity"
            raise CheckpointError(problem, file=file, remedy="Its weights are damaged: take an earlier checkpoint.")


def by_formula(
    heads: Sequence[Head],
    hidden: Sequence[Tensor],
    config: EncoderConfig,
    extra_tensors: Mapping[str, Tensor],
    mean: bool,
) -> dict[str, Tensor]:
    """Compute each head's outputs by the formulas, under its module's name.

    Args:
        heads: Which.
        hidden: The last hidden state of each sequence, [t, h].
        config: The encoder's.
        extra_tensors: The heads' tensors.
        mean: Whether ModernBERT's classifiers take the mean of the tokens instead of the first.
    """

    def apply(module: str, x: Tensor) -> Tensor:
        bias = extra_tensors.get(f"{module}.bias")
        return F.linear(x, extra_tensors[f"{module}.weight"].float(), None if bias is None else bias.float())

    def prepared(x: Tensor) -> Tensor:
        if f"{PREDICTION}.dense.weight" not in extra_tensors:
            return x
        x = F.gelu(apply(f"{PREDICTION}.dense", x), approximate=approximation(config.head_activation))
        norm, bias = extra_tensors[f"{PREDICTION}.norm.weight"].float(), extra_tensors.get(f"{PREDICTION}.norm.bias")
        return F.layer_norm(x, norm.shape, norm, None if bias is None else bias.float(), config.layer_norm_eps)

    tokens_th, first_bh = torch.cat(list(hidden)), torch.stack([x_th[0] for x_th in hidden])
    pooled_bh = apply("pooler.dense", first_bh).tanh() if "pooler.dense.weight" in extra_tensors else first_bh
    if f"{PREDICTION}.dense.weight" in extra_tensors:
        pooled_bh = prepared(torch.stack([x_th.mean(0) for x_th in hidden]) if mean else first_bh)
    outputs: dict[str, Tensor] = {}
    for head in heads:
        if head.kind == "pooler":
            outputs[head.module] = pooled_bh
        elif f"{head.module}.out_proj.weight" in extra_tensors:
            outputs[head.module] = apply(f"{head.module}.out_proj", apply(f"{head.module}.dense", first_bh).tanh())
        elif head.kind in ("seq_relationship", "sequence", "multiple_choice"):
            outputs[head.module] = apply(head.module, pooled_bh)
        else:
            outputs[head.module] = apply(head.module, prepared(tokens_th))
    return outputs


def by_transformers(
    heads: Sequence[Head], sequences: Sequence[list[int]], architecture: Architecture, load: Any, file: Path
) -> dict[str, Tensor]:
    """Compute each head's outputs, under its module's name, by the class that transformers has for it.

    Args:
        heads: Which.
        sequences: Of token ids.
        architecture: The folder's.
        load: Class name, number of labels → the model and what its loading reported.
        file: The folder, for messages.

    Raises:
        ConversionError: The class has a head of another form.
    """
    longest = max(map(len, sequences))
    real_bl = torch.arange(longest) < torch.tensor([len(s) for s in sequences])[:, None]
    outputs: dict[str, Tensor] = {}
    for head in heads:
        family = architecture.masked_lm.removesuffix("ForMaskedLM")
        name = architecture.base if head.kind == "pooler" else f"{family}{CLASSES[head.kind]}"
        model, report = load(name, head.classes)
        if report["missing_keys"]:
            problem = (
                f"its {head.module} is no head of transformers' {name}, which wants {sorted(report['missing_keys'])[0]}"
            )
            raise ConversionError(problem, file=file, remedy="Convert to native, or remove that head.")
        padding = model.config.pad_token_id
        ids_bl = torch.tensor([s + [padding] * (longest - len(s)) for s in sequences])
        choice = (slice(None), None) if head.kind == "multiple_choice" else ()
        out = model(ids_bl[choice], attention_mask=real_bl.long()[choice])
        if head.kind == "pooler":
            outputs[head.module] = out.pooler_output
        elif head.kind == "qa_outputs":
            outputs[head.module] = torch.stack([out.start_logits, out.end_logits], -1)[real_bl]
        else:
            outputs[head.module] = out.logits[real_bl] if head.kind == "tokens" else out.logits
    return outputs
