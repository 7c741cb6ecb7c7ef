"""Render the sections of the report: each function gives a part of the page, or None where there is nothing to show."""

import math
from typing import Any

import yaml

from biomlm.core.html.page import Child, Markup, join, table, tag
from biomlm.core.html.svg import COLOURS, Box, Level, Line, bar_chart, flow_chart, line_chart
from biomlm.core.manifest import NAME as MANIFEST
from biomlm.core.progress import clock, human
from biomlm.launch.reporting.run_folders import (
    Folder,
    ReportData,
    Run,
    by_source,
    columns,
    dropped,
    finite,
    largest,
    mapping,
    number,
    tokens,
    total,
)

NO_FIGURE = "–"
FEW = 4  # inputs that are listed by name
ASIDE = ("report", "convert fill")  # stages that look at models and make none


def pipeline(data: ReportData) -> Markup:
    """Draw the stages with their counts: as the launch recorded them, or as far as the folders show."""
    folders = {folder.path.name: folder for folder in data.folders}
    stages = data.launch.stages if data.launch else []
    records = [(r.name, r.reads, r.outputs, r.seconds) for r in stages if r.verb not in ASIDE]
    if not records:
        kinds = (data.corpora, data.tokenizers, data.shards, data.runs)
        order = [[folder.path.name for folder in kind] for kind in kinds if kind]
        earlier = [[], *order]
        records = [(n, reads, [n], math.nan) for names, reads in zip(order, earlier, strict=False) for n in names]
    names = [name for name, *_ in records]
    column = columns(names, {name: reads for name, reads, *_ in records})
    boxes = []
    for name, reads, outputs, seconds in records:
        folder = next((folders[o] for o in outputs if o in folders), None)
        check = next((data.conversions[o] for o in outputs if o in data.conversions), {})
        figures = [*_box_figures(folder, check), *([f"took {clock(seconds)}"] if math.isfinite(seconds) else [])]
        boxes.append(Box(name, figures, column[name], [names.index(r) for r in _nearest(reads, column)]))
    return tag("figure", flow_chart("the stages and their counts", boxes))


def _nearest(reads: list[str], column: dict[str, int]) -> list[str]:
    """Keep the latest of the stages that one reads from: the others lead to it through these."""
    drawn = [name for name in reads if name in column]
    latest = max((column[name] for name in drawn), default=0)
    return [name for name in drawn if column[name] == latest]


def _box_figures(folder: Folder | None, check: dict[str, Any]) -> list[str]:
    if isinstance(folder, Run):
        parameters, loss = finite(folder.result.get("parameters")), finite(folder.valid.get("loss"))
        return [f"{human(parameters)} parameters", f"loss {loss:.3f}"] if folder.result else ["not finished"]
    if check:
        kinds = f"{check.get('source_kind', '?')} → {check.get('target_kind', '?')}"
        return [kinds, f"differs {finite(check.get('max_difference_logits')):.1g}"]
    if folder is None:
        return []
    if folder.stage == "corpus build":
        return [f"{total(folder, 'records'):,} records", f"{total(folder, 'kept'):,} kept"]
    if folder.stage == "tokenizer encode":
        return [f"{human(n)} {'tokens' if split == 'train' else 'held out'}" for split, n in tokens(folder).items()]
    numbers = [(name, n) for name, n in folder.counts.items() if isinstance(n, int) and not isinstance(n, bool)]
    return [f"{human(n)} {name}" for name, n in sorted(numbers, key=lambda item: len(item[0]))[:2]]


def documents(data: ReportData) -> Markup | None:
    """Account for every record: kept or dropped, by source and by reason."""
    parts: list[Child] = []
    for corpus in data.corpora:
        records, kept, by_reason = total(corpus, "records"), total(corpus, "kept"), dropped(corpus)
        balance = f"{records:,} records = {kept:,} kept + {sum(by_reason.values()):,} dropped."
        sources = [(source, float(number(counts, "kept"))) for source, counts in by_source(corpus).items()]
        reasons = [(reason, float(n)) for reason, n in by_reason.items()]
        kept_chart = tag("figure", tag("h3", "Kept, by source"), bar_chart("documents kept by source", sources))
        dropped_chart = bar_chart("records dropped by reason", reasons, colour=1)
        parts += [
            tag("h3", corpus.name) if len(data.corpora) > 1 else None,
            tag("p", balance),
            tag("div", kept_chart, tag("figure", tag("h3", "Dropped, by reason"), dropped_chart), class_="pair"),
            _sources(corpus),
        ]
    return join(parts) if parts else None


