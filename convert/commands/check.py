"""`biomlm convert check A B`: compare two models of any kind on the same inputs, layer by layer, head by head."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from biomlm.convert.checks.heads import CLASSIFIERS, Head, present
from biomlm.convert.checks.models import Computes
from biomlm.convert.checks.numerical import Differences, compare, record
from biomlm.convert.checks.tokenizers import Agreement, alike
from biomlm.convert.commands.convert import computed
from biomlm.convert.config import CompareConfig
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.convert.load import read_source
from biomlm.core.errors import ConversionError, MismatchError
from biomlm.core.summary import summary
from biomlm.tokenizer.formats import folder as tokenizer_folder


def run(config: CompareConfig) -> None:
    """Print the largest difference of each layer.

    Raises:
        MismatchError: The models have different shapes, or one has a head or labels that the other has not.
        ConversionError: A difference is above the tolerance, or the tokenizers differ.
    """
    a, b = (_with_tokenizer(read_source(path)) for path in (config.a, config.b))
    result = differences(a, b)
    tokenizers = alike(a, b)
    rows = {("embeddings" if not i else f"layer {i}"): f"{value:.2e}" for i, value in enumerate(result.hidden)}
    heads = {name: f"{value:.2e}" for name, value in result.heads.items()}
    agreement = {"sentences on which tokenizers agree": tokenizers.summary_text} if tokenizers else {}
    summary(
        f"biomlm convert check: {a.kind} and {b.kind}",
        {**rows, "logits": result.summary_text, **heads, "texts": result.texts, **agreement},
    )
    where = result.first_above(config.tolerance)
    problem = (
        f"the two differ by more than {config.tolerance:g}, first in {where}" if where else _apart(a, b, tokenizers)
    )
    if problem:
        remedy = "They are different models, or one was converted wrongly."
        raise ConversionError(problem, file=config.b, remedy=remedy)


def differences(a: SourceCheckpoint, b: SourceCheckpoint) -> Differences:
    """Compare two models, each computed by the library of its format.

    Raises:
        MismatchError: They have different shapes.
    """
    for name in ("num_hidden_layers", "hidden_size"):
        value_a, value_b = getattr(a.config, name), getattr(b.config, name)
        if value_a != value_b:
            raise MismatchError(
                f"{name} is {value_b}, and {value_a} in {a.weights}",
                file=b.weights,
                remedy="Compare models of one shape.",
            )
    small, large = sorted((a, b), key=lambda model: model.config.vocab_size)
    large = _with_names_of(small, large)
    others = heads_of(large)
    shared = [head for head in heads_of(small) if head in others]
    tokenizer = small.tokenizer or large.tokenizer
    recording = record(_computed(small), small.config, tokenizer, shared)
    return compare(recording, _computed(large))


def heads_of(model: SourceCheckpoint) -> list[Head]:
    """List the heads that can be computed."""
    return present(model.extra_tensors, model.facts)


def _with_tokenizer(model: SourceCheckpoint) -> SourceCheckpoint:
    if model.tokenizer or not model.tokenizer_dir:
        return model
    return replace(model, tokenizer=tokenizer_folder.load(model.tokenizer_dir))


def _computed(model: SourceCheckpoint) -> Computes:
    return computed(model, getattr(torch, model.facts["dtype"]))


def _with_names_of(other: SourceCheckpoint, model: SourceCheckpoint) -> SourceCheckpoint:
    """Give a model's only classifier the name that it has in the other: each format has a name of its own for it."""
    own_heads, other_heads = (_classifiers(heads_of(m)) for m in (model, other))
    if len(own_heads) != 1 or len(other_heads) != 1 or own_heads == other_heads:
        return model
    renamed = {
        name.replace(own_heads[0].module, other_heads[0].module, 1)
        if name.startswith(f"{own_heads[0].module}.")
        else name: tensor
        for name, tensor in model.extra_tensors.items()
    }
    return replace(model, extra_tensors=renamed)


def _classifiers(heads: Sequence[Head]) -> list[Head]:
    return [head for head in heads if head.module.startswith(CLASSIFIERS)]


def _apart(a: SourceCheckpoint, b: SourceCheckpoint, tokenizers: Agreement | None) -> str:
    """Say what one of the two has and the other has not, or has otherwise; empty if there is nothing."""
    if a.has_head != b.has_head:
        return f"only the {'first' if a.has_head else 'second'} has a masked-LM head"
    b = _with_names_of(a, b)
    unlike = {head.module for head in {*heads_of(a)} ^ {*heads_of(b)}}
    if _classifiers(heads_of(a)) == _classifiers(heads_of(b)) != []:
        unlike -= {"pooler.dense"}  # a part of what was compared, and in RoBERTa's own head under another name
    if unlike:
        return f"the head {min(unlike)} is not in both, or has other outputs there"
    labels = [
        model.facts["id2label"] for model in (a, b) if "id2label" in model.facts and _classifiers(heads_of(model))
    ]
    if len(labels) == 2 and labels[0] != labels[1]:
        return "the names of the classifier's labels are not the same"
    return "the tokenizers differ" if tokenizers and tokenizers.equal < tokenizers.sentences else ""
