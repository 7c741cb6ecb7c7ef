"""docs/security.md: each claim names a test that is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_claim_has_a_test_and_every_test_is_there() -> None:
    rows = PAGE.partition("| claim | held by |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert len(rows) > 15
    for row in rows:
        claim, held_by = row.strip("| ").split(" | ")
        named = TEST.findall(held_by)
        assert named, claim
        assert TEST.sub("", held_by).strip(", ") == "", claim
        for file, name in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_the_policy_leads_to_the_page() -> None:
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "(docs/security.md)" in policy
    assert "Report a weakness privately" in policy