def _sources(corpus: Folder) -> Markup:
    rows: list[list[Child]] = []
    for source, counts in by_source(corpus).items():
        for split, totals in mapping(counts.get("splits")).items():
            rows.append(
                [
                    source,
                    split,
                    *(_count(mapping(totals).get(n)) for n in ("documents", "words", "sentences", "sections")),
                ]
            )
    return table(("source", "split", "documents", "words", "sentences", "sections"), rows, text=2) if rows else join()


def losses(data: ReportData, log_x: bool) -> Markup | None:
    """Plot all losses, with the entropy of a unigram model beside them."""
    if not data.runs:
        return None
    lines = []
    for i, model in enumerate(data.runs):
        lines.append(Line(model.name, model.curve("train", "mlm", "loss"), i, faint=True))
        lines.append(Line(model.name, model.curve("valid", "loss"), i))
    entropy = next((e for m in data.runs if math.isfinite(e := finite(m.result.get("unigram_entropy")))), math.nan)
    chart = line_chart(
        "masked-LM loss by tokens read",
        lines,
        x_label="tokens read",
        y_label="nats",
        levels=[Level("unigram entropy of the held-out text", entropy)],
        log_x=log_x,
    )
    caption = "Cross-entropy at masked positions: thin lines in training, thick ones on held-out text."
    caption += " A model below the dashed line has learnt more than how frequent each token is."
    if any(model.stage == "distill" for model in data.runs):
        caption += " Of a distilled model's training loss, the masked-LM part is shown."
    return tag("figure", chart, tag("figcaption", caption))


def models(data: ReportData) -> Markup | None:
    """Tabulate the runs, one row each."""
    if not data.runs:
        return None
    heads = (
        "model",
        "made by",
        "parameters",
        "tokens read",
        "held-out loss",
        "perplexity",
        "masked accuracy",
        "below unigrams",
        "time",
    )
    rows: list[list[Child]] = []
    for i, model in enumerate(data.runs):
        loss, entropy = finite(model.valid.get("loss")), finite(model.result.get("unigram_entropy"))
        name = join(tag("span", class_=f"key s{i % COLOURS}"), model.name)
        seconds = finite(model.result.get("seconds"))
        cells = [
            _count(model.result.get("parameters")),
            _count(model.result.get("tokens")),
            _decimal(loss),
            f"{math.exp(loss):,.1f}" if loss < 700 else NO_FIGURE,
            percent(model.valid.get("accuracy")),
            _decimal(entropy - loss),
            clock(seconds) if math.isfinite(seconds) else NO_FIGURE,
        ]
        rows.append([name, model.stage, *cells])
    masked = {_count(model.valid.get("masked_tokens")) for model in data.runs if model.valid}
    note = "Losses in nats, on the same held-out tokens and masks for every model" + (
        f" ({masked.pop()} masked tokens)." if len(masked) == 1 else "."
    )
    return join(table(heads, rows, text=2), tag("p", note, class_="note"))


def speed(data: ReportData) -> Markup | None:
    """Plot learning rate and tokens per second of every run."""
    if not any(model.metrics for model in data.runs):
        return None

    def chart(title: str, key: str, unit: str) -> Markup:
        lines = [Line(m.name, _thin_out(m.curve("train", key)), i) for i, m in enumerate(data.runs)]
        drawn = line_chart(title, lines, x_label="tokens read", y_label=unit, zero=True, width=460, height=250)
        return tag("figure", tag("h3", title), drawn)

    rate, speed = chart("Learning rate", "learning_rate", ""), chart("Speed", "tokens_per_second", "real tokens/s")
    return tag("div", rate, speed, class_="pair")


