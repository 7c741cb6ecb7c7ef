"""Selection across files: versions, deletions, duplicates, near-duplicates, evaluation sets, licences, languages, the citation graph."""

import gzip
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from biomlm.core.cli import run as biomlm
from biomlm.core.errors import DataError
from biomlm.core.manifest import read_manifest
from biomlm.corpus.dedup.minhash import band_hashes, later_ones
from biomlm.corpus.documents import document_files, documents
from biomlm.corpus.filters.decontamination import MarkContaminated
from biomlm.corpus.filters.language import language
from biomlm.corpus.filters.selection import has_licence
from biomlm.corpus.readers.boilerplate import without_boilerplate
from biomlm.corpus.text.document import DROPPED, build

ENGLISH = """Background: this study was done to find whether the treatment of patients with asthma by inhaled steroids is of use. We have
treated 40 patients and found that they were better than those in the other group at the end of the study."""


def run(tmp_path: Path, *words: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Build without a held-out part; the counts and the documents."""
    out = tmp_path / "docs"
    assert biomlm(["corpus", "build", *words, "--out", str(out), "--valid_fraction", "0"]) == 0
    found = [document for path in document_files(out, "train") for document in documents(path)]
    return read_manifest(out, "corpus build").counts, found


def test_the_newest_version_wins_and_deletions_delete(tmp_path: Path, make: Any) -> None:
    files = {
        "pubmed25n0001.xml": [
            make.plain(1),
            make.plain(2, revised=2024),
            make.plain(3),
            make.plain(4, version=2),
            make.plain(5),
        ],
        "pubmed25n0002.xml": [
            make.plain(1, revised=2021).replace("Finding 1 in", "Newer 1 in"),
            make.plain(2, revised=2019).replace("Finding 2 in", "Older 2 in"),
            make.plain(4, revised=2030).replace("Finding 4 in", "First version 4 in"),
            "<DeleteCitation><PMID Version='1'>3</PMID><PMID Version='1'>5</PMID></DeleteCitation>",
        ],
        "pubmed25n0003.xml": [make.plain(5).replace("Finding 5 in", "Back again 5 in")],
    }
    for name, records in files.items():
        (tmp_path / name).write_bytes(make.citations(*records))
    # Named in the wrong order: the order of the files' names counts.
    counts, found = run(tmp_path, "--pubmed", *(str(tmp_path / name) for name in sorted(files, reverse=True)))
    titles = {d["id"]: d["text"].split("\n")[0] for d in found}
    assert titles == {
        "pmid:1": "Newer 1 in mice",
        "pmid:2": "Finding 2 in mice",
        "pmid:4": "Finding 4 in mice",
        "pmid:5": "Back again 5 in mice",
    }
    assert counts["deletes"] == 2
    assert counts["sources"]["pubmed"]["dropped"] == {
        "deleted by an update file": 2,
        "superseded by a newer version": 3,
    }


def test_the_same_article_and_the_same_text_count_once(tmp_path: Path, make: Any, article: str) -> None:
    (tmp_path / "p.xml").write_bytes(
        make.citations(
            make.plain(7), make.plain(8), make.plain(8).replace(">8</PMID", ">10</PMID").replace("T.8", "T.10")
        )
    )
    (tmp_path / "PMC1.nxml").write_text(article.format(pmid=7, pmcid=1))
    (tmp_path / "copy.nxml").write_text(article.format(pmid=7, pmcid=1))
    counts, found = run(tmp_path, "--pubmed", f"{tmp_path}/p.xml", "--pmc", f"{tmp_path}/*.nxml")
    assert [d["id"] for d in found] == ["pmid:8", "pmcid:PMC1"]
    assert counts["sources"]["pubmed"]["dropped"] == {"same article in PMC": 1, "same text": 1}
    assert counts["sources"]["pmc"]["dropped"] == {"superseded by a newer version": 1}


def test_links_name_documents_and_the_graph_is_written(tmp_path: Path, make: Any, article: str) -> None:
    cites = "<CommentsCorrectionsList><CommentsCorrections RefType='Cites'><PMID>{}</PMID></CommentsCorrections></CommentsCorrectionsList>"
    text = "<AbstractText>Some words of an abstract here.</AbstractText>"
    records = [
        make.record(i, f"Title {i}", text + str(i), extra=cites.format(7 if i < 5 else 999).replace("'", '"'))
        for i in range(1, 6)
    ]
    (tmp_path / "p.xml").write_bytes(make.citations(*records))
    (tmp_path / "PMC1.nxml").write_text(article.format(pmid=7, pmcid=1).replace(">11<", ">2<"))
    counts, found = run(tmp_path, "--pubmed", f"{tmp_path}/p.xml", "--pmc", f"{tmp_path}/PMC1.nxml")
    links = {d["id"]: d["metadata"]["links"] for d in found}
    assert links["pmid:1"] == ["pmcid:PMC1"]
    assert links["pmid:5"] == ["pmid:999"]
    assert links["pmcid:PMC1"] == ["pmid:2", "doi:10.1/abc"]
    assert counts["graph"] == {"documents": 6, "edges": 5, "cited": 2, "isolated": 1, "most cited by": 4}
    edges = gzip.decompress((tmp_path / "docs" / "graph" / "edges.tsv.gz").read_bytes()).decode().splitlines()
    assert edges == [
        "pmid:1\tpmcid:PMC1",
        "pmid:2\tpmcid:PMC1",
        "pmid:3\tpmcid:PMC1",
        "pmid:4\tpmcid:PMC1",
        "pmcid:PMC1\tpmid:2",
    ]


def test_near_duplicates(tmp_path: Path, make: Any) -> None:
    rng = np.random.default_rng(1)
    words = [f"word{i}" for i in rng.integers(0, 5000, 300)]
    changed = [*words[:150], "another", *words[151:]]
    other = [f"word{i}" for i in rng.integers(0, 5000, 300)]
    abstracts = [f"<AbstractText>{' '.join(text)}</AbstractText>" for text in (words, changed, other)]
    (tmp_path / "p.xml").write_bytes(
        make.citations(*(make.record(i, "", text) for i, text in enumerate(abstracts, start=1)))
    )
    counts, found = run(tmp_path, "--pubmed", f"{tmp_path}/p.xml", "--select.near_duplicates")
    assert [d["id"] for d in found] == ["pmid:1", "pmid:3"]
    assert counts["sources"]["pubmed"]["dropped"] == {"near-duplicate": 1}


def test_minhash_finds_what_its_theory_says() -> None:
    """1 - (1 - s⁸)¹⁴ of pairs with Jaccard similarity s, within three standard deviations of 200 pairs."""
    rng = np.random.default_rng(3)
    for share, expected in ((0.95, 1.0), (0.75, 0.77), (0.3, 0.001)):
        hits, pairs = 0, 200
        for _ in range(pairs):
            # Shingles are what is compared, so distinct five-word sentences make sets of a known overlap.
            common = int(200 * 2 * share / (1 + share))
            blocks = [" ".join(f"w{n}" for n in rng.integers(0, 1 << 40, 5)) for _ in range(400 - common)]
            bands = [_bands_of_blocks(blocks[:200]), _bands_of_blocks(blocks[200 - common :])]
            hits += bool((bands[0] == bands[1]).any())
        spread = 3 * (expected * (1 - expected) / pairs) ** 0.5 + 0.01
        assert abs(hits / pairs - expected) <= spread, (share, hits)


def _bands_of_blocks(blocks: list[str]) -> Any:
    from unittest import mock

    from biomlm.corpus.dedup import minhash

    windows = np.lib.stride_tricks.sliding_window_view
    with mock.patch.object(
        minhash.np.lib.stride_tricks, "sliding_window_view", lambda words, n: windows(words, n)[::n]
    ):
        return band_hashes(" ".join(blocks))


def test_groups_keep_their_most_preferred_member() -> None:
    bands = np.array([[1, 2], [9, 2], [9, 8], [0, 0], [0, 0], [5, 6]], np.uint64)
    later, first = later_ones(bands, np.array([2, 0, 1, 3, 4, 5]))
    assert dict(zip(later.tolist(), first.tolist(), strict=True)) == {0: 2, 1: 2}
    assert not len(later_ones(bands, np.array([0, 5, 3]))[0])


SENTENCE = (
    "identification of apc2 a homologue of the adenomatous polyposis coli tumour suppressor gene in humans and mice"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.txt", f"Some line.\n{SENTENCE.title()}.\n"),
        ("iob.tsv", "".join(f"{word}\tO\n" for word in SENTENCE.split()) + "\n"),
        ("items.jsonl", f'{{"question": "{SENTENCE}?", "id": 3}}\n'),
        ("pubtator.txt", f"10021369|t|{SENTENCE}\n10021369|a|Short abstract.\n"),
    ],
)
def test_evaluation_sets_are_kept_out(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    texts = [
        f"We report the {SENTENCE.upper()}, and more.",
        "Nothing of the kind is in this text, which is long enough to have n-grams.",
        SENTENCE[:60],
    ]
    made = [build(f"text:x:{i}", [("Text", [text])], {"source": "text"}) for i, text in enumerate(texts)]
    step = MarkContaminated([tmp_path / name])
    assert [d.metadata.get(DROPPED) for d in step.run(made)] == ["contaminated by evaluation data", None, None]
    cited = build("pmid:10021369", [("Text", ["Other words."])], {"source": "pubmed", "pmid": "10021369"})
    assert [DROPPED in d.metadata for d in step.run([cited])] == [name == "pubtator.txt"]


TEXTS = [
    "Some words of the first text, which has more than thirteen of them in a row, as it should.",
    f"{SENTENCE}, naïve.",
]


def conll(separator: str) -> str:
    sentences = ("".join(f"{word}{separator}{'B-X' if word == 'of' else 'O'}\n" for word in t.split()) for t in TEXTS)
    return "-DOCSTART- O\n\n" + "\n".join(sentences)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wrapped.txt", "\n\n".join("\n".join(textwrap.wrap(text, 40)) for text in TEXTS)),
        ("lines.txt", "\n".join(TEXTS)),
        ("tab.iob", conll("\t")),
        ("space.conll", conll(" ")),
        ("four.conll", conll(" NN I-NP ")),
        ("words.txt", "\n\n".join("\n".join(text.split()) for text in TEXTS)),
        ("table.tsv", "id\tlabel\ttext\n" + "".join(f"{i}\tyes\t{text}\n" for i, text in enumerate(TEXTS))),
        ("table.csv", "id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(TEXTS))),
        ("items.jsonl", "".join(orjson.dumps({"q": {"text": text}}).decode() + "\n" for text in TEXTS)),
        ("tokens.jsonl", "".join(orjson.dumps({"tokens": text.split()}).decode() + "\n" for text in TEXTS)),
        ("set.json", orjson.dumps({"data": [{"text": text} for text in TEXTS]}, option=orjson.OPT_INDENT_2).decode()),
        (
            "pubtator.txt",
            "".join(f"{i}|t|Title\n{i}|a|{text}\n{i}\t0\t4\tSome\tGene\t7\n\n" for i, text in enumerate(TEXTS, 1)),
        ),
    ],
)
def test_every_text_of_every_kind_of_evaluation_file_is_kept_out(name: str, content: str, tmp_path: Path) -> None:
    for path, data in ((tmp_path / name, content.encode()), (tmp_path / f"{name}.GZ", gzip.compress(content.encode()))):
        path.write_bytes(data)
        made = [
            build(f"text:x:{i}", [("Text", [f"We saw: {text} Yes."])], {"source": "text"})
            for i, text in enumerate(TEXTS)
        ]
        assert [d.metadata.get(DROPPED) for d in MarkContaminated([path]).run(made)] == [
            "contaminated by evaluation data"
        ] * 2


@pytest.mark.parametrize("content", ["", "too few words here\n", "a\tO\nb\tO\n", '{"label": 3}\n'])
def test_an_evaluation_file_that_would_keep_nothing_out_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text(SENTENCE)
    (tmp_path / "none.txt").write_text(content)
    with pytest.raises(DataError, match=r"none\.txt: there is no run of 13 words and no PMID"):
        MarkContaminated([tmp_path / "good.txt", tmp_path / "none.txt"])


def test_a_retraction_takes_what_was_retracted_with_it(tmp_path: Path, make: Any, article: str) -> None:
    retraction = (
        "<PublicationTypeList><PublicationType>Retracted Publication</PublicationType></PublicationTypeList></Article>"
    )
    records = {
        "pubmed25n0001.xml": [make.plain(1), make.plain(2), make.plain(3), make.plain(7)],
        "pubmed25n0002.xml": [
            make.plain(1, revised=2021).replace("</Article>", retraction),
            make.record(2, "Short", "", revised=2021),
            make.plain(7, revised=2021).replace("</Article>", retraction),
            "<DeleteCitation><PMID Version='1'>3</PMID></DeleteCitation>",
        ],
    }
    for name, found in records.items():
        (tmp_path / name).write_bytes(make.citations(*found))
    (tmp_path / "PMC1.nxml").write_text(article.format(pmid=7, pmcid=1))
    (tmp_path / "PMC2.nxml").write_text(article.format(pmid=8, pmcid=2))
    files = ["--pubmed", f"{tmp_path}/*.xml", "--pmc", f"{tmp_path}/*.nxml"]
    for more in ([], ["--keep_dropped"]):
        counts, found = run(tmp_path / f"{len(more)}", *files, "--select.retracted", "false", *more)
        assert [d["id"] for d in found] == ["pmcid:PMC2"]
        assert counts["sources"]["pubmed"]["dropped"] == {
            "retracted": 2,
            "superseded by a newer version": 3,
            "fewer than 5 words": 1,
            "deleted by an update file": 1,
        }
        assert counts["sources"]["pmc"]["dropped"] == {"retracted": 1}
    dropped = [d for path in (tmp_path / "1" / "docs" / "dropped").glob("*.gz") for d in documents(path)]
    assert sorted(d["metadata"]["dropped"] for d in dropped).count("superseded by a newer version") == 3


def test_an_article_without_a_pmcid_stands_for_its_citation(tmp_path: Path, make: Any, article: str) -> None:
    (tmp_path / "p.xml").write_bytes(make.citations(make.plain(7)))
    (tmp_path / "a.nxml").write_text(article.format(pmid=7, pmcid=1).replace('"pmc">1<', '"other">1<'))
    counts, found = run(tmp_path, "--pubmed", f"{tmp_path}/p.xml", "--pmc", f"{tmp_path}/a.nxml")
    assert [(d["id"], d["metadata"]["source"]) for d in found] == [("pmid:7", "pmc")]
    assert counts["sources"]["pubmed"]["dropped"] == {"same article in PMC": 1}


def test_licences_languages_types_and_years(tmp_path: Path, article: str, make: Any) -> None:
    one = article.format(pmid=1, pmcid=1)
    (tmp_path / "PMC1.nxml").write_text(one)
    (tmp_path / "PMC2.nxml").write_text(article.format(pmid=2, pmcid=2).replace("licenses/by/", "licenses/by-nc/"))
    (tmp_path / "PMC3.nxml").write_text(article.format(pmid=3, pmcid=3).replace("research-article", "correction"))
    (tmp_path / "PMC4.nxml").write_text(article.format(pmid=4, pmcid=4).replace("2011", "1999"))
    options = [
        "--select.licenses",
        "cc-by",
        "--select.article_types",
        "research-article",
        "--select.date_from",
        "2000-06",
    ]
    counts, found = run(tmp_path, "--pmc", f"{tmp_path}/*.nxml", *options)
    assert [d["id"] for d in found] == ["pmcid:PMC1"]
    assert counts["sources"]["pmc"]["dropped"] == {"another licence": 1, "another article type": 1, "another date": 1}


def test_a_licence_without_a_version_stands_for_all() -> None:
    assert has_licence("cc-by-4.0", ["CC-BY"])
    assert has_licence("cc-by-4.0", ["cc-by-4.0"])
    assert not has_licence("cc-by-nc-4.0", ["cc-by"])
    assert not has_licence("cc-by-3.0", ["cc-by-4.0"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENGLISH, "en"),
        (
            "Die Patienten wurden mit dem neuen Mittel behandelt und die Ergebnisse sind in der Tabelle dargestellt, wobei sich zeigt, "
            "dass es nicht hilft.",
            "de",
        ),
        (
            "Les patients ont été traités par le nouveau médicament et les résultats sont présentés dans "
            "le tableau pour une comparaison avec des témoins.",
            "fr",
        ),
        (
            "Los pacientes fueron tratados con el nuevo fármaco y los resultados se presentan en la tabla "
            "para su comparación con los controles de este estudio.",
            "es",
        ),
        ("目的 观察新药治疗患者的疗效。方法 选取患者四十例，随机分为两组。结果 治疗组优于对照组。", "zh"),
        ("Пациенты получали новый препарат, и результаты представлены в таблице.", "ru"),
        ("Short text.", ""),
    ],
)
def test_languages(text: str, expected: str) -> None:
    assert language(text) == expected


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("It works. Copyright © 2012 Elsevier Ltd. All rights reserved.", "It works."),
        ("It works. © 2019 The Authors. Published by Wiley Periodicals, Inc.", "It works."),
        ("It was long (ABSTRACT TRUNCATED AT 250 WORDS)", "It was long"),
        ("The Copyright Act of 1976 was studied in depth.", "The Copyright Act of 1976 was studied in depth."),
        ("Nothing to see.", "Nothing to see."),
    ],
)
def test_boilerplate(text: str, clean: str) -> None:
    assert without_boilerplate(text) == clean
