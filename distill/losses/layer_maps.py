"""Map layers of the student to layers of the teacher; layers are counted from 1, and 0 is the embeddings' output."""

import re
from collections.abc import Sequence
from pathlib import Path

from biomlm.core.errors import ConfigError, MismatchError

CUSTOM = re.compile(r"\d+:\d+(,\d+:\d+)*")


def check_map(text: str, option: str, names: Sequence[str]) -> None:
    """Refuse a text that is neither one of the names of layer maps nor pairs of layers.

    Raises:
        ConfigError: The text is none.
    """
    if text not in names and not CUSTOM.fullmatch(text):
        raise ConfigError(
            f"{option} `{text}` is no layer map",
            remedy=f"Give {', '.join(f'`{name}`' for name in names)}, or pairs of student and teacher layers such as 1:2,2:4,3:6.",
        )


def layer_map(text: str, student: int, teacher: int, *, option: str, source: str | Path) -> list[tuple[int, int]]:
    """List the pairs of a student's and a teacher's layer, ascending.

    Args:
        text: `last`; `uniform`, student layer i with teacher layer i × teacher / student, rounded (TinyBERT, Jiao et al. 2020, arXiv
            1909.10351); or pairs such as `1:2,2:4`.
        student: Layers of the student.
        teacher: Layers of the teacher, not fewer.
        option: Where the text was given, for errors.
        source: The teacher's folder, for errors.

    Raises:
        MismatchError: A layer is missing.
    """
    if text == "last":
        return [(student, teacher)]
    if text == "uniform":
        return [(i, round(i * teacher / student)) for i in range(1, student + 1)]
    pairs = sorted((int(a), int(b)) for a, b in (pair.split(":") for pair in text.split(",")))
    for student_layer, teacher_layer in pairs:
        if student_layer > student or teacher_layer > teacher:
            raise MismatchError(
                f"{option} pairs the student's layer {student_layer} with the teacher's layer {teacher_layer}, "
                f"but the student has {student} layers and the teacher {teacher}",
                file=source,
                remedy="Name layers that both have.",
            )
    return pairs


def require_no_deeper(student: int, teacher: int, source: str | Path) -> None:
    """Refuse a student with more layers than its teacher.

    Raises:
        MismatchError: The student has more.
    """
    if student > teacher:
        raise MismatchError(
            f"the student has {student} layers, this teacher only {teacher}",
            file=source,
            remedy="Give the student fewer layers by --model.num_hidden_layers, or a deeper teacher.",
        )
