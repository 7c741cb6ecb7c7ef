"""`biomlm pretrain evaluate`: any model and held-out shards → loss and accuracy, all in all and by source."""

from dataclasses import asdict
from pathlib import Path

from biomlm.convert.load import Loaded, load_model
from biomlm.core import manifest
from biomlm.core.errors import DataError
from biomlm.core.files import read_json, refuse_target, stage, write_json
from biomlm.core.summary import summary
from biomlm.model.compute import prepare
from biomlm.model.config import ComputeConfig
from biomlm.model.device import choose
from biomlm.model.encoder import parameter_count
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards, held_out
from biomlm.pretrain.planning.config import EvaluateConfig
from biomlm.pretrain.training.evaluate import Evaluator
from biomlm.pretrain.training.initial_model import require_positions, require_same_vocabulary
from biomlm.pretrain.training.run_folder import RESULT, held_out_rows

STAGE = "pretrain evaluate"


def evaluate(config: EvaluateConfig) -> None:
    """Write the figures of one model on the held-out split.

    Raises:
        DataError: The model has no masked-LM head, or the shards hold nothing out.
        MismatchError: The model has another vocabulary than the shards.
    """
    out = Path(config.out)
    refuse_target(out, [config.model, config.shards], option="--out", ours=stage)
    shards = held_out([config.shards])
    if shards is None:
        raise DataError(
            "these shards hold nothing out",
            file=config.shards,
            remedy="Build the documents with a --valid_fraction above 0.",
        )
    loaded = load_model(config.model)
    if not loaded.has_head:
        raise DataError(
            "this model has no masked-LM head, so it predicts no tokens",
            file=config.model,
            remedy="Give a model with its head, or train one with `biomlm pretrain --init`.",
        )
    require_same_vocabulary(loaded.tokenizer_dir, loaded.config.vocab_size, config.model, shards)
    inputs = {"shards": shards.fingerprint, "model": loaded.fingerprint}
    record = manifest.begin(out, STAGE, config, inputs)
    if record.status != "done":
        write_json(out / RESULT, _result(config, loaded, shards))
        record.finish(out, [out / RESULT], {})
    result = read_json(out / RESULT)
    summary(f"biomlm {STAGE} → {out}", {"parameters": result["parameters"], **held_out_rows(result)})


def _result(config: EvaluateConfig, loaded: Loaded, shards: Shards) -> dict[str, object]:
    length = config.max_length or loaded.config.max_positions
    require_positions(loaded.config.max_positions, config.model, length)
    sizes = BatchConfig(tokens=max(config.tokens, length), max_length=length)
    device = choose(config.precision)
    prepare(loaded.model.encoder, device, ComputeConfig())
    loaded.model.use_padding(shards.tokenizer.ids.pad)
    evaluator = Evaluator(shards, sizes, config.eval_mask_rate, config.eval_tokens)
    valid = evaluator(loaded.model.to(device.torch), device)
    return {
        "parameters": parameter_count(loaded.model),
        "device": str(device.torch),
        "precision": device.precision,
        "valid": asdict(valid),
        "unigram_entropy": shards.unigram_entropy,
    }
