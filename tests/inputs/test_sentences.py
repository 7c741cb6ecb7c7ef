"""Sentence boundaries: hand-made cases, and what must hold of every text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from biomlm.corpus.text.document import clean, sentences
from biomlm.inputs.sentences import is_lower_case, spans


@pytest.mark.parametrize(
    "marked",
    [
        "One sentence.|Another one.",
        "See Fig. 2 for that.|Then Smith et al. (2010) agreed.|Yes.",
        "The dose was 0.5 mg (i.e. Low).|It was given i.v. Twice.",
        "Dr. Jones and J. R. Smith came.|They left.",
        "Deficiency of vitamin C.|The patients were treated.",
        "Was it so?|No!|It was not.",
        'He said "never."|Then he left.',
        "Grown at 37 °C.|Cells of E. coli were used.",
        "Seen by [**Doctor Last Name. Jones**] today.|Stable.",
        "p < 0.05 vs. Controls.|CI 1.2–3.4.",
        "no boundary before lower. case letters",
        "Approx. 5 of 10 patients in the U.S.|Patients were young.",
        "Published in Proc. Natl. Acad. Sci. in 1999.",
    ],
)
def test_boundaries(marked: str) -> None:
    text = marked.replace("|", " ")
    assert "|".join(text[a:b] for a, b in spans(text)) == marked


NURSING = (
    "pt alert and oriented.|lungs clear bilat.|given lasix 20mg iv q. day.|u/o good.|dr. jones aware.|"
    "plan: cont abx, dc home in a.m. if stable."
)


def test_notes_in_lower_case_have_sentences() -> None:
    text = NURSING.replace("|", " ")
    assert is_lower_case(text)
    assert not is_lower_case("Lungs clear bilat. given lasix. He is stable. She saw dr. jones. The end.")
    assert not is_lower_case("")
    assert "|".join(text[a:b] for a, b in sentences(text, edited=False)) == NURSING
    assert len(sentences(text)) == 1


@given(st.text(st.sampled_from("aB1. \n[*]()é?!,"), max_size=80))
def test_sentences_cover_everything_but_white_space(raw: str) -> None:
    text = "\n".join(filter(None, map(clean, raw.split("\n"))))
    found = sentences(text)
    edges = [edge for span in found for edge in span]
    assert edges == sorted(edges)
    assert "".join("".join(text[a:b] for a, b in found).split()) == "".join(text.split())
    assert all(text[a:b] == text[a:b].strip() and "\n" not in text[a:b] for a, b in found)


@example("0\r\x08\r0")
@given(st.text(max_size=60))
def test_clean_text_is_one_printable_line(raw: str) -> None:
    text = clean(raw)
    assert clean(text) == text
    assert text == text.strip()
    assert not any(c in text for c in "\n\r\t\x00\xad\u200b\ufeff")
    assert "  " not in text
