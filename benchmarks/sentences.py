"""Sentence splitters on clinical text: precision, recall and F1 of boundaries against marked sentences, and speed.

    python benchmarks/sentences.py [--peer PYTHON]

`--peer` is the interpreter of an environment with any of pysbd, syntok, blingfire and PyRuSH; those that it lacks are left out. The marked
sentences are tests/data/corpus/clinical_sentences.txt; the first lines are invented to be hard, so the figures compare splitters with each
other and say nothing about easy text.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

GOLD = Path(__file__).parent.parent / "tests" / "data" / "corpus" / "clinical_sentences.txt"
REPEATS = 20  # passes over the text for its speed

PEER = r"""
import json, sys, time, warnings
warnings.simplefilter("ignore")
texts, repeats = json.load(sys.stdin)

def located(text, sentences):
    found, at = [], 0
    for sentence in sentences:
        start = text.find(sentence.strip(), at)
        if start >= 0 and sentence.strip():
            found.append(start)
            at = start + len(sentence.strip())
    return found

def pysbd():
    import pysbd
    splitter = pysbd.Segmenter(language="en", clean=False)
    return lambda text: located(text, splitter.segment(text))

def syntok():
    from syntok import segmenter
    return lambda text: [s[0].offset for p in segmenter.analyze(text) for s in p]

def blingfire():
    import blingfire
    return lambda text: located(text, blingfire.text_to_sentences(text).split("\n"))

def PyRuSH():
    from PyRuSH import RuSH
    from importlib.resources import files
    rules = next(p for p in [files("PyRuSH").joinpath(n) for n in ("conf/rush_rules.tsv", "rush_rules.tsv")] if p.is_file())
    splitter = RuSH(str(rules))
    return lambda text: [s.begin for s in splitter.segToSentenceSpans(text)]

answers = {}
for make in (pysbd, syntok, blingfire, PyRuSH):
    try:
        split = make()
        starts = [split(text) for text in texts]
    except Exception as error:
        print(make.__name__, "left out:", type(error).__name__, error, file=sys.stderr)
        continue
    began = time.process_time()
    for _ in range(repeats):
        for text in texts:
            split(text)
    answers[make.__name__] = [starts, time.process_time() - began]
print(json.dumps(answers))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="a Python that has other splitters")
    arguments = parser.parse_args()
    texts, gold = marked()
    answers = {"biolm": ours(texts)}
    if arguments.peer:
        question = json.dumps([texts, REPEATS])
        result = subprocess.run(
            [arguments.peer, "-c", PEER], input=question, text=True, stdout=subprocess.PIPE, check=True
        )
        answers |= json.loads(result.stdout.splitlines()[-1])
    megabytes = sum(map(len, texts)) * REPEATS / 1e6
    print(f"{sum(map(len, gold))} sentences in {len(texts)} texts")
    for name, (starts, seconds) in answers.items():
        right = sum(len(set(a) & set(b)) for a, b in zip(starts, gold, strict=True))
        precision, recall = right / sum(map(len, starts)), right / sum(map(len, gold))
        f1 = 2 * precision * recall / (precision + recall)
        print(
            f"  {name:10} precision {precision:.3f}  recall {recall:.3f}  F1 {f1:.3f}  {megabytes / seconds:7.2f} MB/s"
        )


def marked() -> tuple[list[str], list[list[int]]]:
    """Texts and where their sentences start."""
    texts, gold = [], []
    for line in GOLD.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        sentences = line.split(" | ")
        texts.append(" ".join(sentences))
        starts = [0]
        for sentence in sentences[:-1]:
            starts.append(starts[-1] + len(sentence) + 1)
        gold.append(starts)
    return texts, gold


def ours(texts: list[str]) -> tuple[list[list[int]], float]:
    from biolm.corpus.sentences import spans

    began = time.process_time()
    for _ in range(REPEATS):
        for text in texts:
            spans(text)
    seconds = time.process_time() - began
    return [[start for start, _ in spans(text)] for text in texts], seconds


if __name__ == "__main__":
    main()
