"""Dates: as the NLM, JATS and tables write them, compared as far as they are known."""

from datetime import date as calendar_date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomlm.core.cli import run as biomlm
from biomlm.core.manifest import read_manifest
from biomlm.corpus.readers.jats import JatsReader
from biomlm.corpus.readers.text import TextReader
from biomlm.corpus.text.dates import between, earliest, iso, written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1998 Dec-1999 Jan", "1998-12"),
        ("1975 Aug 15-31", "1975-08-15"),
        ("2000 Spring", "2000"),
        ("Winter 2001", "2001"),
        ("2000-2001 Winter", "2000"),
        ("<Year>2019</Year>\n<Month>02</Month>\n<Day>8</Day>", "2019-02-08"),
        ("<Year>2019</Year><Month>Feb</Month>", "2019-02"),
        ("<Year>2019</Year><Month>Feb</Month><Day>30</Day>", "2019-02"),
        ("<Year>2019</Year><Season>Spring</Season>", "2019"),
        ("2011 13", "2011"),
        ("no date", ""),
    ],
)
def test_dates_as_the_nlm_writes_them(text: str, expected: str) -> None:
    assert written(text) == expected


def test_iso_dates_and_the_earliest() -> None:
    assert [iso(text) for text in ("2150-01-02 10:00:00", " 2150-01", "2150", "01/02/2150", "20111", "2150-13-01")] == [
        "2150-01-02",
        "2150-01",
        "2150",
        "",
        "",
        "2150",
    ]
    assert earliest(["2012-01-01", "2011", "2011-03", "2011-03-04"]) == "2011-03-04"
    assert earliest([]) == ""


DAYS = st.dates(calendar_date(1990, 1, 1), calendar_date(2020, 1, 1)).map(calendar_date.isoformat)
LENGTHS = st.sampled_from([4, 7, 10])


@given(DAYS, LENGTHS, DAYS, LENGTHS, DAYS, LENGTHS)
def test_a_date_is_wanted_if_any_of_its_days_may_be(day: str, n: int, first: str, a: int, last: str, b: int) -> None:
    """Against the definition: the days of the date overlap the days from the first of `first` to the last of `last`."""
    known, first, last = day[:n], first[:a], last[:b]
    low, high = known + "-01-01"[n - 4 :], known + "-99-99"[n - 4 :]
    assert between(known, first, "") == (high >= first + "-01-01"[a - 4 :])
    assert between(known, "", last) == (low <= last + "-99-99"[b - 4 :])
    assert between(known, first, last) == (between(known, first, "") and between(known, "", last))


DATES = """<pub-date pub-type="ppub"><month>5</month><year>2011</year></pub-date><pub-date pub-type="epub"><day>4</day>
<month>March</month><year>2011</year></pub-date><pub-date pub-type="collection"><year>2011</year></pub-date>"""


def test_articles_are_dated_and_filtered_to_the_day(tmp_path: Path, article: str) -> None:
    dated = article.replace("<pub-date><year>2011</year></pub-date>", DATES)
    (tmp_path / "PMC1.nxml").write_text(dated.format(pmid=1, pmcid=1))
    (document,) = JatsReader(str(tmp_path)).read_file("PMC1.nxml")
    assert (document.metadata["date"], document.metadata["year"]) == ("2011-03-04", 2011)
    for option, value, kept in (
        ("from", "2011-03-04", 1),
        ("from", "2011-03-05", 0),
        ("to", "2011-03", 1),
        ("to", "2011-02", 0),
        ("to", "2011", 1),
    ):
        out = tmp_path / f"{option}{value}"
        words = ["--pmc", f"{tmp_path}/PMC1.nxml", "--out", str(out), f"--select.date_{option}", value]
        assert biomlm(["corpus", "build", *words]) == (0 if kept else 2), (option, value)
        if kept:
            assert read_manifest(out, "corpus build").counts["sources"]["pmc"]["kept"] == 1


def test_no_date_is_a_mistake_of_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.txt").write_text("Some words of a plain text.")
    words = ["--text", f"{tmp_path}/x.txt", "--out", str(tmp_path / "out"), "--select.date_from", "March 2011"]
    assert biomlm(["corpus", "build", *words]) == 2
    assert "select.date_from is no date" in capsys.readouterr().err


def test_dates_of_rows(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "Some words.", "date": "2021-03-04T00:00:00"}\n')
    (document,) = TextReader(str(tmp_path)).read_file("x.jsonl")
    assert (document.metadata["date"], document.metadata["year"]) == ("2021-03-04", 2021)
