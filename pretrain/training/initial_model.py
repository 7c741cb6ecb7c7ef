"""The weights that a run starts from, and what they must fit."""

from dataclasses import fields
from pathlib import Path

from biomlm.convert.load import Loaded, load_model
from biomlm.core import checkpoint, manifest
from biomlm.core.errors import MismatchError
from biomlm.core.files import read_json
from biomlm.model.config import EncoderConfig, ModelConfig
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.vocabulary_match import renew
from biomlm.tokenizer.formats import folder as tokenizer_folder
from biomlm.training.trainer import seed_weights


def initial_model(config: PretrainConfig, reader: Shards) -> tuple[MaskedLM, dict[str, str]]:
    """Make a model with seeded random weights, or load that of `init` or `longer` and move it to the shards' vocabulary if asked.

    Returns:
        The model, and the input that it was made from, for the manifest.

    Raises:
        MismatchError: `init` has another vocabulary than the shards, or fewer positions than sequences need.
    """
    source = config.init or config.longer
    if source is None:
        encoder = config.model.resolve(reader.vocab_size, config.batch.max_length, reader.tokenizer.ids.pad)
        seed_weights(config.seed)
        model = MaskedLM(encoder)
        model.mask_padding_vocab(reader.vocab_size)
        return model, {}
    loaded = load_model(source)
    inputs = {"init": loaded.fingerprint} if config.init else {"longer": _fingerprint_of_run(loaded)}
    require_shape(config, loaded.config, source)
    require_positions(loaded.config.max_positions, source, config.batch.max_length)
    if config.init_vocabulary == "same":
        require_same_vocabulary(loaded.tokenizer_dir, loaded.config.vocab_size, source, reader)
        loaded.model.use_padding(reader.tokenizer.ids.pad)
        return loaded.model, inputs
    seed_weights(config.seed)
    return renew(loaded, config, reader), inputs


def _fingerprint_of_run(loaded: Loaded) -> str:
    """Hash the weights, the optimizer state and the place in the data that a run would go on from."""
    file = checkpoint.path_of(loaded.source, loaded.facts.get("step", 0)) / checkpoint.STATE
    state = read_json(file) if file.is_file() else {}  # else it is no run, which is refused when its state is loaded
    return manifest.digest([loaded.fingerprint, *(state.get(name) for name in ("step", "sha256", "guard"))])


def require_shape(config: PretrainConfig, encoder: EncoderConfig, source: str) -> None:
    """Refuse options of a model's shape that the model to start from does not have: it brings its own.

    Raises:
        MismatchError: One of them says something else.
    """
    asked, plain, sizes = (
        config.model,
        ModelConfig(),
        {"num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"},
    )
    given = {f.name for f in fields(ModelConfig) if getattr(asked, f.name) != getattr(plain, f.name)}
    wanted = asked.resolve(encoder.vocab_size, encoder.max_positions, encoder.pad_token_id)
    for name in sorted((given | (sizes if "size" in given else set())) - {"size", "pad_vocab_to"}):
        if getattr(wanted, name) != getattr(encoder, name):
            raise MismatchError(
                f"model.{name} is {getattr(wanted, name)}, and this model has {getattr(encoder, name)}",
                file=source,
                remedy=f"Leave out model.{name}: a model to start from brings its own shape.",
            )
    if config.init_vocabulary == "same" and encoder.vocab_size % asked.pad_vocab_to:
        raise MismatchError(
            f"model.pad_vocab_to is {asked.pad_vocab_to}, and this model has {encoder.vocab_size:,} rows",
            file=source,
            remedy="Leave it out: a model over the same vocabulary keeps its rows.",
        )


def require_positions(max_positions: int, model: str, max_length: int) -> None:
    """Refuse a model that is too short for the sequences.

    Raises:
        MismatchError: It has fewer positions than a sequence may have tokens.
    """
    if max_positions < max_length:
        raise MismatchError(
            f"the model has {max_positions} positions, sequences up to {max_length} tokens",
            file=model,
            remedy=f"Give --batch.max_length {max_positions}.",
        )


def require_same_vocabulary(tokenizer_dir: Path | None, vocab_size: int, model: str, reader: Shards) -> None:
    """Refuse a model whose token ids mean something else than the shards'.

    Raises:
        MismatchError: The tokenizers differ, or, where the model has none beside it, the sizes do.
    """
    remedy = (
        "Encode the documents with its tokenizer; a model to start from can also be moved over by --init_vocabulary."
    )
    if tokenizer_dir is not None:
        tokenizer = tokenizer_folder.load(tokenizer_dir)
        if tokenizer.fingerprint != reader.tokenizer.fingerprint:
            raise MismatchError(f"the model's tokenizer is not that of {reader.folder}", file=model, remedy=remedy)
    elif vocab_size != reader.vocab_size:
        raise MismatchError(f"{vocab_size} ids against the shards' {reader.vocab_size}", file=model, remedy=remedy)
