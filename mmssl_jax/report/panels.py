"""Which pictures a page has: runs in, panels out."""

from collections.abc import Iterable, Sequence
from typing import Literal

from mmssl_jax.report.analysis import Concentration, Groups
from mmssl_jax.report.plots import Panel, Series, bar_panel, line_panel, map_panel
from mmssl_jax.report.run import MODEL, POPULARITY, RANDOM, Analysis, Run

NOT_LOSSES = ("epoch", "step", "seconds")
Table = Literal["activity", "found"]
CURVES = ("recall", "ndcg", "precision", "hit_ratio")


def validation_panels(runs: Sequence[Run]) -> list[Panel]:
    """Validation metrics by epoch, at the K of each run's `train.monitor`; the best is ringed."""
    metrics = {run.config.train.monitor for run in runs}
    ks = {monitor.split("@")[1] for monitor in metrics}
    metrics |= {f"{name}@{k}" for name in ("recall", "ndcg") for k in ks}
    panels = []
    for metric in sorted(metrics, key=lambda name: (name.split("@")[0] != "recall", name)):
        panels += epoch_panels(runs, [f"validation/{metric}"], f"Validation {metric}")
    return panels


def loss_panels(runs: Sequence[Run]) -> list[Panel]:
    """Every figure by epoch, but for those that their method shows under a heading of their own."""
    apart = {
        name
        for run in runs
        for curves in run.curves
        for _, names in curves.panels
        for name in names
    }
    names = dict.fromkeys(
        name
        for run in runs
        for record in run.records
        for name in record
        if name not in (*NOT_LOSSES, *apart) and "/" not in name
    )
    return [panel for name in names for panel in epoch_panels(runs, [name], name)]


def curve_panels(runs: Sequence[Run]) -> dict[str, list[Panel]]:
    """The figures that the runs' methods show under headings of their own."""
    groups: dict[str, list[Panel]] = {}
    for curves in dict.fromkeys(curves for run in runs for curves in run.curves):
        panels = groups.setdefault(curves.heading, [])
        for title, names in curves.panels:
            panels += epoch_panels(runs, names, title)
    return groups


def epoch_panels(runs: Sequence[Run], names: Sequence[str], title: str) -> list[Panel]:
    """One panel with what the logs hold under these names, or none if no run has any of them."""
    series, said = [], []
    for run in runs:
        for dash, name in enumerate(names):
            records = [record for record in run.records if name in record]
            if not records:
                continue
            x, y = [r["epoch"] for r in records], [r[name] for r in records]
            steps = [r["step"] for r in records]
            best = run.analysis.step if run.analysis else None
            mark = steps.index(best) if best in steps else None
            label = run.label if len(names) == 1 else f"{run.label}: {name}"
            series.append(Series(label, x, y, run.number, dash, mark))
            said.append(f"{label} from {y[0]:.4g} in epoch {x[0]} to {y[-1]:.4g} in epoch {x[-1]}")
    if not series:
        return []
    alt = f"Line chart of {title} by epoch: {'; '.join(said)}."
    return [line_panel(title, series, "epoch", alt)]


def metric_panels(runs: Sequence[Run]) -> list[Panel]:
    """Metrics of the lists by K, of runs that share their data, with the baselines."""
    panels, first = [], _analysis(runs[0])
    ks = first.ks
    for metric in CURVES:
        rows: list[tuple[str, int | None, int, str, Run]] = [
            (run.label, run.number, 0, MODEL, run) for run in runs
        ]
        rows += [(POPULARITY, None, 1, POPULARITY, runs[0]), (RANDOM, None, 3, RANDOM, runs[0])]
        series = [
            Series(label, ks, _values(run, ranking, metric), style, dash)
            for label, style, dash, ranking, run in rows
        ]
        alt = f"Line chart of {first.split} {metric} by list length K: " + _said(
            series, [f"K {k}" for k in ks]
        )
        title = f"{metric}@K, {first.split}"
        panels.append(line_panel(title, series, "K", alt, kind="from zero"))
    return panels


def activity_panels(runs: Sequence[Run]) -> list[Panel]:
    """Recall and ndcg by the users' numbers of training interactions."""
    k = _analysis(runs[0]).k
    axis = "training interactions of the user (n: users)"
    return [
        _group_panel(runs, "activity", name, f"{name}@{k} by users' activity", axis)
        for name in ("recall", "ndcg")
    ]


