"""Run the shipped recipes at smoke scale, and make the table of docs/recipes.md.

    python tools/recipes.py [--run all | --run NAME…] [--write]

A run's processor time and held-out loss are kept in docs/recipes.json; all else in the table comes from the recipes. Without --run
nothing is run; without --write the table is only printed.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from biomlm.core.fleet import find
from biomlm.core.processes.children import biomlm_command
from biomlm.core.progress import clock
from biomlm.launch.commands import plan
from biomlm.launch.recipe import Recipe, read
from biomlm.launch.resolve import shipped

ROOT = Path(__file__).resolve().parents[1]
PAGE, MEASURED = ROOT / "docs" / "recipes.md", ROOT / "docs" / "recipes.json"
BEGIN, END = "<!-- made by tools/recipes.py -->\n", "<!-- end -->\n"
COLUMNS = (
    "recipe",
    "published",
    "stands in",
    "smoke: processor time, held-out loss",
    "GPU-hours: plan, published",
    "expected",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
DASH = "–"


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for and make the table; the exit code is the number of recipes that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs="+", default=[], metavar="NAME", help="recipes to run at smoke scale, or `all`")
    parser.add_argument("--write", action="store_true", help="put the table into docs/recipes.md")
    parser.add_argument("--out", default="runs/recipes", help="folder of the runs")
    args = parser.parse_args(argv)
    measured: dict[str, Any] = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    failed = []
    for name in shipped() if args.run == ["all"] else args.run:
        figures = run(name, Path(args.out) / name)
        failed += [name] if figures is None else []
        measured |= {} if figures is None else {name: figures}
    measured = {name: measured[name] for name in shipped() if name in measured}
    print(table(measured))
    for name in failed:
        print(f"failed: {name}; the same command goes on where it was", file=sys.stderr)
    if args.write:
        MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(measured)), encoding="utf-8")
    return len(failed)


def run(name: str, out: Path) -> dict[str, Any] | None:
    """Run one recipe at smoke scale; seconds of processor time and held-out loss, or None if it failed.

    Processor time hardly depends on what else the machine does. Of a run that goes on with an earlier one it is not known.
    """
    print(f"== {name}", file=sys.stderr, flush=True)
    is_new, before = not (out / "launch.json").exists(), children_seconds()
    words = ["launch", name, "--scale", "smoke", "--out", str(out)]
    done = subprocess.run(biomlm_command(*words), stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        return None
    trained = [s.outputs[0] for s in read(name, str(out), "smoke").stages if s.verb in ("pretrain", "distill")]
    losses = [json.loads((folder / "result.json").read_text())["valid"]["loss"] for folder in trained]
    return {
        "seconds": round(children_seconds() - before) if is_new else None,
        "loss": round(losses[-1], 3) if losses else None,
    }


def children_seconds() -> float:
    """Processor time of all processes that this one has started and waited for, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def table(measured: dict[str, Any]) -> str:
    """The table, a row for each shipped recipe."""
    return HEAD + "".join(row(read(name, "o"), measured.get(name, {})) for name in shipped())


def row(recipe: Recipe, figures: dict[str, Any]) -> str:
    """One recipe's row."""
    about = recipe.published
    seconds = clock(figures["seconds"]) if figures.get("seconds") else DASH
    smoke = f"{seconds}, {figures['loss'] or DASH}" if figures else "not run"
    cells = [
        f"`{recipe.name}`" + (f" {about['model']}" if "model" in about else ""),
        about.get("stated", DASH),
        about.get("ours", DASH),
        smoke,
        f"{planned(recipe)}, {about.get('gpu_hours', DASH)}" if about else DASH,
        about.get("score", DASH),
    ]
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "/") for cell in cells) + " |\n"


def planned(recipe: Recipe) -> str:
    """GPU-hours of all stages on the fleet that the recipe names, as `launch plan --fleet` gives them."""
    if "fleet" not in recipe.published:
        return DASH
    fleet = find(recipe.published["fleet"])
    recipe = read(recipe.name, "o", fleet=fleet)
    rows = [rows for _, rows in plan.estimates(recipe, plan.check(recipe), fleet, plan.PlanConfig.vocab_size)]
    if any("no estimate" in each for each in rows):
        return f"not known without its start model ({fleet.name})"
    return f"{sum(int(str(each['GPU-hours'])) for each in rows if 'GPU-hours' in each):,} ({fleet.name})"


def with_table(page: str, text: str) -> str:
    """The page with the table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    assert rest, f"{PAGE} has no line {BEGIN.strip()}"
    return before + BEGIN + text + END + rest.partition(END)[2]


if __name__ == "__main__":
    sys.exit(main())
