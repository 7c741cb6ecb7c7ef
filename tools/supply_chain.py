"""Write what `make setup` installs as a CycloneDX list, and ask the package index for known faults of it: tools/supply_chain.py FOLDER."""

import json
import re
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "constraints.txt"
PACKAGE = re.compile(r"^([a-z0-9-]+)==([^ ;]+)(.*(?:\n    --hash=\S+.*)*)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
AUDITOR = "pip-audit==2.10.1"
PATIENCE = 300  # seconds


def packages(lock: str) -> list[tuple[str, str, list[str]]]:
    """Return name, version and SHA-256 of every file of each package; a name may stand twice, for two versions of Python."""
    return [(name, version, HASH.findall(rest)) for name, version, rest in PACKAGE.findall(lock)]


def licence(name: str) -> str:
    """Return the licence that an installed package states; empty if it is not installed or states none."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    classes = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    stated = about.get("License-Expression") or " AND ".join(classes) or about.get("License") or ""
    return stated.splitlines()[0] if stated else ""


def bill(lock: str) -> dict[str, Any]:
    """Return the software bill of materials, as CycloneDX 1.5 has it (cyclonedx.org/docs/1.5/json)."""
    components = []
    for name, version, hashes in packages(lock):
        purl = f"pkg:pypi/{name}@{version}"
        files = {"type": "distribution", "url": purl, "hashes": [{"alg": "SHA-256", "content": h} for h in hashes]}
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        stated = [{"license": {"name": licence(name)}}] if licence(name) else []
        components.append({**component, "licenses": stated, "externalReferences": [files]})
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}


def audit(folder: Path) -> int:
    """Ask pip-audit, from an environment of its own, about every locked package; 1 if a fault of one is known."""
    tool = folder / "audit" / "bin" / "pip-audit"
    if not tool.exists():
        venv.create(folder / "audit", with_pip=True)
        if _output([tool.with_name("python"), "-m", "pip", "install", AUDITOR]) is None or not tool.exists():
            print("not audited: pip-audit cannot be installed here")
            return 0
    words = [tool, "--disable-pip", "--require-hashes", "--requirement", LOCK, "--format", "json"]
    answer = _output([*words, "--progress-spinner", "off"])
    if not answer:
        print("not audited: the package index does not answer")
        return 0
    audited = json.loads(answer)["dependencies"]
    unknown = [package["name"] for package in audited if "skip_reason" in package]
    faults = [f"{p['name']} {p['version']}: {fault['id']}" for p in audited for fault in p.get("vulns", ())]
    if len(unknown) == len(audited):
        print("not audited: the package index knows nothing of faults")
        return 0
    print(f"audited {len(audited) - len(unknown)} of {len(audited)} packages: {', '.join(faults) or 'no known fault'}")
    return int(bool(faults))


def _output(words: list[str | Path]) -> str | None:
    """Run a program for as long as an index may take; None if that is not enough."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE).stdout.strip()
    except subprocess.TimeoutExpired:
        return None


def main(folder: Path) -> int:
    """Write `sbom.cdx.json` and audit; the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sbom.cdx.json"
    file.write_text(json.dumps(bill(LOCK.read_text(encoding="utf-8")), indent=1) + "\n", encoding="utf-8")
    print(f"{file}: {len(packages(LOCK.read_text(encoding='utf-8')))} packages")
    return audit(folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
