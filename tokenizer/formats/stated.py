"""Read what a tokenizer folder states of its special tokens, and apply or refuse each statement that a Hugging Face folder without
`tokenizer.json` makes beside its vocabulary.

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
ROLES = {
    "bos": ("cls_token", "bos_token", ("<s>", "[CLS]")),
    "pad": ("pad_token", "pad_token", ("<pad>", "[PAD]")),
    "eos": ("sep_token", "eos_token", ("</s>", "[SEP]")),
    "unk": ("unk_token", "unk_token", ("<unk>", "[UNK]")),
    "mask": ("mask_token", "mask_token", ("<mask>", "[MASK]")),
}


def read(folder: Path) -> dict[str, Any]:
    """Read what `tokenizer_config.json` and `special_tokens_map.json` state; special tokens by their bare names."""
    statements: list[dict[str, Any]] = []
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        raw = read_json(folder / name, remedy=REMEDY) if (folder / name).exists() else {}
        tokens = {role for pair in ROLES.values() for role in pair[:2]} & raw.keys()
        statements.append({**raw, **{role: _name(folder / name, raw[role]) for role in tokens}})
    in_map, config = statements
    for role in in_map.keys() & config.keys():
        if in_map[role] != config[role]:
            problem = f"special_tokens_map.json has {role} {in_map[role]}, tokenizer_config.json {config[role]}"
            raise DataError(problem, file=folder, remedy=REMEDY)
    return in_map | config


def _name(file: Path, token: object) -> str | None:
    """Give the name of a special token, which is stated as a string or as an object that holds it."""
    name = token.get("content") if isinstance(token, dict) else token
    if name is not None and not isinstance(name, str):
        raise DataError("a special token is a name or an object with its `content`", file=file, remedy=REMEDY)
    return name


def special_ids(folder: Path, hf: Tokenizer, settings: Mapping[str, Any]) -> dict[str, int]:
    """Find the special tokens by their stated names, or else by their usual ones: role → id."""
    ids_by_role: dict[str, int] = {}
    for role, (name, other, usual) in ROLES.items():
        stated_name = settings.get(name) or settings.get(other)
        names = (stated_name,) if stated_name else usual
        ids = [i for i in (hf.token_to_id(n) for n in names) if i is not None]
        if not ids:
            shown = " or ".join(names)
            problem = f"tokenizer_config.json wants the {role} token {shown}, and the vocabulary has none"
            raise DataError(problem, file=folder, remedy=REMEDY)
        ids_by_role[role] = ids[0]
    file, added = folder / "tokenizer_config.json", settings.get("added_tokens_decoder") or {}
    if not isinstance(added, dict):
        raise DataError("added_tokens_decoder maps ids to tokens", file=file, remedy=REMEDY)
    for i, token in added.items():
        content = _name(file, token) or ""
        if str(hf.token_to_id(content)) != i:
            problem = f"tokenizer_config.json has {content} as id {i}, tokenizer.json as {hf.token_to_id(content)}"
            raise DataError(problem, file=folder, remedy=REMEDY)
    return ids_by_role


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
