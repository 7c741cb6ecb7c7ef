"""No verb opens a connection: each is run where there is no network at all, and watched for internet sockets."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from biomlm.core.verbs import VERBS

SMALL = "--model.num_hidden_layers 1 --model.hidden_size 16 --model.num_attention_heads 2"
BATCH = "--batch.tokens 128 --batch.max_length 32 --seed 1 --precision fp32"
COMMANDS = f"""
corpus build --text raw --notes NOTEEVENTS.csv --min_words 1 --valid_fraction 0.2 --workers 2 --out docs
corpus stats docs
corpus show docs --sample 1
tokenizer train --docs docs --vocab_size 280 --workers 2 --out tokenizer
tokenizer encode --docs docs --tokenizer tokenizer --workers 2 --out shards
tokenizer compare tokenizer tokenizer --docs docs
pretrain --shards shards --steps 4 --save_every 2 --out run {SMALL} {BATCH}
pretrain average run --last 2 --out mean
pretrain evaluate run --shards shards --out evaluated
pretrain inspect run --out inspected.html
pretrain trial run --shards shards --out trial
distill --shards shards --teacher run --steps 2 --out student {SMALL} {BATCH}
distill plan --shards shards --teacher run --steps 2 {BATCH}
distill cache --shards shards --teacher run --steps 2 --out cache {BATCH}
distill report student --out reported
convert run hf --to hf
convert check run hf
convert fill hf --sentences A<mask>.
finetune --model hf --task ner --data toy --epochs 1 --precision fp32 --out tagger
finetune --model run --task ner --data toy --epochs 1 --precision fp32 --out another
finetune predict tagger in.txt --out predicted.jsonl
finetune compare tagger another --page compared.html
finetune blurb NCBI-disease=tagger
launch recipe.yaml --out launched
launch plan recipe.yaml
launch show recipe.yaml
adapt --model hf --text raw --fleet 1_x_v100-16gb --out adapted
report run launched --out report.html
doctor
"""
RECIPE = """stages:
  - {name: docs, verb: corpus build, args: {text: [raw], min_words: 1, out: "${out}/docs"}}
  - {name: tokenizer, verb: tokenizer train, args: {docs: "${out}/docs", vocab_size: 270, out: "${out}/tokenizer"}}
"""
INTERNET = re.compile(r"\bAF_INET6?\b")


def arrange(folder: Path) -> None:
    """Put down what the commands read."""
    rng, words = (
        random.Random(0),
        ["heart", "lung", "liver", "rest", "pain", "acid", "given", "the", "of", "with", "mild"],
    )
    texts = [" ".join(rng.choices(words, k=30)).capitalize() + "." for _ in range(120)]
    (folder / "raw").mkdir()
    (folder / "toy").mkdir()
    for i, text in enumerate(texts):
        (folder / "raw" / f"{i}.txt").write_text(text)
    rows = "".join(f"{i},{i},Nursing,,{text}\n" for i, text in enumerate(texts))
    (folder / "NOTEEVENTS.csv").write_text("row_id,subject_id,category,iserror,text\n" + rows)
    tagged = ["".join(f"{word}\t{'B-Drug' if word == 'acid' else 'O'}\n" for word in text.split()) for text in texts]
    for fold, part in (("train", tagged[:80]), ("devel", tagged[80:100]), ("test", tagged[100:])):
        (folder / "toy" / f"{fold}.tsv").write_text("\n".join(part))
    (folder / "in.txt").write_text("The acid was given.\n")
    (folder / "recipe.yaml").write_text(RECIPE)


def test_every_verb_is_watched() -> None:
    lines = [line.split() for line in COMMANDS.strip().splitlines()]
    assert {
        max((verb for verb in VERBS if line[: len(verb.split())] == verb.split()), key=len) for line in lines
    } == set(VERBS)


@pytest.mark.slow
def test_no_verb_opens_a_connection(tmp_path: Path) -> None:
    prison = [shutil.which("unshare") or "", "--net", "--map-root-user"]
    if not prison[0] or subprocess.run([*prison, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace without a network can be made here")
    strace = shutil.which("strace")
    watch = (
        [strace, "-f", "-qq", "-e", "trace=socket,connect,bind,listen,sendto", "-e", "signal=none"] if strace else []
    )
    arrange(tmp_path)
    environment = {**os.environ, "BIOMLM_SALT": "a salt of this test alone"}
    for number, line in enumerate(COMMANDS.strip().splitlines()):
        trace = tmp_path / f"{number}.trace"
        biomlm = [sys.executable, "-m", "biomlm.core", *(word.replace("_x_", " x ") for word in line.split())]
        words = [*prison, *([*watch, "-o", str(trace)] if strace else []), *biomlm]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
        if strace:
            assert not [call for call in trace.read_text().splitlines() if INTERNET.search(call)], line