def _thin_out(points: list[tuple[float, float]], most: int = 60) -> list[tuple[float, float]]:
    """Keep about `most` of the points at most, the last one among them."""
    every = max(len(points) // most, 1)
    return points[::-every][::-1]


def conversions(data: ReportData) -> Markup | None:
    """Tabulate the numerical check of every converted model."""
    rows: list[list[Child]] = []
    for name, check in data.conversions.items():
        logits, tolerance = finite(check.get("max_difference_logits")), finite(check.get("tolerance"))
        within = logits <= tolerance
        verdict = tag("span", "equal" if within else "differs", class_="good" if within else "bad")
        kinds = f"{check.get('source_kind', '?')} → {check.get('target_kind', '?')}"
        figures = [_scientific(v) for v in (logits, largest(check.get("max_difference_hidden")), tolerance)]
        agreement = mapping(check.get("tokenizer_agreement"))
        equal_of = f"{_count(agreement.get('equal'))} of {_count(agreement.get('sentences'))}"
        rows.append([name, kinds, verdict, *figures, _count(check.get("texts")), equal_of])
    heads = (
        "model",
        "conversion",
        "check",
        "logits differ by",
        "hidden states by",
        "tolerance",
        "texts",
        "tokenizers agree on",
    )
    note = "Source and target are run on the same texts, each from its own files; the largest absolute difference is shown."
    return join(table(heads, rows, text=3), tag("p", note, class_="note")) if rows else None


def fills(data: ReportData) -> Markup | None:
    """List the given sentences and the models' words for their masks."""
    parts = []
    for name, fill in data.fills.items():
        entries = [mapping(entry) for entry in fill.get("sentences", [])]
        rows: list[list[Child]] = [[_sentence(str(e.get("text", ""))), _guesses(e.get("fills", []))] for e in entries]
        if rows:
            model = str(fill.get("model", name)).rstrip("/").rpartition("/")[2]
            parts += [tag("h3", model), table(("sentence", "the model's best words"), rows, text=2)]
    return join(parts) if parts else None


def _sentence(text: str) -> Markup:
    before, mask, after = text.partition("<mask>")
    return join(before, tag("mark", mask) if mask else None, after)


def _guesses(guesses: list[Any]) -> Markup:
    words = [
        join(tag("mark", str(mapping(g).get("token", "?")).strip()), f" {percent(mapping(g).get('probability'))}")
        for g in guesses
    ]
    return join([join(", " if i else None, word) for i, word in enumerate(words)])


def configurations(data: ReportData) -> Markup | None:
    """Show every stage's configuration, folded."""
    parts = []
    for folder in data.folders:
        config = yaml.safe_dump(mapping(folder.manifest.get("config")), sort_keys=False, allow_unicode=True)
        parts.append(tag("details", tag("summary", folder.name, tag("span", f" · {folder.stage}")), tag("pre", config)))
    return join(parts) if parts else None


def provenance(data: ReportData) -> Markup | None:
    """Tabulate what each folder was made from, by hashes."""
    rows: list[list[Child]] = []
    for folder in data.folders:
        names = list(mapping(folder.manifest.get("inputs")))
        inputs = (", ".join(names) or NO_FIGURE) if len(names) <= FEW else f"{len(names)} files"
        hashes = [tag("code", digits[:16]) for digits in (folder.config_hash, folder.fingerprint)]
        rows.append([folder.name, folder.stage, str(folder.manifest.get("status", "?")), inputs, *hashes])
    heads = ("folder", "stage", "status", "read from", "configuration", "fingerprint")
    note = f"The first 16 digits of SHA-256; the whole ones stand in each folder's {MANIFEST}."
    return join(table(heads, rows, text=6), tag("p", note, class_="note")) if rows else None


def _count(value: object) -> str:
    return f"{finite(value):,.0f}" if math.isfinite(finite(value)) else NO_FIGURE


def _scientific(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}" if math.isfinite(value) else NO_FIGURE


def _decimal(value: object) -> str:
    return f"{finite(value):.3f}" if math.isfinite(finite(value)) else NO_FIGURE


def percent(value: object) -> str:
    """Format a share: 0.314 → `31.4%`."""
    return f"{finite(value):.1%}" if math.isfinite(finite(value)) else NO_FIGURE
