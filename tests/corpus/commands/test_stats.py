"""`corpus stats` in a pipe whose reader leaves early."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from biomlm.core.cli import run as biomlm
from biomlm.corpus.commands.stats import by_year, draw
from biomlm.corpus.readers.note_sections import HEADERS
from biomlm.corpus.text.section_titles import NOTE_TITLES, UNKNOWN, listed_title


def test_head_is_no_fault(tmp_path: Path, make: Any) -> None:
    (tmp_path / "p.xml").write_bytes(make.citations(*(make.plain(i) for i in range(1, 30))))
    assert biomlm(["corpus", "build", "--pubmed", str(tmp_path / "p.xml"), "--out", str(tmp_path / "docs")]) == 0
    command = f"{sys.executable} -m biomlm.corpus stats {tmp_path / 'docs'} | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert result.stderr == ""


def test_many_years_are_drawn_by_decades() -> None:
    assert by_year(Counter({2003: 1, 2001: 2})) == {"2001": 2, "2003": 1}
    many = by_year(Counter(range(1990, 2020)))
    assert many == {"1990s": 10, "2000s": 10, "2010s": 10}


def test_bars_are_in_proportion(capsys: Any) -> None:
    draw("words", {"pubmed": 100, "pmc": 50, "notes": 1})
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("█") for line in lines] == [0, 40, 20, 1]


def test_titles_are_shown_if_they_are_known() -> None:
    assert listed_title("CHIEF COMPLAINT") == listed_title("Chief Complaint:") == "Chief complaint"
    assert listed_title("Materials and  Methods") == "Materials and methods"
    assert listed_title("MR ZEBRA DOE") == listed_title("") == UNKNOWN
    assert HEADERS <= NOTE_TITLES
