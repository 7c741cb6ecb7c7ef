"""Names of other trainers are answered with ours: each of ours exists, each of theirs is in the program that it is said to be from."""

from dataclasses import fields

import pytest

from biomlm.core import cli, config, option_names
from biomlm.core.verbs import VERBS


def test_every_name_of_ours_is_an_option_of_a_verb() -> None:
    ours = {key for verb in VERBS.values() for key in config.keys(verb.config)}
    assert set(option_names.OURS) <= ours
    assert set(option_names.UNITS) <= ours


def test_the_trainers_names_are_answered() -> None:
    """Take them from transformers itself: those that people set, of which each is in the table and in their class."""
    from transformers import BertConfig, TrainingArguments

    trainer_names = {f.name for f in fields(TrainingArguments)} | set(BertConfig().to_dict())
    table = {name for names in option_names.OURS.values() for name in names.split()}
    asked = [
        "learning_rate",
        "weight_decay",
        "adam_epsilon",
        "adam_beta1",
        "max_grad_norm",
        "lr_scheduler_type",
        "warmup_steps",
        "max_steps",
        "output_dir",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "save_steps",
        "eval_steps",
        "logging_steps",
        "fp16",
        "bf16",
        "save_total_limit",
        "gradient_checkpointing",
        "torch_compile",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
    ]
    assert set(asked) <= trainer_names & table


@pytest.mark.parametrize(
    ("verb", "typed", "answer"),
    [
        ("pretrain", "--learning_rate 1e-4", "It is --optim.lr here."),
        ("pretrain", "--per-device-train-batch-size=8", "It is --batch.tokens here, in tokens."),
        ("finetune", "--per_device_train_batch_size 8", "It is --batch.size here, in records."),
        ("pretrain", "--model_name_or_path m", "It is --init here."),
        ("finetune", "--model_name_or_path m", "It is --model here."),
        ("distill", "--warmup_updates 500", "It is --optim.warmup here, a share of the steps."),
        ("tokenizer train", "--do_lower_case", "It is --lowercase here."),
        ("pretrain", "--mask_rate .2", "Did you mean --mlm.mask_rate?"),
        ("pretrain", "--qqqqq 1", "`--help` lists the options."),
    ],
)
def test_a_foreign_name_gets_ours(verb: str, typed: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*verb.split(), *typed.split()]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1] == answer
