"""Published layouts, each from made files in its exact shape: what is read, and how damage is named."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core.errors import DataError, UnsafeFileError
from biomlm.finetune.config import FinetuneConfig
from biomlm.finetune.data import dataset
from biomlm.finetune.data.dataset import DataSet
from biomlm.finetune.data.entity_markers import mark_entities, sentences
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.readers import medmentions
from biomlm.finetune.data.readers.blurb import HALLMARKS
from biomlm.finetune.data.records import Labelled
from biomlm.finetune.data.splits import hold_out

SHARED = Path(__file__).parents[4] / "shared/data"
FOLDS = ("train", "dev", "test")


def read(folder: Path, task: str, **more: Any) -> DataSet:
    if task == "relation":
        more.setdefault("negative", "false")
    return dataset.read(FinetuneConfig(model="m", task=task, data=str(folder), out="o", **more))  # type: ignore[arg-type]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def chemprot(folder: Path) -> None:
    for fold, name, gold in (("train", "training", ""), ("dev", "development", ""), ("test", "test", "_gs")):
        where = folder / f"chemprot_{name}{gold}"
        text = f"Aspirin and COX\tIn {fold}, aspirin inhibits COX-1 (vs. placebo). The gene TP53 is left alone."
        rows = [("T1", "CHEMICAL", 0, 7), ("T2", "GENE-Y", 12, 15)]
        start = text.index("aspirin")
        rows += [("T3", "CHEMICAL", start, start + 7)]
        for number, kind, word in (("T4", "GENE-N", "COX-1"), ("T5", "GENE-Y", "TP53")):
            rows.append((number, kind, text.index(word), text.index(word) + len(word)))
        write(where / f"chemprot_{name}_abstracts{gold}.tsv", f"{fold}1\t{text}\n")
        write(
            where / f"chemprot_{name}_entities{gold}.tsv",
            "".join(f"{fold}1\t{n}\t{kind}\t{a}\t{b}\t{text[a:b]}\n" for n, kind, a, b in rows),
        )
        relations = [("CPR:4", "T3", "T4"), ("CPR:1", "T1", "T2"), ("CPR:4", "T3", "T5")]
        write(
            where / f"chemprot_{name}_relations{gold}.tsv",
            "".join(f"{fold}1\t{group}\tY \tINHIBITOR\tArg1:{a}\tArg2:{b}\n" for group, a, b in relations),
        )


def test_chemprot(tmp_path: Path) -> None:
    chemprot(tmp_path)
    data = read(tmp_path, "relation")
    first, second = data.folds["test"]
    assert (first.texts, first.labels) == (("@CHEMICAL$ and @GENE$",), ("false",))  # CPR:1 was not evaluated
    assert second.texts == ("In test, @CHEMICAL$ inhibits @GENE$ (vs. placebo).",)
    assert (second.labels, second.id, second.document) == (("CPR:4",), "test1.T3.T4", "test1")
    assert data.notes == {fold: {"relations across sentences left out": 1} for fold in ("train", "dev", "test")}
    entities = tmp_path / "chemprot_training/chemprot_training_entities.tsv"
    entities.write_text(entities.read_text().replace("\t12\t", "\t13\t"))
    with pytest.raises(DataError, match=r"entities\.tsv \(line 2\): the offsets do not point"):
        read(tmp_path, "relation")


DDI = """<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<document id="DDI-DrugBank.d{n}"><sentence id="DDI-DrugBank.d{n}.s0" text="Aspirin {n} and beta or alpha blockers raise INR.">
<entity id="DDI-DrugBank.d{n}.s0.e0" charOffset="0-6" type="drug" text="Aspirin"/>
<entity id="DDI-DrugBank.d{n}.s0.e1" charOffset="{a}-{b};{c}-{d}" type="group" text="beta blockers"/>
<entity id="DDI-DrugBank.d{n}.s0.e2" charOffset="{e}-{d}" type="group" text="alpha blockers"/>
<pair id="DDI-DrugBank.d{n}.s0.p0" e1="DDI-DrugBank.d{n}.s0.e0" e2="DDI-DrugBank.d{n}.s0.e1" ddi="true" type="effect"/>
<pair id="DDI-DrugBank.d{n}.s0.p1" e1="DDI-DrugBank.d{n}.s0.e0" e2="DDI-DrugBank.d{n}.s0.e2" ddi="false"/>
<pair id="DDI-DrugBank.d{n}.s0.p2" e1="DDI-DrugBank.d{n}.s0.e1" e2="DDI-DrugBank.d{n}.s0.e2" ddi="false"/>
</sentence><sentence id="DDI-DrugBank.d{n}.s1" text="No drug."/></document>
"""


def ddi(folder: Path) -> None:
    for n in range(24):
        at = len(f"Aspirin {n} and ")
        ends = {"a": at, "b": at + 3, "e": at + 8, "c": at + 14, "d": at + 21}
        write(folder / ("Train" if n < 20 else "Test") / f"DrugBank/{n}.xml", DDI.format(n=n, **ends))


def test_ddi_without_a_development_fold(tmp_path: Path) -> None:
    ddi(tmp_path)
    data = read(tmp_path, "relation", negative="DDI-false")
    assert {fold: len(records) for fold, records in data.folds.items()} == {"train": 54, "dev": 6, "test": 12}
    assert not {r.document for r in data.folds["train"]} & {r.document for r in data.folds["dev"]}
    one, _, both = data.folds["test"][:3]
    assert (one.texts, one.labels) == (("@DRUG$ 20 and @DRUG$ raise INR.",), ("DDI-effect",))
    assert (both.texts, both.labels) == (("Aspirin 20 and @DRUG-DRUG$ raise INR.",), ("DDI-false",))
    path = tmp_path / "Test/DrugBank/20.xml"
    good = path.read_text()
    for bad, error, message in (
        (good.replace("0-6", "0-600"), DataError, "20.s0.e0): the offsets lie outside"),
        (good.replace(' type="effect"', ""), DataError, "an interaction of no kind"),
        (good[:300], DataError, "not well-formed"),
        (good.replace("<document", "<!DOCTYPE d [<!ENTITY a 'b'>]><document", 1), UnsafeFileError, "declares entities"),
    ):
        path.write_text(bad)
        with pytest.raises(error) as caught:
            read(tmp_path, "relation", negative="DDI-false")
        assert message in str(caught.value)


def i2b2(folder: Path) -> None:
    for fold, texts, gold in (
        ("concept_assertion_relation_training_data/beth", "txt", ("concept", "rel")),
        ("reference_standard_for_test_data", "../test_data", ("concepts", "rel")),
    ):
        for n in range(10 if "training" in fold else 2):
            name = f"record-{'t' if 'training' in fold else 'g'}{n}"
            write(
                folder / fold / texts / f"{name}.txt",
                f"Note {name} :\nAspirin  relieved her chest pain .\nAn EKG was normal .\n",
            )
            concepts = 'c="aspirin" 2:0 2:0||t="treatment"\nc="her chest pain" 2:2 2:4||t="problem"\nc="an ekg" 3:0 3:1||t="test"\n'
            write(folder / fold / gold[0] / f"{name}.con", concepts)
            write(
                folder / fold / gold[1] / f"{name}.rel",
                'c="aspirin" 2:0 2:0||r="TrIP"||c="her chest pain" 2:2 2:4\nc="an ekg" 3:0 3:1||r="TeRP"||c="her chest pain" 2:2 2:4\n',
            )


def test_i2b2_2010(tmp_path: Path) -> None:
    i2b2(tmp_path)
    data = read(tmp_path, "ner")
    assert {fold: len(records) for fold, records in data.folds.items()} == {"train": 9, "dev": 1, "test": 2}
    record = data.folds["test"][0]
    said = [(record.text[s.start : s.stop], s.type) for s in record.characters(record.spans)]
    assert said == [("Aspirin", "treatment"), ("her chest pain", "problem"), ("An EKG", "test")]
    pairs = read(tmp_path, "relation")
    assert [(r.texts, r.labels) for r in pairs.folds["test"][:1]] == [
        (("@treatment$  relieved @problem$ .",), ("TrIP",))
    ]
    assert len(pairs.folds["test"]) == 2
    assert {fold: sum(notes.values()) for fold, notes in pairs.notes.items()} == {"train": 10, "test": 2}
    path = tmp_path / "reference_standard_for_test_data/concepts/record-g0.con"
    for bad, message in (
        ('c="aspirin" 2:1 2:1||t="treatment"\n', "the words there are not those of the concept"),
        ('c="aspirin" 9:0 9:0||t="treatment"\n', "the note has no such line or word"),
        ("aspirin\n", "a concept is c="),
    ):
        path.write_text(bad)
        with pytest.raises(DataError) as caught:
            read(tmp_path, "ner")
        assert f"line 1): {message}" in str(caught.value)
    (tmp_path / "test_data/record-g0.txt").unlink()
    with pytest.raises(DataError, match=r"there is no record-g0\.txt"):
        read(tmp_path, "ner")


MARKUP = """<?xml version="1.0" encoding="UTF-8" ?>
<ClinicalNarrativeTemporalAnnotation>
<TEXT><![CDATA[
Admission Date : 2014-01-0{n}
The pain & fever eased .
]]></TEXT>
<TAGS>
<EVENT id="E0" start="1" end="10" text="Admission" modality="FACTUAL" polarity="POS" type="OCCURRENCE" />
<EVENT id="E1" start="29" end="45" text="The pain &amp; fever" modality="FACTUAL" polarity="POS" type="PROBLEM" />
<TIMEX3 id="T0" start="18" end="28" text="2014-01-0{n}" type="DATE" val="2014-01-0{n}" mod="NA" />
<TLINK id="TL0" fromID="E0" fromText="Admission" toID="T0" toText="2014" type="OVERLAP" />
<SECTIME id="S0" start="18" end="28" text="2014-01-0{n}" type="ADMISSION" dvalue="2014" />
</TAGS>
</ClinicalNarrativeTemporalAnnotation>
"""


def test_i2b2_2012(tmp_path: Path) -> None:
    for n in range(9):
        write(tmp_path / ("train" if n < 6 else "dev" if n < 7 else "ground_truth") / f"{n}.xml", MARKUP.format(n=n))
    record = read(tmp_path, "ner").folds["test"][0]
    said = [(record.text[s.start : s.stop], s.type) for s in record.characters(record.spans)]
    assert said == [("Admission", "OCCURRENCE"), ("2014-01-07", "DATE"), ("The pain & fever", "PROBLEM")]
    (tmp_path / "train/0.xml").write_text(MARKUP.format(n=0).replace('start="1"', 'start="2"'))
    with pytest.raises(DataError, match=r"0\.xml \(E0\): the offsets do not point"):
        read(tmp_path, "ner")


def blurb(folder: Path, tables: dict[str, str]) -> Path:
    for fold in FOLDS:
        write(folder / f"{fold}.tsv", tables["all"].replace("FOLD", fold))
    return folder


@pytest.mark.parametrize(
    ("task", "table", "texts", "label"),
    [
        ("relation", "FOLD1.T1.T2\t@CHEMICAL$ FOLD.\tCPR:3\nFOLD1.T1.T3\tNo FOLD.\tfalse\n", ("@CHEMICAL$ test.",), ("CPR:3",)),
        ("relation", "DDI-DrugBank.dFOLD.s0.p0\t@DRUG$ FOLD.\tDDI-false\n", ("@DRUG$ test.",), ("DDI-false",)),
        ("classification", "index\tsentence\tlabel\n0\tFOLD @GENE$ \"x\t1\n", ('test @GENE$ "x',), ("1",)),
        ("similarity", "index\tsentence1\tsentence2\tscore\n3\tFOLD a\tb\t2.4\n", ("test a", "b"), 2.4),
        ("classification", "FOLDid\tIs FOLD?\tIt is.\tyes\n", ("Is test?", "It is."), ("yes",)),
        (
            "multilabel",
            "labels\tsentence\tindex\n0_0,1_1,2_0,3_0,4_0,5_0,6_0,7_1,8_0,9_0\tIn FOLD.\tFOLD7_s3\n",
            ("In test.",),
            (HALLMARKS[1], HALLMARKS[7]),
        ),
    ],
)  # fmt: skip
def test_the_tables_of_blurb(task: str, table: str, texts: tuple[str, ...], label: Any, tmp_path: Path) -> None:
    data = read(blurb(tmp_path, {"all": table}), task)
    record = data.folds["test"][0]
    assert record.texts == texts
    assert (record.value if task == "similarity" else record.labels) == label
    assert not {r.id for r in data.folds["train"]} & {r.id for r in data.folds["test"]}
    if task == "multilabel":
        assert record.document == "test7"
        (tmp_path / "dev.tsv").write_text("labels\tsentence\tindex\n0_0,1_2\tx\t1_s1\n")
        with pytest.raises(DataError, match=r"line 2\): the labels are not ten"):
            read(tmp_path, task)
    (tmp_path / "dev.tsv").write_text(table + "too\tfew\n")
    with pytest.raises(DataError, match=r"2 columns where \d were expected"):
        read(tmp_path, task)
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(DataError, match="not that of the training fold's table"):
        read(tmp_path, task)


@pytest.mark.parametrize(
    ("task", "row", "texts", "label"),
    [
        ("relation", {"id": "x", "sentence": "In FOLD", "label": "0"}, ("In test",), ("0",)),
        (
            "classification",
            {"id": "x", "sentence1": "FOLD?", "sentence2": "b", "label": "yes"},
            ("test?", "b"),
            ("yes",),
        ),
        ("similarity", {"sentence1": "FOLD", "sentence2": "b", "label": 2.5, "id": "1"}, ("test", "b"), 2.5),
        ("multilabel", {"sentence": "FOLD", "label": [0] * 9 + [1], "id": "1"}, ("test",), (HALLMARKS[9],)),
        (
            "choice",
            {"id": "x", "sent1": "FOLD?", "sent2": "", "ending0": "a", "ending1": "b", "label": 1},
            ("test?", "a", "b"),
            ("B",),
        ),
    ],
)
def test_the_lines_of_linkbert(
    task: str, row: dict[str, Any], texts: tuple[str, ...], label: Any, tmp_path: Path
) -> None:
    line = orjson.dumps(row).decode()
    for fold in FOLDS:
        (tmp_path / f"{fold}.json").write_text(line.replace("FOLD", fold) + "\n")
    record = read(tmp_path, task, **({"negative": "0"} if task == "relation" else {})).folds["test"][0]
    assert record.texts == texts
    assert (record.value if task == "similarity" else record.labels) == label
    (tmp_path / "dev.json").write_text(line + '\n{"id": 1}\n')
    with pytest.raises(DataError, match=r"line 2\): it lacks a label"):
        read(tmp_path, task, **({"negative": "0"} if task == "relation" else {}))


def test_the_tags_of_linkbert(tmp_path: Path) -> None:
    for fold in FOLDS:
        row = {"tokens": [fold, "liver", "failure"], "ner_tags": ["O", "B-D", "I-D"], "id": "0"}
        (tmp_path / f"{fold}.json").write_bytes(orjson.dumps(row) + b"\n")
    record = read(tmp_path, "ner").folds["test"][0]
    assert (record.text, record.tags, record.id) == ("test liver failure", ("O", "B-D", "I-D"), "test:0")
    (tmp_path / "dev.json").write_text('{"tokens": ["a"], "ner_tags": []}')
    with pytest.raises(DataError, match=r"line 1\): it lacks words or tokens and as many tags"):
        read(tmp_path, "ner")


@pytest.mark.parametrize(
    ("task", "label", "takes"),
    [("classification", [1] * 10, "one label"), ("classification", 1.5, "one label"), ("similarity", "x", "a number")],
)
def test_records_of_another_kind_of_task_are_named(task: str, label: Any, takes: str, tmp_path: Path) -> None:
    for fold in FOLDS:
        rows = [{"sentence": fold, "label": 2.5 if task == "similarity" else "y"}, {"sentence": "b", "label": label}]
        (tmp_path / f"{fold}.json").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    with pytest.raises(DataError, match=rf"train\.json \(line 2\): the task {task} takes {takes} a record"):
        read(tmp_path, task)


def question(number: int, kind: str = "yesno") -> dict[str, Any]:
    snippets = [{"text": f"Snippet {number}.", "document": "x"}, {"text": "More."}]
    answer = "yes" if number % 2 else "no"
    return {"id": f"q{number}", "type": kind, "body": f"Is {number}?", "snippets": snippets, "exact_answer": answer}


def test_bioasq(tmp_path: Path) -> None:
    training = {"questions": [question(n) for n in range(20)] + [question(99, "factoid")]}
    write(tmp_path / "BioASQ-training7b/BioASQ-training7b.json", orjson.dumps(training).decode())
    for batch in (1, 2):
        write(
            tmp_path / f"Task7BGoldenEnriched/7B{batch}_golden.json",
            orjson.dumps({"questions": [question(30 + batch)]}).decode(),
        )
    data = read(tmp_path, "classification")
    assert {fold: len(records) for fold, records in data.folds.items()} == {"train": 18, "dev": 2, "test": 2}
    assert data.folds["test"][0] == Labelled("q31", ("Is 31?", "Snippet 31. More."), ("yes",))
    for damage, message in (
        ({"snippets": None}, "question 1): a field"),
        ({"exact_answer": "maybe"}, "q31): the answer"),
    ):
        write(
            tmp_path / "Task7BGoldenEnriched/7B1_golden.json",
            orjson.dumps({"questions": [question(31) | damage]}).decode(),
        )
        with pytest.raises(DataError) as caught:
            read(tmp_path, "classification")
        assert message in str(caught.value)


def test_mednli_medqa_and_pubmedqa_under_their_own_names(tmp_path: Path) -> None:
    for fold in FOLDS:
        row = {
            "gold_label": "neutral",
            "pairID": f"{fold}-1",
            "sentence1": f"In {fold}.",
            "sentence2": "b",
            "sentence1_parse": "(",
        }
        write(tmp_path / f"nli/mli_{fold}_v1.jsonl", orjson.dumps(row).decode())
        row = {
            "question": f"{fold}?",
            "answer": "y",
            "options": {"A": "x", "B": "y"},
            "answer_idx": "B",
            "meta_info": "step1",
        }
        write(tmp_path / f"medqa/phrases_no_exclude_{fold}.jsonl", orjson.dumps(row).decode())
        entry = {"QUESTION": f"{fold}?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe"}
        where = tmp_path / "pubmedqa" / ("test_set.json" if fold == "test" else f"pqal_fold0/{fold}_set.json")
        write(where, orjson.dumps({fold: entry}).decode())
    found = {
        name: read(tmp_path / name, task).folds["test"][0]
        for name, task in (("nli", "classification"), ("medqa", "choice"), ("pubmedqa", "classification"))
    }
    assert (found["nli"].texts, found["nli"].labels, found["nli"].id) == (("In test.", "b"), ("neutral",), "test-1")
    assert (found["medqa"].texts, found["medqa"].labels) == (("test?", "x", "y"), ("B",))
    assert (found["pubmedqa"].texts, found["pubmedqa"].labels) == (("test?", "One. Two."), ("maybe",))


def medmentions_folder(folder: Path) -> Path:
    text = ""
    for n in range(6):
        title = f"Protein {n} in mice"
        text += f"{n}|t|{title}\n{n}|a|Often measured.\n{n}\t0\t7\tProtein\tT116,T123\tC1\n"
        text += f"{n}\t{len(title) - 4}\t{len(title)}\tmice\tT015\tC2\n{n}\t{len(title) + 1}\t{len(title) + 6}\tOften\tT079\tC3\n\n"
    folder.mkdir()
    (folder / "corpus_pubtator.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name, ids in (("trng", "0\n1\n2\n3\n"), ("dev", "4\n"), ("test", "5\n77\n")):
        (folder / f"corpus_pubtator_pmids_{name}.txt").write_text(ids)
    return folder


def groups_file(folder: Path) -> Path:
    lines = [f"GRP|Group|{kind}|Name of {kind}" for kind in medmentions.ST21PV]
    (folder / "SemGroups.txt").write_text("\n".join(lines))
    return folder / "SemGroups.txt"


def test_medmentions_by_its_lists_and_st21pv(tmp_path: Path) -> None:
    folder, groups = medmentions_folder(tmp_path / "mm"), groups_file(tmp_path)
    data = read(folder, "ner", st21pv=True)
    assert {fold: [r.id for r in records] for fold, records in data.folds.items()} == {
        "train": list("0123"),
        "dev": ["4"],
        "test": ["5"],
    }
    (record,) = data.folds["test"]
    assert [s.type for s in record.spans] == [
        "T103",
        "T204",
    ]  # Chemical and Eukaryote; a temporal concept is none of the 21
    absent = {"listed documents not in the corpus": 1}
    assert data.notes == {
        "train": {"entities of other types left out": 4},
        "dev": {"entities of other types left out": 1},
        "test": {"entities of other types left out": 1, **absent},
    }
    named = read(folder, "ner", st21pv=True, groups=str(groups)).folds["test"][0]
    assert [s.type for s in named.spans] == ["Name_of_T103", "Name_of_T204"]
    assert [s.type for s in read(folder, "ner", groups=str(groups)).folds["test"][0].spans] == ["GRP", "GRP"]
    groups.write_text("GRP|Group|T103|Chemical\n")
    with pytest.raises(DataError, match="it lacks the type T005"):
        read(folder, "ner", st21pv=True, groups=str(groups))
    (folder / "corpus_pubtator_pmids_dev.txt").write_text("99\n")
    with pytest.raises(DataError, match=r"none of its ids is in corpus_pubtator\.txt\.gz"):
        read(folder, "ner")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data beside the checkout")
def test_st21pv_names_types_of_the_published_groups(tmp_path: Path) -> None:
    found = medmentions.st21pv(SHARED / "semgroups/SemGroups_2018.txt")
    assert len(set(found.values())) == 21
    assert {"Virus", "Chemical", "Biologic_Function", "Eukaryote"} < set(found.values())
    groups = medmentions.semantic_groups(SHARED / "semgroups/SemGroups_2018.txt")
    assert found.keys() <= groups.keys()
    shutil.copytree(SHARED / "medmentions_sample", tmp_path / "mm")
    for name in ("trng", "dev", "test"):  # the sample's three papers are all of the training fold
        (tmp_path / f"mm/corpus_pubtator_pmids_{name}.txt").write_text("25763772\n")
    data = read(tmp_path / "mm", "ner", st21pv=True, max_shared=1)
    assert data.folds["train"][0].spans
    assert not data.notes


def test_sentences_are_not_cut_in_entities_or_behind_shortened_words() -> None:
    text = "We saw e.g. Aspirin (cf. Fig. 2). It acts on A. Thaliana. [More] here"
    entity = Span(text.index("A. Th"), text.index("A. Th") + 11, "S")
    cut: Callable[[list[Span]], list[str]] = lambda spans: [text[a:b] for a, b in sentences(text, spans)]  # noqa: E731
    assert cut([entity]) == ["We saw e.g. Aspirin (cf. Fig. 2). ", "It acts on A. Thaliana. ", "[More] here"]
    assert len(cut([])) == 4
    assert "".join(cut([])) == text


def test_marks_stand_in_the_order_of_the_text() -> None:
    text = "COX-1 is blocked by aspirin."
    ends = (Span(20, 27, "CHEMICAL"), Span(0, 5, "GENE"))
    assert mark_entities(text, ends, "CHEM-GENE") == "@GENE$ is blocked by @CHEMICAL$."
    assert (
        mark_entities(text, (Span(0, 5, "GENE"), Span(3, 10, "CHEMICAL")), "CHEM-GENE")
        == "@CHEM-GENE$locked by aspirin."
    )


def test_documents_are_held_out_whole() -> None:
    records = [Labelled(str(n), ("x",), ("a",), document=str(n // 7)) for n in range(140)]
    train, dev = hold_out(records)
    assert (len(train), len(dev)) == (126, 14)
    assert len({r.document for r in dev if isinstance(r, Labelled)}) == 2
    assert hold_out(records) == (train, dev)


def test_records_in_two_folds_are_found_by_text_and_by_id() -> None:
    train = [Labelled("1", ("a",), ("x",)), Labelled("2", ("b",), ("x",))]
    test = [Labelled("9", ("a",), ("x",)), Labelled("2", ("c",), ("x",)), Labelled("8", ("d",), ("x",))]
    data = DataSet([], {"train": train, "dev": [], "test": test}, dict.fromkeys(FOLDS, Path("test.tsv")))
    counts = {"dev": {"also in train": 0}, "test": {"also in train": 2, "also in dev": 0}}
    assert dataset.count_shared(data, 1.0) == counts
    with pytest.raises(DataError, match=r"test\.tsv: 2 of 3 records are in the training fold, too, by text or id"):
        dataset.count_shared(data, 0.5)