def found_panels(runs: Sequence[Run]) -> list[Panel]:
    """Share of held-out items found, by the items' numbers of training interactions."""
    k = _analysis(runs[0]).k
    axis = "training interactions of the held-out item (n: pairs)"
    title = f"share of held-out items in the top {k}"
    return [_group_panel(runs, "found", "found", title, axis)]


def groups_of(run: Run, table: Table) -> dict[str, Groups]:
    """Groups of users by activity, or of held-out pairs found by popularity, by ranking."""
    analysis = _analysis(run)
    return analysis.activity if table == "activity" else analysis.found


def concentration_panels(runs: Sequence[Run]) -> list[Panel]:
    """Which share of the recommendations the most recommended items take."""
    first = _analysis(runs[0])
    rows: list[tuple[str, int | None, int, Concentration]] = [
        (run.label, run.number, 0, _analysis(run).concentration[MODEL]) for run in runs
    ]
    rows.append(("training data", None, 0, first.concentration["training"]))
    rows.append((POPULARITY, None, 1, first.concentration[POPULARITY]))
    series = [Series(label, c.items, c.share, style, dash) for label, style, dash, c in rows]
    gini = "; ".join(f"{label} {c.gini:.2f}" for label, _, _, c in rows)
    alt = f"Curves of the share of top-{first.k} places by share of items; Gini: {gini}."
    title = f"Who fills the top {first.k}"
    x_label = "share of the items, most frequent first"
    return [line_panel(title, series, x_label, alt, "share of the places", "beside diagonal")]


def weight_panels(run: Run) -> list[Panel]:
    """Distributions of the modalities' weights; none for a single modality."""
    panels = []
    for side, by_modality in _analysis(run).weights.items():
        if len(by_modality) == 1:
            return []
        series = [
            Series(f"{name} (mean {d.mean:.3f})", d.edges, d.share, number, number // 7)
            for number, (name, d) in enumerate(by_modality.items())
        ]
        alt = f"Histograms of the modality weights of {side}: " + _joined(s.label for s in series)
        title = f"Modality weights of {side}"
        panels.append(line_panel(title, series, "weight", alt, f"share of {side}", "stairs"))
    return panels


def map_panels(run: Run) -> list[Panel]:
    """Item embeddings in the plane, coloured by popularity, one panel per modality and the end."""
    analysis, panels = _analysis(run), []
    for name, entry in analysis.maps.items():
        explained = sum(entry.explained)
        alt = (
            f"Scatter plot of {len(entry.xy)} items by the first two principal components of "
            f"their {name}, which hold {explained:.0%} of its variance, coloured by popularity."
        )
        title = f"{name} ({explained:.0%} of variance)"
        popularity = analysis.map_popularity
        panels.append(map_panel(title, entry.xy, popularity, "training interactions", alt))
    return panels


def _group_panel(runs: Sequence[Run], table: Table, column: str, title: str, axis: str) -> Panel:
    first = groups_of(runs[0], table)
    sizes = [f"{size:,}" for size in first[MODEL].size]
    labels = [f"{label}\nn={n}" for label, n in zip(first[MODEL].label, sizes, strict=True)]
    series = [
        Series(run.label, [], groups_of(run, table)[MODEL].values[column], run.number)
        for run in runs
    ]
    series.append(Series(POPULARITY, [], first[POPULARITY].values[column], None))
    alt = f"Bar chart of {title}: " + _said(series, first[MODEL].label)
    return bar_panel(title, labels, series, axis, alt)


def _values(run: Run, ranking: str, metric: str) -> list[float]:
    analysis = _analysis(run)
    return [analysis.metrics[ranking][f"{metric}@{k}"] for k in analysis.ks]


def _analysis(run: Run) -> Analysis:
    assert run.analysis is not None, f"{run.label} has no checkpoint to show"
    return run.analysis


def _said(series: Sequence[Series], places: Sequence[str]) -> str:
    """Every value in words."""
    return _joined(
        f"{each.label}, "
        + ", ".join(f"{place}: {value:.3f}" for place, value in zip(places, each.y, strict=True))
        for each in series
    )


def _joined(parts: Iterable[str]) -> str:
    return "; ".join(parts) + "."
