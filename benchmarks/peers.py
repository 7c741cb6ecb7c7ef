"""What several benchmarks compare with."""

from typing import Any

from biomlm.model.config import EncoderConfig


def roberta(config: EncoderConfig) -> Any:
    """transformers' RobertaForMaskedLM of the same shape, with random weights."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions + config.pad_token_id + 1,
            type_vocab_size=1,
            pad_token_id=config.pad_token_id,
            hidden_dropout_prob=config.hidden_dropout,
            attention_probs_dropout_prob=config.attention_dropout,
        )
    )
