"""Sentence splitters on clinical text: precision, recall and F1 of boundaries against marked sentences, and speed.

    python benchmarks/sentences.py [--peer PYTHON]

`--peer` is the interpreter of an environment with any of pysbd, syntok, blingfire and PyRuSH; those that it lacks are left out. Three
sets, all in tests/data/corpus: `hard` (clinical_sentences.txt, mostly invented) is what our abbreviations were made with, so it says
nothing about other text. MTS-Dialog's notes, in which typists put two blanks between sentences, come in two halves: a splitter is chosen by
the first; the second, which no rule was made or changed for, is what is reported.
"""

import argparse
import gzip
import json
import subprocess
import time
from pathlib import Path

GOLD = Path(__file__).parent.parent / "tests" / "data" / "corpus"
REPEATS = 5  # passes over the text for its speed

Marked = tuple[list[str], list[list[int]]]  # texts and where their sentences start

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
    for name, (texts, gold) in sets().items():
        answers = {"biomlm": ours(texts)} | (theirs(arguments.peer, texts) if arguments.peer else {})
        print(f"{name}: {sum(map(len, gold))} sentences in {len(texts)} texts")
        for splitter, (starts, seconds) in answers.items():
            megabytes = sum(map(len, texts)) * REPEATS / 1e6
            print(f"  {splitter:10} {scores(starts, gold)}  {megabytes / seconds:7.2f} MB/s")


def sets() -> dict[str, Marked]:
    """The sets of marked text by name."""
    hard = (GOLD / "clinical_sentences.txt").read_text(encoding="utf-8").splitlines()
    notes = gzip.decompress((GOLD / "mts_dialog_sentences.txt.gz").read_bytes()).decode().splitlines()
    notes = [line for line in notes if not line.startswith("#")]
    return {
        "hard, what the rules were made with": marked(hard),
        "MTS-Dialog, the half to choose by": marked(notes[::2]),
        "MTS-Dialog, the half to report": marked(notes[1::2]),
    }


def marked(lines: list[str]) -> Marked:
    """Texts whose sentences are separated by ` | `."""
    texts, gold = [], []
    for line in lines:
        if line.startswith("#"):
            continue
        sentences = line.split(" | ")
        texts.append(" ".join(sentences))
        starts = [0]
        for sentence in sentences[:-1]:
            starts.append(starts[-1] + len(sentence) + 1)
        gold.append(starts)
    return texts, gold


def scores(starts: list[list[int]], gold: list[list[int]]) -> str:
    """Precision, recall and F1 of where sentences start; the start of a text, which is nothing to find, does not count."""
    right = sum(len(set(a) & set(b) - {0}) for a, b in zip(starts, gold, strict=True))
    found, wanted = (sum(len(set(of_text) - {0}) for of_text in all_texts) for all_texts in (starts, gold))
    precision, recall = right / found, right / wanted
    return f"precision {precision:.3f}  recall {recall:.3f}  F1 {2 * precision * recall / (precision + recall):.3f}"


def theirs(peer: str, texts: list[str]) -> dict[str, tuple[list[list[int]], float]]:
    """Sentence starts and seconds of the splitters that another environment has."""
    question = json.dumps([texts, REPEATS])
    result = subprocess.run([peer, "-c", PEER], input=question, text=True, stdout=subprocess.PIPE, check=True)
    answers: dict[str, tuple[list[list[int]], float]] = json.loads(result.stdout.splitlines()[-1])
    return answers


def ours(texts: list[str]) -> tuple[list[list[int]], float]:
    from biomlm.inputs.sentences import spans

    began = time.process_time()
    for _ in range(REPEATS):
        for text in texts:
            spans(text)
    seconds = time.process_time() - began
    return [[start for start, _ in spans(text)] for text in texts], seconds


if __name__ == "__main__":
    main()
