"""The page: runs in, HTML out."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmssl_jax.config import Config, flatten
from mmssl_jax.report import html, panels
from mmssl_jax.report.html import Marked
from mmssl_jax.report.plots import require_matplotlib
from mmssl_jax.report.run import MODEL, POPULARITY, RANDOM, Run, load_runs
from mmssl_jax.reporting.log import write_text

MOST_LISTED = 15  # of a sample user's training items
TRAINING = "training data"


def write_report(runs: Sequence[str], out: str = "report.html", data_path: str = "") -> Path:
    """Writes one HTML page, complete in itself, about one or several runs; returns its path.

    Args:
        runs: directories of runs, finished or not.
        out: the page's file.
        data_path: dataset folder, if it has moved since training.

    Raises RunError, DatasetError, ConfigError for a directory that is no run, data that has
    changed, a missing Matplotlib.
    """
    require_matplotlib()
    page = render(load_runs(runs, data_path))
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as HTML."""
    analysed = [run for run in runs if run.analysis]
    sections = [("Result", headline(runs)), ("Training", training(runs))]
    if analysed:
        sections += [
            ("Lists by length", by_data(analysed, list_section)),
            ("Users by activity", by_data(analysed, activity_section)),
            ("Items by popularity", by_data(analysed, found_section)),
            ("Coverage and popularity bias", by_data(analysed, coverage_section)),
            ("Modality weights", each_run(analysed, weight_section)),
            ("Item embeddings", each_run(analysed, map_section)),
            ("Sample recommendations", each_run(analysed, samples_section)),
        ]
    sections += [("Settings", settings(runs)), ("Environment", environment_section(runs))]
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
    text = (
        "Validation metrics are from the log; the others were computed for this page from the best "
        "checkpoint on validation. Popularity and random rank the same items for the same users."
    )
    head = ["", *(run.label for run in runs)]
    return html.paragraph(text) + notes + html.table("Headline", head, rows)


def headline_column(run: Run) -> dict[str, str]:
    """Named facts about one run."""
    data, records = run.dataset, run.records
    column = {
        "state": "finished" if run.finished else "running or cut short",
        "dataset": f"{data['name']}: {data['users']:,} users, {data['items']:,} items",
        "modalities": ", ".join(f"{name} ({w})" for name, w in data["modalities"].items()),
        "epochs": f"{len(records)}",
    }
    if records:
        seconds = [record["seconds"] for record in records]
        column["seconds per epoch, median"] = f"{statistics.median(seconds):.1f}"
        column["seconds of the first epoch, which compiles"] = f"{seconds[0]:.1f}"
    if run.analysis:
        best = [record for record in records if record["step"] == run.analysis["step"]]
        if best:
            column["best epoch"] = f"{best[0]['epoch']}"
        names = [f"{name}@{run.analysis['k']}" for name in ("recall", "ndcg")]
        for name in dict.fromkeys([run.config.train.monitor, *names]):
            if best:
                column[f"validation {name}"] = f"{best[0][f'validation/{name}']:.4f}"
        for name in names:
            for ranking in (MODEL, POPULARITY, RANDOM):
                value = run.analysis["metrics"][ranking][name]
                which = "" if ranking == MODEL else f", {ranking}"
                column[f"{run.analysis['split']} {name}{which}"] = f"{value:.4f}"
    return column


def training(runs: Sequence[Run]) -> str:
    """Curves from the log."""
    groups = {
        "Validation": panels.validation_panels(runs),
        "Losses": panels.loss_panels(runs),
        "The adversarial game": panels.game_panels(runs),
    }
    if not any(groups.values()):
        return html.paragraph("No epoch has ended yet.")
    text = "Means over each epoch's steps. A ring marks the epoch that this page analyses."
    return html.paragraph(text) + "".join(
        html.heading(name) + html.panels(pictures) for name, pictures in groups.items() if pictures
    )


def by_data(runs: Sequence[Run], section: Any) -> str:
    """A section for each group of runs whose lists can be compared, side by side."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        assert run.analysis
        key = run.dataset["fingerprint"], run.config.eval.mask, run.analysis["k"]
        groups.setdefault((*key, *run.analysis["ks"]), []).append(run)
    bodies = list(map(section, groups.values()))
    if len(groups) == 1:
        return bodies[0]
    headings = [html.heading(", ".join(run.label for run in group)) for group in groups.values()]
    return "".join(head + body for head, body in zip(headings, bodies, strict=True))


def each_run(runs: Sequence[Run], section: Any) -> str:
    """A section for each run."""
    if len(runs) == 1:
        return section(runs[0])
    return "".join(html.heading(run.label) + section(run) for run in runs)


def list_section(runs: Sequence[Run]) -> str:
    """Metrics by K."""
    first = _analysis(runs[0])
    names = [name for name in first["metrics"][MODEL] if "@" in name]
    rankings = [(run.label, _analysis(run)["metrics"][MODEL]) for run in runs]
    rankings += [(name, first["metrics"][name]) for name in (POPULARITY, RANDOM)]
    rows = [[name, *(f"{metrics[name]:.5f}" for _, metrics in rankings)] for name in names]
    users = f"{first['metrics'][MODEL]['users']:,.0f}"
    text = f"Means over the {users} users with {first['split']} items."
    full = html.table("All metrics", ["metric", *(label for label, _ in rankings)], rows)
    pictures = html.panels(panels.metric_panels(runs))
    return html.paragraph(text) + pictures + html.details("All metrics as a table", full)


def activity_section(runs: Sequence[Run]) -> str:
    """Metrics by the users' numbers of training interactions."""
    text = (
        "Users grouped by how many training interactions they have: the sparsity groups of the "
        "paper, or quartiles where nearly all users would be in one of these."
    )
    full = group_table(runs, "activity", ("recall", "ndcg"), "users")
    pictures = html.panels(panels.activity_panels(runs))
    return html.paragraph(text) + pictures + html.details("The numbers", full)


