"""`biomlm report RUN…`: one self-contained HTML page that shows what went in, what came out and how well.

It holds figures and configurations, and no text of any document; the only sentences in it are those that `convert fill` was given.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from biomlm.core.files import matching, refuse_target, write_text
from biomlm.core.html.page import Markup, document, join, tag
from biomlm.core.progress import clock, human
from biomlm.core.summary import summary
from biomlm.launch.reporting import sections, worth
from biomlm.launch.reporting.run_folders import ReportData, collect, tokens, total


@dataclass(frozen=True)
class ReportConfig:
    """Write a report.

    Args:
        runs: Run folders, or folders of stage folders such as a launch's output folder.
        out: The HTML file.
        title: The page's title.
        log_x: Draw losses over a logarithmic count of tokens.
    """

    runs: list[str]
    out: str = field(default="report.html", metadata={"runtime": True})
    title: str = "biomlm report"
    log_x: bool = False


def run(config: ReportConfig) -> None:
    """Write the page and summarize what is on it."""
    refuse_target(config.out, config.runs, option="--out", ours=matching(r"<footer>Made by \w+ report, "), inside=True)
    data = collect(config.runs)
    page = render(data, config.title, log_x=config.log_x)
    write_text(config.out, page)
    rows: dict[str, object] = {
        "folders": len(data.folders),
        "models": ", ".join(model.name for model in data.runs) or "none",
        "conversions": ", ".join(data.conversions) or "none",
        "bytes": len(page.encode()),
    }
    summary(f"report → {config.out}", rows | {f"missing {i}": line for i, line in enumerate(data.missing, 1)})


def render(data: ReportData, title: str, *, log_x: bool = False) -> str:
    """Render the page.

    Args:
        data: From `collect`.
        title: Its title.
        log_x: Draw losses over a logarithmic count of tokens.
    """
    description = data.launch.description if data.launch else ""
    time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    content = [
        ("What the training was worth", worth.section(data)),
        ("Pipeline", sections.pipeline(data)),
        ("Documents", sections.documents(data)),
        ("Loss", sections.losses(data, log_x)),
        ("Models", sections.models(data)),
        ("Learning rate and speed", sections.speed(data)),
        ("Conversions", sections.conversions(data)),
        ("Filled-in masks", sections.fills(data)),
        ("Configurations", sections.configurations(data)),
        ("Provenance", sections.provenance(data)),
    ]
    body = join(
        tag("header", tag("h1", title), tag("p", description, class_="lead") if description else None),
        tag("div", [_headline(name, figure) for name, figure in _headlines(data)], class_="headline"),
        [tag("p", f"Missing: {line}", class_="missing") for line in data.missing],
        [tag("section", tag("h2", name), section) for name, section in content if section],
        tag("footer", f"Made by biomlm report, {time}. No text of any document is on this page."),
    )
    return document(title, body)


def _headline(name: str, figure: str) -> Markup:
    return tag("div", tag("b", figure), tag("span", name), class_="figure")


def _headlines(data: ReportData) -> Iterator[tuple[str, str]]:
    """Yield the figures on top of the page, name and value."""
    kept = sum(total(corpus, "kept") for corpus in data.corpora)
    if kept:
        yield "documents", f"{kept:,}"
    if data.shards:
        yield "training tokens", human(sum(tokens(s).get("train", 0) for s in data.shards))
    for model in data.runs[:3]:
        if model.valid:
            yield f"{model.name}: masked accuracy", sections.percent(model.valid.get("accuracy"))
    if data.launch:
        yield "wall time of all stages", clock(sum(record.seconds for record in data.launch.stages))
