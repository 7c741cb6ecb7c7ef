"""`biomlm convert check A B`: compare two models of any kind on the same inputs, layer by layer."""

from biomlm.convert.checks.heads import present
from biomlm.convert.checks.numerical import Differences, Ours, compare, record
from biomlm.convert.config import CompareConfig
from biomlm.convert.load import Loaded, load_model
from biomlm.core.errors import ConversionError, MismatchError
from biomlm.core.summary import summary
from biomlm.tokenizer.formats import folder as tokenizer_folder


def run(config: CompareConfig) -> None:
    """Print the largest difference of each layer.

    Raises:
        MismatchError: The models have different shapes.
        ConversionError: A difference is above the tolerance.
    """
    a, b = load_model(config.a), load_model(config.b)
    result = differences(a, b)
    rows = {("embeddings" if not i else f"layer {i}"): f"{value:.2e}" for i, value in enumerate(result.hidden)}
    heads = {name: f"{value:.2e}" for name, value in result.heads.items()}
    summary(
        f"biomlm convert check: {a.kind} and {b.kind}",
        {**rows, "logits": result.summary_text, **heads, "texts": result.texts},
    )
    where = result.first_above(config.tolerance)
    if where:
        raise ConversionError(
            f"the two differ by more than {config.tolerance:g}, first in {where}",
            file=b.source,
            remedy="They are different models, or one was converted wrongly.",
        )


def differences(a: Loaded, b: Loaded) -> Differences:
    """Compare two loaded models.

    Raises:
        MismatchError: They have different shapes.
    """
    for name in ("num_hidden_layers", "hidden_size"):
        value_a, value_b = getattr(a.config, name), getattr(b.config, name)
        if value_a != value_b:
            raise MismatchError(
                f"{name} is {value_b}, and {value_a} in {a.source}",
                file=b.source,
                remedy="Compare models of one shape.",
            )
    small, large = sorted((a, b), key=lambda model: model.config.vocab_size)
    place = next((model.tokenizer_dir for model in (small, large) if model.tokenizer_dir), None)
    tokenizer = tokenizer_folder.load(place) if place else None
    others = present(large.extra_tensors, large.facts)
    shared = [head for head in present(small.extra_tensors, small.facts) if head in others]
    sides = [
        Ours(m.model, m.has_head, m.extra_tensors, m.facts.get("classifier_pooling") == "mean") for m in (small, large)
    ]
    return compare(record(sides[0], small.config, tokenizer, shared), sides[1])
