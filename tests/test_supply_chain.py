"""What `make setup` installs: each package in one version whose files are known by their hashes, none that is known to be unsafe."""

import json
import re
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "constraints.txt").read_text(encoding="utf-8")
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8").partition("install_requires=")[2]
PINNED = {name: Version(version) for name, version in re.findall(r"^([\w.-]+)==([^ ;]+)", LOCK, re.MULTILINE)}
# The first release without what is known against those before it.
SAFE_FROM = {
    "torch": "2.10",  # CVE-2025-32434, GHSA-63cw-57p8-fm3p: torch.load ran code although told to read weights only
    "transformers": "5.5",  # CVE-2024-11392 to 11394, CVE-2025-14920 to 14930: pickles; CVE-2026-4372 and 5241: a model's own code
    "orjson": "3.11.6",  # CVE-2025-67221: no bound of nesting
    "sentencepiece": "0.2.2",  # CVE-2026-1260, google/sentencepiece issues 1263, 1269: a model file reads beyond its memory
    "protobuf": "6.33.5",  # CVE-2025-4565, CVE-2026-0994: no bound of nesting
    "lxml": "6.1",  # CVE-2026-41066: files named by entities; before 6.0.1 a libxml2 with CVE-2025-49794 to 49796
    "PyYAML": "5.4",  # CVE-2020-14343: a document ran code
    "ray": "2.54",  # CVE-2025-62593, CVE-2026-27482: a web page ran code
    "deepspeed": "0.15.1",  # CVE-2024-43497: code was run
    "virtualenv": "20.36.1",  # CVE-2024-53899, CVE-2026-22702
}


def requirements() -> dict[str, Requirement]:
    """All that setup.py asks for, extras too."""
    lines = re.findall(r'^ +"?(?:.*\[)?"([A-Za-z][\w-]*(?:\[\w+\])?(?:>=[\w.]+)?)"[,\]]', SETUP, re.MULTILINE)
    return {Requirement(line).name: Requirement(line) for line in lines}


def installed(name: str, extras: frozenset[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """Walk over the packages here that an installed one needs."""
    for extra in extras or {""}:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in metadata.requires(name) or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                try:
                    metadata.version(need.name)
                except metadata.PackageNotFoundError:  # DeepSpeed, where it cannot be installed
                    continue
                yield canonicalize_name(need.name)
                yield from installed(need.name, frozenset(need.extras), seen)


def test_every_package_here_is_pinned_at_its_version() -> None:
    names = set(installed("biomlm", frozenset({"", "dev", "deepspeed"}), set()))
    assert len(names) > 60
    wrong = {name for name in names if Version(metadata.version(name)).public != PINNED[name].public}
    assert not wrong


def test_every_pin_has_hashes_and_nothing_else_stands_there() -> None:
    lines = [line.removesuffix(" \\") for line in LOCK.splitlines() if not line.startswith("#")]
    pins = [i for i, line in enumerate(lines) if re.fullmatch(r"[a-z0-9-]+==[^ ;]+( ; .+)?", line)]
    hashes = [i for i, line in enumerate(lines) if re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}", line)]
    assert sorted(pins + hashes) == list(range(len(lines)))
    assert {i + 1 for i in pins} <= set(hashes)


def test_no_release_with_known_faults_may_be_installed() -> None:
    asked = requirements()
    assert {"torch", "ray", "pytest", "lxml-stubs"} <= asked.keys()
    for name, first in SAFE_FROM.items():
        floor = next(Version(s.version) for s in asked[name].specifier)
        assert floor >= Version(first), name
        assert PINNED.get(canonicalize_name(name), floor) >= floor


@pytest.mark.parametrize(
    "name", ["tools/install.sh", "tools/lock.sh", "launch/fairseq_env.sh", "docs/install.md", "Makefile"]
)
def test_no_second_index_is_asked(name: str) -> None:
    assert "--extra-index-url" not in (ROOT / name).read_text(encoding="utf-8")


def test_all_is_installed_by_hash() -> None:
    script = (ROOT / "tools" / "install.sh").read_text(encoding="utf-8")
    installs = [line for line in script.splitlines() if "$pip install" in line]
    volta = [
        line for line in installs if '"torch==$torch+cu126"' in line
    ]  # of whose build constraints.txt has no hash: it is said
    assert len(volta) == 2
    assert "of which constraints.txt has no hash" in script
    installs = [line for line in installs if line not in volta]
    free = [line for line in installs if "--require-hashes" not in line]
    assert all("--no-deps" in line for line in installs)
    assert len(installs) - len(free) == 1
    assert all('"torch==$torch+cpu"' in line or "--editable ." in line for line in free)


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "mdurl-0.1.2-py3-none-any.whl"
    about = "Metadata-Version: 2.1\nName: mdurl\nVersion: 0.1.2\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mdurl.py", "print('a stranger')\n")
        archive.writestr("mdurl-0.1.2.dist-info/METADATA", about)
        archive.writestr(
            "mdurl-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("mdurl-0.1.2.dist-info/RECORD", "")
    block = re.search(r"^mdurl==.*\n(?:    --hash.*\n)+", LOCK, re.MULTILINE)
    assert block is not None
    (tmp_path / "locked.txt").write_text(block[0].rstrip().removesuffix("\\") + "\n")
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--isolated",
        "--no-index",
        "--find-links",
        str(tmp_path),
        "--no-deps",
    ]
    words += ["--target", str(tmp_path / "there"), "--require-hashes", "-r", str(tmp_path / "locked.txt")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "there" / "mdurl.py").exists()


def test_the_bill_of_materials_lists_every_package_and_hash(tmp_path: Path) -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "supply_chain.py"))
    bill: dict[str, Any] = json.loads(json.dumps(tool["bill"](LOCK)))
    assert {(c["name"], Version(c["version"])) for c in bill["components"]} >= set(PINNED.items())
    hashes = [h["content"] for c in bill["components"] for f in c["externalReferences"] for h in f["hashes"]]
    assert hashes == re.findall(r"sha256:(\w{64})", LOCK)
    licences = {c["name"]: [stated["license"]["name"] for stated in c["licenses"]] for c in bill["components"]}
    assert licences["orjson"] == ["MPL-2.0 AND (Apache-2.0 OR MIT)"]


def test_the_licence_of_everything_we_ask_for_is_written_down() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for name in requirements():
        assert re.search(rf"\b{re.escape(name)}\b", page, re.IGNORECASE), name
    rows = dict(re.findall(r"^\| ([\w-]+) \| (.*?) \|", page, re.MULTILINE))
    stated = {name: metadata.metadata(name).get("License-Expression") for name in rows.keys() - {"package"}}
    assert {"orjson": "MPL-2.0 AND (Apache-2.0 OR MIT)"}.items() <= stated.items()
    assert {name: rows[name] for name, licence in stated.items() if licence not in (None, rows[name])} == {}
