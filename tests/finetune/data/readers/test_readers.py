"""PubTator, tables, PubMedQA and MMLU."""

import gzip
import tempfile
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.core.errors import ConfigError, DataError
from biomlm.finetune.data.dropped import Dropped
from biomlm.finetune.data.iob_tags import Span
from biomlm.finetune.data.labelling import CHOICE, CLASS, CLASSES, NUMBER, Labelling
from biomlm.finetune.data.readers import qa
from biomlm.finetune.data.readers.columns import read_table
from biomlm.finetune.data.readers.iob import read_iob
from biomlm.finetune.data.readers.medmentions import semantic_groups
from biomlm.finetune.data.readers.pubtator import read_pubtator, tag_words, without_overlap
from biomlm.finetune.data.schema import Columns
from biomlm.finetune.data.splits import find, hold_out

SHARED = Path(__file__).parents[5] / "shared/data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data beside the checkout")
DOCUMENT = "7|t|Heart failure in β-thalassemia\n7|a|Nothing else.\n7\t0\t13\tHeart failure\tT047\tD1\n7\t17\t30\tβ-thalassemia\tT047\tD2\n"


def pubtator(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.txt"
    path.write_bytes(text.encode())
    return path


def test_pubtator_keeps_every_annotation_at_its_characters(tmp_path: Path) -> None:
    dropped = Dropped()
    (record,) = read_pubtator(pubtator(tmp_path, DOCUMENT.replace("\n", "\r\n")), dropped)
    assert record.text == "Heart failure in β-thalassemia Nothing else."
    assert record.characters(record.spans) == [Span(0, 13, "T047"), Span(17, 30, "T047")]
    assert dropped == Dropped()


def test_types_are_mapped_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    dropped = Dropped()
    text = DOCUMENT + "7\t0\t5\tHeart\tT047\tD3\n7\t31\t38\tNothing\tT999\tD4\n"
    (record,) = read_pubtator(pubtator(tmp_path, text), dropped, {"T047": "DISO"})
    assert [s.type for s in record.spans] == ["DISO", "DISO"]
    assert dropped == Dropped(overlapping=1, types=1)


@given(st.text(max_size=60), st.data())
def test_words_cover_the_text_and_spans_survive(text: str, data: st.DataObject) -> None:
    ends = st.integers(0, len(text))
    drawn = data.draw(st.lists(st.tuples(ends, ends), max_size=6))
    spans = without_overlap([Span(min(p), max(p), "X") for p in drawn if text[min(p) : max(p)].strip()])
    trimmed = [s for s in spans if text[s.start : s.stop] == text[s.start : s.stop].strip()]
    record = tag_words("x", text, trimmed, 1)
    assert record.characters(record.spans) == trimmed
    assert "".join(text[a:b] for a, b in record.words) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("7|a|No title\n", "line 1"),
        ("7|t|No abstract\n", "line 1"),
        (DOCUMENT.replace("\t17\t", "\t18\t"), "line 4"),
        (DOCUMENT.replace("\t13\t", "\t-1\t"), "line 3"),
        (DOCUMENT.replace("7\t0", "8\t0"), "line 3"),
    ],
)
def test_malformed_pubtator_is_named(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(DataError) as caught:
        read_pubtator(pubtator(tmp_path, text), Dropped())
    assert where in str(caught.value)


def test_offsets_in_utf16_units_are_refused(tmp_path: Path) -> None:
    good = "7|t|💊 aspirin\n7|a|\n7\t2\t9\taspirin\tDrug\n"
    (record,) = read_pubtator(pubtator(tmp_path, good), Dropped())
    assert record.characters(record.spans) == [Span(2, 9, "Drug")]
    with pytest.raises(DataError, match=r"line 3\): the offsets do not point at the mention.\n.*UTF-16"):
        read_pubtator(pubtator(tmp_path, good.replace("\t2\t9\t", "\t3\t10\t")), Dropped())


def test_medqa_as_distributed(tmp_path: Path) -> None:
    line = '{"question": "Q?", "answer": "y", "options": {"A": "x", "B": "y", "C": "z", "D": "w"}, "answer_idx": "B"}\n'
    (tmp_path / "train.jsonl").write_text(line)
    columns = Columns(text="question", label="answer_idx", choices=("options",))
    (record,) = read_table(tmp_path / "train.jsonl", "train", columns, CHOICE)
    assert (record.texts, record.labels) == (("Q?", "x", "y", "z", "w"), ("B",))


def test_tables_of_three_kinds_say_the_same(tmp_path: Path) -> None:
    rows = [{"a": 'He said "no"', "b": "x, y", "l": "yes"}, {"a": "two", "b": "three", "l": "no"}]
    files = {
        "t.tsv": "a\tb\tl\n" + "".join(f"{r['a']}\t{r['b']}\t{r['l']}\n" for r in rows),
        "t.csv": 'a,b,l\n"He said ""no""","x, y",yes\ntwo,three,no\n',
        "t.jsonl": "".join(orjson.dumps(r).decode() + "\n" for r in rows),
    }
    columns = Columns(text="a", pair="b", label="l")
    read = []
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        read.append([(r.texts, r.labels) for r in read_table(tmp_path / name, "train", columns, CLASS)])
    assert read[0] == read[1] == read[2] == [((r["a"], r["b"]), (r["l"],)) for r in rows]


def test_several_labels_numbers_and_choices(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "x", "label": ["b", "a"]}\n{"text": "y", "label": "a, c"}\n{"text": "z", "label": ""}\n')
    assert [r.labels for r in read_table(path, "t", Columns(), CLASSES)] == [("a", "b"), ("a", "c"), ()]
    path.write_text('{"text": "x", "pair": "y", "label": "2.5"}\n')
    assert read_table(path, "t", Columns(pair="pair"), NUMBER)[0].value == 2.5
    path.write_text(
        '{"text": "q", "options": {"A": "x", "B": "y"}, "label": "B"}\n{"text": "q", "options": ["x", "y"], "label": 0}\n'
    )
    read = read_table(path, "t", Columns(choices=("options",)), CHOICE)
    assert [(r.texts, r.labels) for r in read] == [(("q", "x", "y"), ("B",)), (("q", "x", "y"), ("A",))]


@pytest.mark.parametrize(
    ("name", "text", "labelling", "message"),
    [
        ("t.csv", "text,answer\nx,y\n", CLASS, r"line 2\): the column label is missing"),
        ("t.csv", "text,label\nx,y\n,z\n", CLASS, r"line 3\): the column text is empty"),
        ("t.csv", "text,label\nx\n", CLASS, "not as many fields"),
        ("t.csv", 'text,label\nx,y\n"x,z\nx,y\n', CLASS, r"line 3\): this is no valid table"),
        ("t.jsonl", '{"text": "x", "label": ["a"]}\n', CLASS, r"line 1\): label holds several values"),
        ("t.jsonl", '{"text": {"a": "x"}, "label": "a"}\n', CLASS, r"line 1\): text holds several values"),
        ("t.jsonl", '{"text": "x", "label": "a"}\n[1]\n', CLASS, r"line 2\): this is no JSON object"),
        ("t.tsv", "text\tlabel\nx\tmuch\n", NUMBER, "no number"),
        ("t.tsv", "text\tlabel\nx\tnan\n", NUMBER, "no number"),
        ("t.tsv", "text\tlabel\nx\tC\n", CHOICE, "none of the choices"),
    ],
)
def test_malformed_tables_are_named(tmp_path: Path, name: str, text: str, labelling: Labelling, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name, "train", Columns(choices=("text",) if labelling == CHOICE else ()), labelling)


def test_columns_need_names() -> None:
    with pytest.raises(ConfigError):
        Columns(text="")


def qa_folder(tmp_path: Path, entries: int = 30) -> dict[str, list[Path]]:
    questions = {
        str(i): {"QUESTION": f"Is {i} odd?", "CONTEXTS": ["One.", "Two."], "final_decision": "yes" if i % 2 else "no"}
        for i in range(entries)
    }
    (tmp_path / "ori_pqal.json.gz").write_bytes(gzip.compress(orjson.dumps(questions)))
    test = {str(i): "yes" if i % 2 else "no" for i in range(10)}
    (tmp_path / "test_ground_truth.json").write_bytes(orjson.dumps(test))
    files = qa.find_pubmedqa(tmp_path)
    assert files is not None
    return files


def test_pubmedqa_keeps_its_official_test_ids(tmp_path: Path) -> None:
    files = qa_folder(tmp_path)
    folds = {fold: qa.read_pubmedqa(paths, fold, Dropped()) for fold, paths in files.items()}
    folds["train"], folds["dev"] = hold_out(folds["train"])  # type: ignore[assignment]
    assert {r.id for r in folds["test"]} == {str(i) for i in range(10)}
    assert {fold: len(records) for fold, records in folds.items()} == {"train": 18, "dev": 2, "test": 10}
    assert len({r.id for records in folds.values() for r in records}) == 30
    assert folds["test"][1].texts == ("Is 1 odd?", "One. Two.")


def test_pubmedqa_with_other_answers_is_refused(tmp_path: Path) -> None:
    files = qa_folder(tmp_path)
    files["test"][1].write_bytes(orjson.dumps({"3": "maybe"}))
    with pytest.raises(DataError, match="answered otherwise"):
        qa.read_pubmedqa(files["train"], "train", Dropped())
    files["test"][0].write_bytes(gzip.compress(orjson.dumps({"3": ["yes"]})))
    files["test"][1].write_bytes(orjson.dumps({"3": "yes"}))
    with pytest.raises(DataError, match="1 test ids are not in"):
        qa.read_pubmedqa(files["train"], "train", Dropped())


def test_mmlu(tmp_path: Path) -> None:
    for name in ("val", "dev", "test"):
        (tmp_path / f"anatomy_{name}.csv").write_text(f'"Which, {name}?",a,b,c,d,C\n')
    files = qa.find_mmlu(tmp_path)
    assert files is not None
    (record,) = qa.read_mmlu(files["test"], "test", Dropped())
    assert (record.texts, record.labels) == (("Which, test?", "a", "b", "c", "d"), ("C",))
    (tmp_path / "anatomy_test.csv").write_text("Which?,a,b,c,d,E\n")
    with pytest.raises(DataError, match="line 1"):
        qa.read_mmlu(files["test"], "test", Dropped())
    (tmp_path / "anatomy_test.csv").write_text('Which?,a,b,c,d,A\n"Which?,a,b,c,d,A\nand more\n')
    with pytest.raises(DataError, match=r"line 2\): this is no valid table"):
        qa.read_mmlu(files["test"], "test", Dropped())


def test_a_fold_may_be_a_folder_but_only_one_file(tmp_path: Path) -> None:
    for name in ("train", "devel", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.txt.gz").touch()
    assert find(tmp_path, (".txt",))["dev"] == tmp_path / "devel/corpus.txt.gz"
    (tmp_path / "test.txt").touch()
    with pytest.raises(DataError, match="several"):
        find(tmp_path, (".txt",))


@pytest.mark.shared
@shared
def test_published_counts() -> None:
    """NCBI-disease: 593, 100 and 100 abstracts (one twice), 5,145, 787 and 960 mentions (Doğan et al. 2014); PubMedQA: 500 test ids."""
    for fold, documents, mentions in (("train", 592, 5134), ("devel", 100, 787), ("test", 100, 960)):
        dropped = Dropped()
        (path,) = (SHARED / "ncbi_disease_pubtator" / fold).iterdir()
        records = read_pubtator(path, dropped)
        assert len(records) == documents
        assert sum(len(r.spans) for r in records) + dropped.overlapping == mentions
    groups = semantic_groups(SHARED / "semgroups/SemGroups_2018.txt")
    medmentions = read_pubtator(SHARED / "medmentions_sample/med_mentions.txt", Dropped(), groups)
    assert {s.type for r in medmentions for s in r.spans} <= set(groups.values())
    files = qa.find_pubmedqa(SHARED / "pubmedqa")
    assert files is not None
    assert len(qa.read_pubmedqa(files["test"], "test", Dropped())) == 500


WHOLE = {
    "t.csv": 'text,label\n"a, ""b""",x\nb,y\n',
    "t.tsv": "text\tlabel\na\tx\nb\ty\n",
    "t.jsonl": '{"text": "a", "label": "x"}\n{"text": "\\u00b5", "label": 1}\n',
    "iob.tsv": "a\tB-D\nb\tI-D\n\nc\tO\nd\tB-E\n",
    "p.txt": "1|t|Aspirin\n1|a|the \U0001f600 liver\n1\t0\t7\tAspirin\tDrug\n1\t14\t19\tliver\tOrgan\n",
    "m.csv": 'q,a,b,c,d,A\n"q, 2",a,b,c,d,B\n',
}
MARKS = ("\t", "\n", ",", '"', "\\", "|", "99999999999999999999", "-1", "\0", "\r", "\u2028", "{", "[]", "B-", "²", "é")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_damaged_file_is_read_or_refused_in_two_lines(name: str, data: st.DataObject) -> None:
    text = WHOLE[name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(len(text), start + 9)))
        text = text[:start] + data.draw(st.sampled_from(MARKS)) * data.draw(st.integers(0, 1)) + text[stop:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding=data.draw(st.sampled_from(("utf-8", "utf-16"))), newline="")
        said = f"{path}: \n"
        try:
            if name == "m.csv":
                qa.read_mmlu([path], "test", Dropped())
            elif name == "p.txt":
                read_pubtator(path, Dropped())
            elif name == "iob.tsv":
                read_iob(path, "test")
            else:
                read_table(path, "test", Columns(), CLASS)
        except DataError as error:
            said = str(error)
    assert said.startswith(str(path))
    assert said.count("\n") == 1
