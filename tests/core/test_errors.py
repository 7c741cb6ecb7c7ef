"""Faults are told by frames and kinds; Python's own printing of the same exceptions is the other side, which shows the value."""

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import orjson
import pytest

from biomlm.core import errors

CANARY = "ZEBRACANARY77"


def fail(text: str) -> int:
    return int(text)


def chained(text: str) -> None:
    try:
        fail(text)
    except ValueError as error:
        raise RuntimeError("the sum is odd") from error


@pytest.mark.parametrize("raised", [fail, chained, orjson.loads, {}.__getitem__, lambda text: fail(**{text: text})])
def test_no_value_is_told(raised: Callable[[str], object]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, RuntimeError)) as caught:
        raised(CANARY)
    assert CANARY in "".join(traceback.format_exception(caught.value)) or raised is orjson.loads
    told = errors.told(caught.value)
    assert CANARY not in told
    assert "test_errors.py" in told
    assert ("RuntimeError: the sum is odd" in told) == (raised is chained)


def test_no_value_of_a_worker_is_told() -> None:
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        error = pool.submit(fail, CANARY).exception()
    assert error is not None
    assert CANARY in "".join(traceback.format_exception(error))
    told = errors.told(error)
    assert CANARY not in told
    assert "in fail" in told


def test_a_name_that_is_text_is_not_told() -> None:
    assert "a.csv" in errors.told(FileNotFoundError(2, "No such file", "a.csv"))
    assert CANARY not in errors.told(OSError(36, "File name too long", CANARY * 99))
    assert CANARY not in errors.told(OSError(CANARY))


def test_threads_are_told_likewise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.excepthook", None)
    monkeypatch.setattr("threading.excepthook", None)
    errors.install()
    thread = threading.Thread(target=fail, args=(CANARY,))
    thread.start()
    thread.join()
    said = capsys.readouterr().err
    assert "in fail" in said
    assert CANARY not in said


def test_a_parser_is_told_by_its_kind_and_place() -> None:
    assert errors.kind(ValueError(f"unknown variant `{CANARY}` at line 3 column 7")) == "ValueError at line 3 column 7"
    assert errors.kind(KeyError(CANARY)) == "KeyError"


def test_a_message_has_two_lines_whatever_a_file_is_called() -> None:
    error = errors.ConfigError(
        "there is no `a\tb`", file="odd\nname\x1b[31m.yaml", record="line 3", remedy="Rename it."
    )
    assert str(error) == "odd\\nname\\x1b[31m.yaml (line 3): there is no `a\\tb`.\nRename it."
    assert "müßig – ok" in str(errors.ConfigError("müßig – ok", remedy="None."))
    assert "\\udcff" in str(errors.ConfigError("x", file="\udcff.txt", remedy="None."))


@pytest.mark.parametrize(
    "name", ["roberta-base", "emilyalsentzer/Bio_ClinicalBERT", "microsoft/BiomedNLP-PubMedBERT-base-v1.1"]
)
def test_a_name_of_the_hub_is_told_how_it_is_carried_over(name: str) -> None:
    problem, remedy = str(errors.no_model(name)).splitlines()
    assert problem == f"{name}: there is no such file or folder, and nothing is downloaded."
    assert f"`hf download {name} --local-dir {name.rsplit('/', maxsplit=1)[-1]}`" in remedy


@pytest.mark.parametrize(
    "path", ["/models/roberta", "../roberta", "./roberta", "a/b/c", "model.pt", "m/checkpoint_best.pt", "a b"]
)
def test_what_is_a_path_is_no_name_of_the_hub(path: str) -> None:
    assert str(errors.no_model(path)).endswith("Check the path.")
