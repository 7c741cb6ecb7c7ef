"""Apply or refuse each statement that a Hugging Face folder without `tokenizer.json` makes beside its vocabulary.

transformers builds the tokenizer from `tokenizer_config.json` and `added_tokens.json` then. Its classes of earlier versions, in Python,
read more (`never_split`, `do_basic_tokenize`, lower case in any class); those that today's pass over are refused, as the two would differ.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from biomlm.core.errors import DataError
from biomlm.core.files import read_json
from biomlm.tokenizer.formats import bert, bytelevel
from biomlm.tokenizer.formats.fairseq import REMEDY

CONFIG = "tokenizer_config.json"
ADDED = "added_tokens.json"
BERTS = ("Bert", "DistilBert", "Electra", "MobileBert", "Layoutlm", "LayoutLM", "ConvBert", "SqueezeBert")
BYTE_LEVELS = ("Roberta", "GPT2", "Bart", "Longformer", "LED")
PROGRAMS = (
    "BertJapaneseTokenizer",
    "PhobertTokenizer",
    "BertweetTokenizer",
)  # cut text before any vocabulary is looked into
SPECIALS = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
INERT = {"never_split": (None, []), "do_basic_tokenize": (None, True), "wordpieces_prefix": (None, bert.INSIDE)}


def check_programs(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a tokenizer that is a program of its own, or one that cuts text before it looks into its vocabulary.

    Raises:
        DataError: It is such a one.
    """
    name = settings.get("tokenizer_class")
    if name in PROGRAMS or settings.get("auto_map"):
        statement = f"tokenizer_class {name}" if name in PROGRAMS else "auto_map, a program of the model's own"
        raise _refused(folder, statement, "Such a tokenizer cannot be read; give the folder of another one.")
    for key, accepted in INERT.items():
        if settings.get(key) not in accepted:
            raise _refused(
                folder,
                f"{key} {settings[key]!r}",
                f"Only {accepted[-1]!r} can be read: remove it, if it does not apply.",
            )


def wordpiece(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options of `bert.hugging_face` that a folder with `vocab.txt` states.

    Raises:
        DataError: One cannot be applied.
    """
    _check_class(folder, settings, BERTS)
    for role, name in SPECIALS.items():
        if settings.get(role, name) != name:
            raise _refused(
                folder, f"{role} {settings[role]!r}", f"With vocab.txt alone it is {name}: give tokenizer.json."
            )
    return {
        "lowercase": _flag(folder, settings, "do_lower_case"),
        "strip_accents": None if settings.get("strip_accents") is None else _flag(folder, settings, "strip_accents"),
        "tokenize_chinese_chars": _flag(folder, {"tokenize_chinese_chars": True, **settings}, "tokenize_chinese_chars"),
    }


def byte_level(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options of `bytelevel.hugging_face` that a folder with `vocab.json` and `merges.txt` states.

    Raises:
        DataError: One cannot be applied.
    """
    _check_class(folder, settings, BYTE_LEVELS)
    if settings.get("do_lower_case"):
        raise _refused(folder, "do_lower_case", "Byte-level BPE is cased: remove it, if it does not apply.")
    return {"add_prefix_space": _flag(folder, {"add_prefix_space": False, **settings}, "add_prefix_space")}


def _flag(folder: Path, settings: Mapping[str, Any], key: str) -> bool:
    value = settings[key]
    if not isinstance(value, bool):
        raise _refused(folder, f"{key} {value!r}", "It is true or false.")
    return value


def _check_class(folder: Path, settings: Mapping[str, Any], accepted: tuple[str, ...]) -> None:
    name = settings.get("tokenizer_class")
    if name is not None and str(name).removesuffix("Fast").removesuffix("Tokenizer") not in accepted:
        raise _refused(
            folder, f"tokenizer_class {name}", "Give the folder's tokenizer.json, which says what that class does."
        )


def _refused(folder: Path, statement: str, remedy: str) -> DataError:
    return DataError(f"its {CONFIG} states {statement}", file=folder, remedy=remedy)


def add_tokens(folder: Path, hf: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Add what `added_tokens.json` and `added_tokens_decoder` list, in order of their ids.

    Raises:
        DataError: A token has another id than it is said to have.
    """
    special = {bytelevel.MASK, *bytelevel.SPECIALS, *bert.SPECIALS}
    listed = {content: (i, AddedToken(content, normalized=False)) for content, i in _added(folder).items()}
    decoder = settings.get("added_tokens_decoder")
    for i, token in (decoder if isinstance(decoder, dict) else {}).items():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and str(i).isdecimal():
            options = {k: bool(token.get(k)) for k in ("lstrip", "rstrip", "single_word", "normalized", "special")}
            listed[token["content"]] = (int(i), AddedToken(token["content"], **options))
    for content, (_, token) in sorted(listed.items(), key=lambda item: item[1][0]):
        if content not in special:
            (hf.add_special_tokens if token.special else hf.add_tokens)([token])
    check_added(folder, hf)


def _added(folder: Path) -> dict[str, int]:
    file = folder / ADDED
    token_ids = read_json(file, remedy=REMEDY) if file.exists() else {}
    if not all(isinstance(i, int) for i in token_ids.values()):
        raise DataError("it maps tokens to their ids", file=file, remedy=REMEDY)
    return token_ids  # type: ignore[return-value]


def check_added(folder: Path, hf: Tokenizer) -> None:
    """Refuse a folder whose `added_tokens.json` has other ids than its tokenizer.

    Raises:
        DataError: A token is missing there or has another id.
    """
    for content, i in _added(folder).items():
        if hf.token_to_id(content) != i:
            problem = f"it has {content!r} as id {i}, the folder's tokenizer as {hf.token_to_id(content)}"
            raise DataError(problem, file=folder / ADDED, remedy=REMEDY)
