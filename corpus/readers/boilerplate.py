"""What belongs to the publisher and not to the article: copyright at the end of abstracts, pointers to files, notices."""

import re

TRUNCATED = re.compile(r"(?<!\s)\s*+\(?ABSTRACT TRUNCATED(?: AT \d+ WORDS)?\)?\.?\s*$")
COPYRIGHT = re.compile(
    r"(?<!\s)\s*+(?:(?:Copyright|©|\(c\))\s*+){1,3}\(?(?:19|20)\d\d[^.!?]{0,120}(?:\.[^.!?]{0,80}){0,3}\.?\s*$", re.I
)  # from the mark and the year to the end, no more than a line or two

TAIL = 250  # characters in which these are looked for


def without_boilerplate(text: str) -> str:
    """Cut a copyright line and a note that it was truncated from an abstract's last paragraph."""
    tail = text[-TAIL:]
    if "opyright" not in tail and "TRUNCATED" not in tail and "©" not in tail and "(c)" not in tail:
        return text
    return text[:-TAIL] + COPYRIGHT.sub("", TRUNCATED.sub("", tail))


_FORMATS = "DOCX?|PDF|TIFF?|XLSX?|PPTX?|CSV|TXT|ZIP|EPS|JPE?G|PNG|MP4|MOV|AVI|RAR|XML|RTF"
_NEUTRAL = "remains neutral with regard to jurisdictional claims in published maps and institutional affiliations"
_NOTICES = rf"""
Click here (?:for|to (?:view|access|download)) (?:the )?(?:additional |supplementary )?(?:data |material )?(?:files?|materials?|data)?
Electronic supplementary material
(?:Below is|Below are) the links? to the electronic supplementary material
The online version (?:of this article )?(?:\([^()]*\) )?contains supplementary material,? which is available to authorized users
The online version (?:of this article )?(?:\([^()]*\) )?contains supplementary material,? available at \S+
The Supplementary Materials? for this article can be found online at:? ?\S*
Supplementary (?:information|data|materials?) (?:accompan(?:ies|y) this paper|can be found|(?:is|are) available) (?:online )?at:? ?\S*
The following (?:is|are) available online at \S+
\((?:{_FORMATS})(?:,? [\d.,]+ ?[kKMG]i?[bB])?\)
Publisher.s note:? .{{0,40}} {_NEUTRAL}
Springer Nature {_NEUTRAL}
(?:The )?pre-publication history for this paper can be accessed here:? ?\S*
"""
NOTICES = re.compile("|".join(line for line in _NOTICES.split("\n") if line), re.I)
LONGEST_NOTICE = 300  # characters


def is_notice(block: str) -> bool:
    """Return whether a block is nothing but a publisher's notice or a pointer to a file."""
    if len(block) > LONGEST_NOTICE:
        return False
    return NOTICES.fullmatch(" ".join(block.split()).rstrip(" .")) is not None