def found_section(runs: Sequence[Run]) -> str:
    """Held-out items found, by their popularity."""
    text = (
        "Held-out (user, item) pairs grouped by how many training interactions the item has, and "
        "the share of them that the user's list holds."
    )
    full = group_table(runs, "found", ("found",), "pairs")
    return html.paragraph(text) + html.beside([html.panels(panels.found_panels(runs)), full])


def group_table(runs: Sequence[Run], table: str, columns: Sequence[str], unit: str) -> str:
    """Groups, their sizes and the values of each run and of popularity."""
    first = _analysis(runs[0])[table]
    sources = [(run.label, _analysis(run)[table][MODEL]) for run in runs]
    sources.append((POPULARITY, first[POPULARITY]))
    head = ["interactions", unit, *(f"{label} {c}" for label, _ in sources for c in columns)]
    rows = [
        [label, f"{first[MODEL]['size'][place]:,}"]
        + [f"{source[column][place]:.4f}" for _, source in sources for column in columns]
        for place, label in enumerate(first[MODEL]["label"])
    ]
    return html.table(f"By training interactions ({unit})", head, rows)


def coverage_section(runs: Sequence[Run]) -> str:
    """How much of the catalogue the lists show, and how popular it is."""
    first = _analysis(runs[0])
    sources = [(run.label, _analysis(run)["concentration"][MODEL]) for run in runs]
    sources += [(name, first["concentration"][name]) for name in (POPULARITY,)]
    sources += [(TRAINING, first["concentration"]["training"])]
    head = ["", "coverage", "Gini", "mean popularity", "on the most popular tenth"]
    rows = [
        [label, f"{c['coverage']:.1%}", f"{c['gini']:.3f}", f"{c['mean_popularity']:.1f}",
         f"{c['head_share']:.1%}"]
        for label, c in sources
    ]  # fmt: skip
    text = (
        f"Of the top {first['k']} of all users with {first['split']} items. Coverage: share of the "
        "catalogue that is in any list. Gini: 0 if all items are listed equally often, 1 if one is "
        "always. Mean popularity: training interactions of a listed item. The last row is the "
        "training interactions themselves: lists with higher numbers amplify popularity."
    )
    table = html.table(f"Coverage and popularity of the top {first['k']}", head, rows)
    pictures = html.panels(panels.concentration_panels(runs))
    return html.paragraph(text) + html.beside([pictures, table])


def weight_section(run: Run) -> str:
    """Attention weights of the modalities."""
    pictures = panels.weight_panels(run)
    if not pictures:
        return html.paragraph("There is one modality, so its weight is 1 everywhere.")
    text = (
        "The weight that the cross-modal attention gives each modality's ID embedding, mean over "
        "heads and queries. Nodes without learned edges weigh all modalities alike."
    )
    if run.config.model.attention_values == "queries":
        text = "With model.attention_values queries all modalities weigh alike, by construction."
    return html.paragraph(text) + html.panels(pictures)


def map_section(run: Run) -> str:
    """Maps of item embeddings."""
    mapped = len(_analysis(run)["map_popularity"])
    which = "All" if mapped == run.dataset["items"] else f"A random {mapped:,} of the"
    text = (
        f"{which} {run.dataset['items']:,} items by the first two principal components: of each "
        "modality's encoded and propagated features, and of the embedding that ranks."
    )
    return html.paragraph(text) + html.panels(panels.map_panels(run))


def samples_section(run: Run) -> str:
    """Lists of a few users."""
    text = (
        "One user drawn at random from each activity group, in the dataset's own ids. Held-out "
        "items in the list are marked as hits."
    )
    return html.paragraph(text) + html.beside(list(map(sample_card, _analysis(run)["samples"])))


def sample_card(sample: dict[str, Any]) -> str:
    """What one user has and gets."""
    train, user = sample["train"], sample["user"]
    more = f" and {len(train) - MOST_LISTED} more" if len(train) > MOST_LISTED else ""
    best = f"top {len(sample['list'])}"
    return html.heading(f"User {user}", 4) + html.definitions(
        [
            ("training items", html.text((", ".join(train[:MOST_LISTED]) + more) or "none")),
            ("held-out items", html.text(", ".join(sample["held_out"]))),
            (best, html.item_list(sample["list"], f"{best} for user {user}")),
        ]
    )


def settings(runs: Sequence[Run]) -> str:
    """Every setting of every run; those that are not the default or differ are marked."""
    defaults, flat = flatten(Config()), [flatten(run.config) for run in runs]
    changed, others = [], []
    for key, default in defaults.items():
        values = [each[key] for each in flat]
        differ = any(value != values[0] for value in values)
        if differ or values[0] != default:
            note = "differs between the runs" if differ else "not the default"
            cells = [_plain(v) if v == default else Marked(_plain(v)) for v in values]
            changed.append([key, *cells, _plain(default), note])
        else:
            others.append([key, *map(_plain, values)])
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


def _analysis(run: Run) -> dict[str, Any]:
    assert run.analysis is not None, f"{run.label} has no checkpoint to show"
    return run.analysis
