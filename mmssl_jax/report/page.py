"""The page: runs in, HTML out."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmssl_jax.config import flatten
from mmssl_jax.files import check_output_file, user_path, user_text
from mmssl_jax.methods import METHODS
from mmssl_jax.records.log import write_text
from mmssl_jax.report import html, panels
from mmssl_jax.report.html import Marked
from mmssl_jax.report.plots import require_matplotlib
from mmssl_jax.report.run import MODEL, POPULARITY, RANDOM, Run, load_runs
from mmssl_jax.report.sections import analysis_sections
from mmssl_jax.training.errors import RunError

RESULT = (
    "Validation metrics are from the log; the others were computed for this page from the best "
    "checkpoint on validation. Popularity and random rank the same items for the same users."
)
EPOCHS = (
    "Means over each epoch's steps. A ring marks the epoch that this page analyses. Where a curve "
    "starts far above its later values, the axis is logarithmic beyond these."
)


def write_report(runs: Sequence[str], out: str = "report.html", data_path: str = "") -> Path:
    """Writes one HTML page, complete in itself, about one or several runs; returns its path.

    Args:
        runs: directories of runs, finished or not.
        out: the page's file.
        data_path: dataset folder, if it has moved since training.

    Raises RunError, DatasetError, ConfigError for a directory that is no run (or `out`, if it is
    one), data that has changed, a missing Matplotlib.
    """
    require_matplotlib()
    path = user_path(out)
    if path.is_dir():
        raise RunError(f"{path} is a directory: name the page's file with --out")
    check_output_file(path)
    page = render(load_runs([user_path(run) for run in runs], user_text(data_path)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as HTML."""
    analysed = [run for run in runs if run.analysis]
    sections = [
        ("Result", headline(runs)),
        ("Training", training(runs)),
        *(analysis_sections(analysed) if analysed else []),
        ("Settings", settings(runs)),
        ("Environment", environment_section(runs)),
    ]
    return html.document("Report: " + ", ".join(run.label for run in runs), sections)


def headline(runs: Sequence[Run]) -> str:
    """What came out, one column a run."""
    columns = [headline_column(run) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "-") for column in columns)] for name in names]
    notes = "".join(
        html.paragraph(f"{run.label} has nothing to analyse yet: {run.why_not}")
        for run in runs
        if not run.analysis
    )
    head = ["", *(run.label for run in runs)]
    return html.paragraph(RESULT) + notes + html.table("Headline", head, rows)


def headline_column(run: Run) -> dict[str, str]:
    """Named facts about one run."""
    data, records = run.dataset, run.records
    column = {
        "state": "finished" if run.finished else "running or cut short",
        "method": METHODS[run.config.method].TITLE,
        "dataset": f"{data['name']}: {data['users']:,} users, {data['items']:,} items",
        "modalities": ", ".join(modality_line(run, name) for name in data["modalities"]),
        "epochs": f"{len(records)}",
    }
    if records:
        seconds = [record["seconds"] for record in records]
        column["seconds per epoch, median"] = f"{statistics.median(seconds):.1f}"
        column["seconds of the first epoch, which compiles"] = f"{seconds[0]:.1f}"
    if run.analysis:
        best = [record for record in records if record["step"] == run.analysis.step]
        if best:
            column["best epoch"] = f"{best[0]['epoch']}"
        names = [f"{name}@{run.analysis.k}" for name in ("recall", "ndcg")]
        for name in dict.fromkeys([run.config.train.monitor, *names]):
            if best and f"validation/{name}" in best[0]:
                column[f"validation {name}"] = f"{best[0][f'validation/{name}']:.4f}"
        for name in names:
            for ranking in (MODEL, POPULARITY, RANDOM):
                value = run.analysis.metrics[ranking][name]
                which = "" if ranking == MODEL else f", {ranking}"
                column[f"{run.analysis.split} {name}{which}"] = f"{value:.4f}"
    return column


def modality_line(run: Run, name: str) -> str:
    """Name and width of a modality, and the share of the items that lack it, if any does."""
    missing = run.analysis.missing.get(name, 0.0) if run.analysis else 0.0
    lacking = f", {missing:.1%} of the items lack it" if missing else ""
    return f"{name} ({run.dataset['modalities'][name]}{lacking})"


def training(runs: Sequence[Run]) -> str:
    """Curves from the log."""
    groups = {
        "Validation": panels.validation_panels(runs),
        "Losses": panels.loss_panels(runs),
        **panels.curve_panels(runs),
    }
    if not any(groups.values()):
        return html.paragraph("No epoch has ended yet.")
    return html.paragraph(EPOCHS) + "".join(
        html.heading(name) + html.panels(pictures) for name, pictures in groups.items() if pictures
    )


def settings(runs: Sequence[Run]) -> str:
    """Every setting of every run; those that are not the default or differ are marked.

    A setting that a run's method does not have is "-" there; a default is that of the run's method.
    """
    flat = [flatten(run.config) for run in runs]
    defaults = [flatten(type(run.config)()) for run in runs]
    pairs = list(zip(flat, defaults, strict=True))
    changed, others = [], []
    for key in dict.fromkeys(key for each in flat for key in each):
        having = [(each[key], default[key]) for each, default in pairs if key in each]
        differ = any(value != having[0][0] for value, _ in having)
        cells = [
            "-" if key not in each
            else _plain(each[key]) if each[key] == default[key] else Marked(_plain(each[key]))
            for each, default in pairs
        ]  # fmt: skip
        if differ or any(value != default for value, default in having):
            shown = ", or ".join(dict.fromkeys(_plain(default) for _, default in having))
            note = "differs between the runs" if differ else "not the default"
            changed.append([key, *cells, shown, note])
        else:
            others.append([key, *cells])
    labels = [run.label for run in runs]
    first = html.table(
        "Settings that are not the default, or differ", ["", *labels, "default", "note"], changed
    )
    rest = html.table("Settings at their default", ["", *labels], others)
    return first + html.details(f"The other {len(others)} settings, all at their default", rest)


def environment_section(runs: Sequence[Run]) -> str:
    """Versions and devices."""
    columns = [_flat_environment(run.environment) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "-") for column in columns)] for name in names]
    return html.table("What the runs ran on", ["", *(run.label for run in runs)], rows)


def _flat_environment(environment: dict[str, Any]) -> dict[str, str]:
    flat = {}
    for name, value in environment.items():
        for key, entry in value.items() if isinstance(value, dict) else [(name, value)]:
            flat[str(key)] = _plain(entry)
    return flat


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None or value == "" else str(value)
