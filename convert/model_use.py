"""The example of a model card: what its user runs first, by the class that `config.json` names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLACE = "path/to/this/folder"
PIPELINE = """from transformers import pipeline

{name} = pipeline("{tag}", model="{place}"{options})
{name}({text})"""
MODEL = """import torch
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{place}")
model = {auto}.from_pretrained("{place}").eval()
inputs = tokenizer({text}, return_tensors="pt", padding=True)
with torch.inference_mode():
    output = model({inputs})
{result}"""
WITHOUT_TOKENIZER = """from transformers import {auto}

model = {auto}.from_pretrained("{place}")  # its tokenizer is not here"""
SENTENCE = '"The patient was given aspirin."'


@dataclass(frozen=True)
class Use:
    """How a model is used.

    Args:
        tag: Hugging Face's name of the task; empty where it has none.
        title: Of the card.
        auto: transformers' class that loads it.
        example: Python, which runs as it stands once the place of the folder is filled in.
    """

    tag: str
    title: str
    auto: str
    example: str


def of(config: Mapping[str, Any], mask: str | None, texts: int = 1) -> Use:
    """Choose the use of a model.

    Args:
        config: Its `config.json`.
        mask: Its tokenizer's mask token; None if it has no tokenizer.
        texts: How many texts a classifier reads at once.
    """
    name = str(config["architectures"][0])
    ends = {end: auto for end, auto in AUTO.items() if name.endswith(end)}
    auto = next(iter(ends.values()), "AutoModel")
    tag, title = TAGS.get(auto, ("feature-extraction", "Encoder"))
    if mask is None:
        return Use(tag, title, auto, WITHOUT_TOKENIZER.format(auto=auto, place=PLACE))
    return Use(tag, title, auto, _example(auto, tag, mask, config, texts))


AUTO = {
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForMaskedLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForMultipleChoice": "AutoModelForMultipleChoice",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForNextSentencePrediction": "AutoModelForNextSentencePrediction",
}
TAGS = {
    "AutoModelForMaskedLM": ("fill-mask", "Masked language model"),
    "AutoModelForSequenceClassification": ("text-classification", "Text classifier"),
    "AutoModelForTokenClassification": ("token-classification", "Token classifier"),
    "AutoModelForMultipleChoice": ("multiple-choice", "Multiple-choice model"),
    "AutoModelForQuestionAnswering": ("question-answering", "Question-answering model"),
    "AutoModelForNextSentencePrediction": ("", "Next-sentence classifier"),
}


def _example(auto: str, tag: str, mask: str, config: Mapping[str, Any], texts: int) -> str:
    if auto == "AutoModelForMaskedLM":
        return PIPELINE.format(name="fill", tag=tag, place=PLACE, options="", text=f'"The patient was given {mask}."')
    if auto == "AutoModelForTokenClassification":
        options = ', aggregation_strategy="first"'
        return PIPELINE.format(name="find", tag=tag, place=PLACE, options=options, text=SENTENCE)
    if auto == "AutoModelForSequenceClassification":
        many = config.get("problem_type") == "multi_label_classification"
        text = SENTENCE if texts == 1 else f'{{"text": {SENTENCE}, "text_pair": "It helped."}}'
        options = ", top_k=None" if many else ""
        return PIPELINE.format(name="classify", tag=tag, place=PLACE, options=options, text=text)
    pair, inputs, result = f'{SENTENCE}, "It helped."', "**inputs", "output.logits"
    if auto == "AutoModelForMultipleChoice":
        pair, inputs = (
            f'[{SENTENCE}] * 2, ["It helped.", "It did harm."]',
            "**{name: ids[None] for name, ids in inputs.items()}",
        )
        result = "output.logits.argmax(-1)  # the number of the likeliest choice"
    elif auto == "AutoModelForQuestionAnswering":
        pair, result = f'"What was given?", {SENTENCE}', "output.start_logits, output.end_logits"
    elif auto == "AutoModel":
        pair, result = SENTENCE, "output.last_hidden_state"
    return MODEL.format(auto=auto, place=PLACE, text=pair, inputs=inputs, result=result)
