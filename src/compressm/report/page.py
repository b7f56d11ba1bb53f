"""The report as one HTML page: no scripts, nothing loaded from anywhere."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from .captions import captions
from .figure_spectra import run_with_spectra
from .figures import figures_of, inline_svg
from .groups import Group, deviation, group_runs
from .headline import headline, leading_group
from .metric import Metric, metric_of
from .numbers import MISSING, column, duration_unit, fixed, plural, scaled, step_unit
from .runs import Run
from .settings import commands, settings_html
from .summary import cuts_table, summary_table
from .table import to_html


def write_report(runs: Sequence[Run], path: str | Path, title: str | None = None) -> Path:
    """Write the report of the runs as one self-contained HTML file.

    The file appears whole or not at all: it is written beside its place and then moved there.

    Args:
        runs: what to report, from `read_runs`.
        path: the file to write; its folder is made if needed.
        title: the line above the headline; by default the tasks of the runs.

    Returns:
        The file written.

    Raises:
        ValueError: no run is given.
    """
    target = Path(path)
    page = report_html(runs, title)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(page)
        draft.chmod(0o644)  # mkstemp's files are for their owner alone; a report is to be shared
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def report_html(runs: Sequence[Run], title: str | None = None) -> str:
    """Return the page that `write_report` writes.

    Raises:
        ValueError: no run is given.
    """
    story = headline(runs)
    groups = group_runs(runs)
    if title is None:
        tasks = ", ".join(dict.fromkeys(group.task for group in groups if group.task))
        title = f"compressm report: {tasks}" if tasks else "compressm report"
    style = (files("compressm.report") / "page.css").read_text(encoding="utf-8")
    comparison = story.comparison[:1].upper() + story.comparison[1:]
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n<header>",
            f'<p class="title">{html.escape(title)}</p>',
            f"<h1>{_text(story.finding)}</h1>",
            f'<p class="comparison">{_text(comparison)}.</p>' if comparison else "",
            f'<p class="basis">{_text(story.basis)}</p>',
            _facts(groups, metric_of(runs)),
            "</header>",
            _results(runs),
            _figures(runs),
            _cuts(runs),
            _making(runs, groups),
            _footer(runs),
            "</main>\n</body>\n</html>\n",
        )
    )


def _text(words: str) -> str:
    """Escape, and keep numbers and their percent signs on one line."""
    return html.escape(words).replace(" %", "&nbsp;%")


def _facts(groups: Sequence[Group], metric: Metric) -> str:
    """Return the key figures of the headline's group."""
    leader = leading_group(groups, metric)
    facts: list[tuple[str, str, str]] = []
    start, final = leader.initial_states, leader.final_states
    if start is not None and final is not None:
        before, after = f"{start:,.4g}", f"{final:,.4g}"
        layers = max(len(run.final_states) for run in leader.runs)
        change = f"{before} → {after}" if before != after else after
        facts.append(("States per layer", change, f"in {plural(layers, 'layer')}"))
    scores = leader.values(lambda run: metric.of(run.test))
    if scores:
        spread = deviation(scores)
        score = fixed(sum(scores) / len(scores), 1 if metric.unit else 3)
        detail = "one seed" if spread is None else f"± {fixed(spread, metric.decimals)} ({len(scores)} seeds)"
        facts.append((f"Test {metric.name}", f"{score} {metric.unit}".strip(), detail))
    times = [
        leader.mean(lambda run: run.step_seconds_before),
        leader.mean(lambda run: run.step_seconds_final),
    ]
    if times[1] is not None:
        factor, unit = step_unit(times)
        texts = [text for text in column(scaled(times, factor)) if text != MISSING]
        speedup = leader.mean(lambda run: run.speedup)
        detail = (
            f"{fixed(speedup, 1 if speedup >= 1 else 2)}× as fast after the cuts"
            if speedup is not None
            else "median"
        )
        facts.append(("Time of a step", f"{' → '.join(texts)} {unit}", detail))
    total, cut = leader.mean(lambda run: run.total_seconds), leader.mean(lambda run: run.cut_seconds)
    if total is not None:
        factor, unit = duration_unit([total])
        detail = f"{fixed(cut, 1)} s of it for cuts" if cut is not None else "whole run"
        facts.append(("Training time", f"{fixed(total * factor, 1)} {unit}", detail))
    cells = (
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd><dd>{_text(detail)}</dd></div>"
        for name, value, detail in facts
    )
    return '<dl class="facts">' + "".join(cells) + "</dl>"


def _results(runs: Sequence[Run]) -> str:
    table = summary_table(runs)
    several = any(len(group.runs) > 1 for group in group_runs(runs))
    hint = "Means over the seeds; sd is the sample standard deviation. " if several else ""
    hint += "Step times are medians."
    if any("floor" in column.title for column in table.columns):
        hint += " A floor is the same step with the recurrences taken out: no cut can go below it."
    return f'<section><h2>Results</h2>\n{to_html(table)}\n<p class="hint">{hint}</p></section>'


def _figures(runs: Sequence[Run]) -> str:
    parts = []
    words = captions(runs)
    for name, figure in figures_of(runs).items():
        lead, rest = words[name]
        parts.append(
            f'<figure id="figure-{name}"><div class="plot">{inline_svg(figure, name, lead)}</div>\n'
            f"<figcaption><b>{_text(lead)}</b> {_text(rest)}</figcaption></figure>"
        )
    return "<section><h2>Figures</h2>\n" + "\n".join(parts) + "</section>" if parts else ""


def _cuts(runs: Sequence[Run]) -> str:
    first = run_with_spectra(runs) or next((run for run in runs if run.cuts), None)
    if first is None:
        return ""
    others = [run for group in group_runs(runs) for run in group.runs if run.cuts and run is not first]
    parts = [
        "<section><h2>Cuts</h2>",
        "<p>The bound was guaranteed before the cut; the actual error was computed after it. Both measure "
        "the largest gain of the difference between the layer before and after, over all frequencies "
        "(H<sub>∞</sub> norm).</p>",
        f"<h3>{html.escape(first.name)}</h3>",
        to_html(cuts_table(first)),
        "<br>" if others else "",
    ]
    for run in others:
        parts.append(f"<details><summary>{html.escape(run.name)} ({html.escape(run.folder.name)})</summary>")
        parts.append(to_html(cuts_table(run)) + "</details>")
    return "\n".join(parts) + "</section>"


def _making(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    parts = ["<section><h2>How these runs were made</h2>"]
    if found := commands(runs):
        block = "<pre>" + html.escape("\n".join(found)) + "</pre>"
        few = len(found) <= 3
        parts.append(block if few else f"<details><summary>{len(found)} commands</summary>{block}</details>")
    parts.append(settings_html(groups))
    return "\n".join(parts) + "</section>"


def _footer(runs: Sequence[Run]) -> str:
    versions = ", ".join(dict.fromkeys(str(run.config["version"]) for run in runs if "version" in run.config))
    made = f"compressm {versions}. " if versions else ""
    count = plural(len(runs), "run")
    folders = ", ".join(run.folder.name for run in runs)
    return f"<footer>{html.escape(f'{made}{count}: {folders}.')}</footer>"
