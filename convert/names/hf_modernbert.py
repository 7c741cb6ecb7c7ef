"""What ModernBERT's `config.json` says in another way than by a key for each number: which layers are local, and its rotary positions."""

from collections.abc import Mapping
from typing import Any

from biomlm.core.errors import ConfigError
from biomlm.model.config import EncoderConfig


def fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read the native fields from a `config.json`.

    Raises:
        ConfigError: The layers follow no regular pattern.
    """
    rope = raw.get("rope_parameters") or {}
    thetas = (
        float(rope.get("full_attention", {}).get("rope_theta", raw.get("global_rope_theta", 160_000.0))),
        float(rope.get("sliding_attention", {}).get("rope_theta", raw.get("local_rope_theta") or 10_000.0)),
    )
    return {
        "local_window": raw.get("local_attention", 128) // 2,
        "global_every": _every(raw),
        "rope_thetas": thetas,
    }


def _every(raw: Mapping[str, Any]) -> int:
    """Count how many layers there are to each global one, from `layer_types` (transformers 5) or the number itself (4)."""
    types = raw.get("layer_types")
    if types is None:
        return int(raw.get("global_attn_every_n_layers", 3))
    for every in range(1, len(types) + 1):
        if types == ["sliding_attention" if i % every else "full_attention" for i in range(len(types))]:
            return every
    raise ConfigError("layer_types has no regular pattern", remedy="Each n-th layer must be global.")


def keys(config: EncoderConfig) -> dict[str, Any]:
    """Make the keys of `config.json`, as transformers 4 and 5 read them."""
    wide, near = config.rope_thetas
    kinds = ["sliding_attention" if config.is_local(i) else "full_attention" for i in range(config.num_hidden_layers)]
    return {
        "embedding_dropout": config.hidden_dropout,
        "local_attention": 2 * config.local_window,
        "global_attn_every_n_layers": config.global_every,  # transformers 4 reads these three
        "global_rope_theta": wide,
        "local_rope_theta": near,
        "layer_types": kinds,  # transformers 5 reads these two
        "rope_parameters": {
            "full_attention": {"rope_theta": wide, "rope_type": "default"},
            "sliding_attention": {"rope_theta": near, "rope_type": "default"},
        },
    }
