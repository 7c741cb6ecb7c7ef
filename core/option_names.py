"""Find the option that was meant: one of ours mistyped, or the name that another trainer has for it.

The names are those of Hugging Face's `TrainingArguments`, `run_mlm.py` and model configurations, of fairseq's command line, and of
BERT's and Megatron-LM's scripts. They are answered with ours, never taken in silence: several of them count in another unit.
"""

import difflib
from collections.abc import Collection

OURS = {
    "optim.lr": "learning_rate lr peak_lr",
    "optim.weight_decay": "weight_decay",
    "optim.eps": "adam_epsilon adam_eps",
    "optim.betas": "adam_beta1 adam_beta2 adam_betas",
    "optim.clip": "max_grad_norm clip_norm clip_grad",
    "optim.schedule": "lr_scheduler_type lr_scheduler lr_decay_style",
    "optim.name": "optimizer",
    "optim.warmup": "warmup_ratio warmup_steps warmup_updates num_warmup_steps lr_warmup_iters lr_warmup_fraction",
    "steps": "max_steps max_update num_train_steps train_iters total_num_update",
    "epochs": "num_train_epochs max_epoch max_epochs num_epochs",
    "batch.accumulation": "gradient_accumulation_steps update_freq",
    "batch.size": "per_device_train_batch_size train_batch_size batch_size max_sentences micro_batch_size",
    "batch.tokens": "per_device_train_batch_size train_batch_size batch_size max_sentences micro_batch_size max_tokens",
    "batch.max_length": "max_seq_length max_seq_len max_length tokens_per_sample block_size seq_length",
    "batch.short_seq_prob": "short_seq_prob short_seq_probability",
    "mlm.mask_rate": "mlm_probability mask_prob masked_lm_prob",
    "mlm.max_predictions": "max_predictions_per_seq",
    "mlm.static_masks": "dupe_factor",
    "model.hidden_dropout": "dropout hidden_dropout hidden_dropout_prob",
    "model.attention_dropout": "attention_dropout attention_probs_dropout_prob",
    "model.num_hidden_layers": "encoder_layers num_layers num_hidden_layers",
    "model.hidden_size": "encoder_embed_dim hidden_size",
    "model.num_attention_heads": "encoder_attention_heads num_attention_heads",
    "model.intermediate_size": "encoder_ffn_embed_dim ffn_hidden_size intermediate_size",
    "compute.recompute": "gradient_checkpointing checkpoint_activations recompute_activations",
    "compute.compile": "torch_compile compile",
    "precision": "fp16 bf16 fp16_opt_level amp memory_efficient_fp16",
    "out": "output_dir save_dir output_file output_path",
    "save_every": "save_steps save_interval_updates save_interval save_checkpoints_steps",
    "eval_every": "eval_steps validate_interval_updates eval_interval",
    "log_every": "logging_steps log_interval",
    "keep": "save_total_limit keep_interval_updates",
    "init": "model_name_or_path init_checkpoint finetune_from_model restore_file pretrained_checkpoint",
    "model": "model_name_or_path init_checkpoint restore_file",
    "shards": "train_file dataset_name data_path input_file",
    "data": "train_file dataset_name data_dir input_file",
    "workers": "num_proc preprocessing_num_workers num_workers dataloader_num_workers",
    "lowercase": "do_lower_case lower_case",
    "patience": "early_stopping_patience",
    "deepspeed.config": "deepspeed_config",
    "deepspeed.stage": "zero_stage",
    "loss.temperature": "temperature",
}

UNITS = {
    "optim.warmup": "a share of the steps",
    "batch.tokens": "in tokens",
    "batch.size": "in records",
    "precision": "fp32, bf16, fp16 or auto",
}


def remedy(name: str, known: Collection[str], dashes: str) -> str:
    """Say which of our options was probably meant.

    Args:
        name: What was typed, without dashes in front.
        known: The dotted options that there are.
        dashes: What stands in front of an option: `--`, or nothing in a file.
    """
    typed = name.replace("-", "_")
    for ours, names in OURS.items():
        if ours in known and typed in names.split():
            unit = f", {UNITS[ours]}" if ours in UNITS else ""
            return f"It is {dashes}{ours} here{unit}."
    close = [k for k in known if k.rsplit(".", 1)[-1] == typed.rsplit(".", 1)[-1]]
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {dashes}{close[0]}?" if close else "`--help` lists the options."
