"""What `biomlm finetune` says of a head, and under which names Hugging Face's `config.json` has it."""

from collections.abc import Mapping
from typing import Any

TASK = "finetuned_for"  # the task, so that it outlives a second conversion
HEAD_FACTS = (TASK, "problem_type", "reads_words")
_ONE = {"problem_type": "single_label_classification"}
# What older folders, which name their task alone, leave unsaid. It never grows: `biomlm finetune` states it since, whatever the task.
EARLIER: dict[str, dict[str, Any]] = {
    "ner": {"reads_words": True},
    "pico": {"reads_words": True},
    "classification": _ONE,
    "relation": _ONE,
    "multilabel": {"problem_type": "multi_label_classification"},
    "similarity": {"problem_type": "regression"},
}


def head_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what is said of a head, by a fine-tuned run of ours or by a `config.json`, under those of `HEAD_FACTS` that apply."""
    of_head = {name: facts[name] for name in HEAD_FACTS if name in facts}
    stated = facts.get("finetune")
    if isinstance(stated, dict) and "task" in stated:
        of_head |= {TASK: stated["task"], **{name: stated[name] for name in HEAD_FACTS if name in stated}}
    return {**EARLIER.get(str(of_head.get(TASK, "")), {}), **of_head}
