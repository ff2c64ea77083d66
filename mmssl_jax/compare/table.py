"""From what a comparison holds to rows: accuracy, paired tests, recall by group, and cost."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from mmssl_jax.compare.outcome import Finished, Outcome
from mmssl_jax.ranking.metrics import USERS
from mmssl_jax.ranking.per_user import FOUND, PAIRS
from mmssl_jax.study.paired import paired_over_users
from mmssl_jax.study.table import p_text
from mmssl_jax.tune.search import describe

METRICS = ("recall@20", "ndcg@20")

# Least training interactions of each group. They are fixed, so that tables of different datasets
# have the same columns; a group that nobody is in has none.
USER_BOUNDS = (0, 1, 2, 4, 11)
ITEM_BOUNDS = (0, 1, 6, 20, 60)


class Degrees(NamedTuple):
    """Training interactions of each user and each item."""

    users: Int[np.ndarray, " U"]
    items: Int[np.ndarray, " I"]


Row = dict[str, Any]


def table_rows(outcomes: Sequence[Outcome], degrees: Degrees) -> list[Row]:
    """One row for each method with a finished run, the best on validation first.

    The p-values are those of a paired test over users against the best on validation, each user
    with the mean over the seeds that both methods have finished; they are of single tests, not
    corrected for their number.
    """
    finished = [outcome for outcome in outcomes if outcome.runs]
    finished.sort(key=lambda outcome: -validation(outcome)[0])
    return [row_of(outcome, finished[0], degrees) for outcome in finished]


def row_of(outcome: Outcome, best: Outcome, degrees: Degrees) -> Row:
    """Everything about one method; NaN where there is no figure."""
    runs, tuning = outcome.runs, outcome.tuning
    row: Row = {
        "method": outcome.name,
        "title": outcome.title,
        "trials": tuning["trials"] if tuning else 0,
        "pruned": tuning["pruned"] if tuning else 0,
        "minutes of tuning": tuning["minutes"] if tuning else 0.0,
        "seeds": len(runs),
    }
    row["validation"], row["validation deviation"] = validation(outcome)
    for metric in METRICS:
        values = [run.result["test"][metric] for run in runs.values()]
        row[metric], row[f"{metric} deviation"] = mean_and_deviation(values)
        compared = paired_over_users(by_user(outcome), by_user(best), metric)
        is_other = outcome.name != best.name
        row[f"{metric} difference"] = compared.difference if is_other else math.nan
        row[f"{metric} p"] = compared.p_value if is_other else math.nan
    for by_group in (recall_by_user_group, recall_by_item_group):
        row |= group_means([by_group(run, degrees) for run in runs.values()])
    row |= cost(list(runs.values()))
    row["settings"] = describe(tuning["changes"]) if tuning else ""
    row["diverged seeds"] = len(outcome.diverged)
    return row


def validation(outcome: Outcome) -> tuple[float, float]:
    """Mean and deviation over seeds of the value that chose the best epochs."""
    assert outcome.config is not None
    monitor = outcome.config.train.monitor
    return mean_and_deviation([run.result["validation"][monitor] for run in outcome.runs.values()])


def by_user(outcome: Outcome) -> dict[int, Any]:
    """{seed: metrics by user}."""
    return {seed: run.by_user for seed, run in outcome.runs.items()}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and the sample's deviation, NaN for one value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation


def recall_by_user_group(run: Finished, degrees: Degrees) -> Row:
    """Mean recall@20 of the users in each group of their training items, and their number."""
    inside = groups(degrees.users[run.by_user[USERS]], USER_BOUNDS)
    return group_row("users", inside, run.by_user["recall@20"])


def recall_by_item_group(run: Finished, degrees: Degrees) -> Row:
    """Share of the held-out pairs found in lists of 20, by the item's training interactions, and
    the number of the pairs."""
    inside = groups(degrees.items[run.by_user[PAIRS][:, 1]], ITEM_BOUNDS)
    return group_row("items", inside, run.by_user[FOUND])


def group_row(
    kind: str, inside: Mapping[str, Bool[np.ndarray, " n"]], values: Shaped[np.ndarray, " n"]
) -> Row:
    """Mean of each group's values, and its size."""
    means = {
        f"recall@20 {kind} {name}": float(values[mask].mean()) for name, mask in inside.items()
    }
    return means | {f"number {kind} {name}": int(mask.sum()) for name, mask in inside.items()}


def groups(
    degrees: Int[np.ndarray, " n"], bounds: Sequence[int]
) -> dict[str, Bool[np.ndarray, " n"]]:
    """{range of degrees: who is in it}, without the groups that nobody is in."""
    number = np.searchsorted(bounds, degrees, side="right") - 1
    members = {label: number == place for place, label in enumerate(group_labels(bounds))}
    return {label: inside for label, inside in members.items() if inside.any()}


def group_labels(bounds: Sequence[int]) -> list[str]:
    """The range of each group: "0", "1-5", "60+"."""
    last = f"{bounds[-1]}+"
    ranges = [(low, after - 1) for low, after in itertools.pairwise(bounds)]
    return [f"{low}" if low == high else f"{low}-{high}" for low, high in ranges] + [last]


def group_means(rows: Sequence[Mapping[str, float]]) -> Row:
    """The mean over seeds of every column; all have the same, since they rank the same split."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def cost(runs: Sequence[Finished]) -> Row:
    """Seconds per epoch, epochs and seconds up to the best, and numbers learned.

    The first epoch of a run compiles: it counts in the seconds up to the best, and not in the
    median of an epoch unless there is no other.
    """
    later = [record["seconds"] for run in runs for record in run.records[1:]]
    first = [run.records[0]["seconds"] for run in runs]
    up_to_best: list[float] = [
        sum(
            record["seconds"]
            for record in run.records
            if record["epoch"] <= run.result["best_epoch"]
        )
        for run in runs
    ]
    return {
        "seconds per epoch": statistics.median(later or first),
        "epochs to the best": float(np.mean([run.result["best_epoch"] + 1 for run in runs])),
        "seconds to the best": float(np.mean(up_to_best)),
        "parameters": runs[0].result["parameters"],
    }


def group_columns(rows: Sequence[Row], kind: str) -> list[str]:
    """The columns of recall by group; kind: "users" or "items"."""
    bounds = USER_BOUNDS if kind == "users" else ITEM_BOUNDS
    names = [f"recall@20 {kind} {label}" for label in group_labels(bounds)]
    return [name for name in names if name in rows[0]]


def group_sizes(rows: Sequence[Row], kind: str) -> dict[str, int]:
    """{range of training interactions: users or held-out pairs}."""
    labels = [name.rpartition(" ")[2] for name in group_columns(rows, kind)]
    return {label: round(rows[0][f"number {kind} {label}"]) for label in labels}


class Table(NamedTuple):
    """A table as text: what it shows, the head, and one list of cells a row."""

    caption: str
    head: list[str]
    cells: list[list[str]]


def accuracy_table(rows: Sequence[Row]) -> Table:
    """Budget, validation, test, and the paired tests."""
    head = ["method", "trials", "minutes of tuning", "seeds", "validation"]
    for metric in METRICS:
        head += [metric, "difference", "p"]
    cells = []
    for row in rows:
        line = [row["title"], f"{row['trials']}" if row["trials"] else "no search"]
        line += [f"{row['minutes of tuning']:.1f}" if row["trials"] else "", seeds_text(row)]
        line.append(with_deviation(row, "validation"))
        for metric in METRICS:
            line += [with_deviation(row, metric), signed(row[f"{metric} difference"])]
            line.append(p_text(row[f"{metric} p"]))
        cells.append(line)
    caption = (
        "Mean ± sample deviation over seeds, of the test split but for validation; difference from "
        "the first, which is the best on validation, and the p-value of a paired t-test over users"
    )
    return Table(caption, head, cells)


def group_table(rows: Sequence[Row], kind: str) -> Table:
    """Recall by group of users or of held-out items."""
    columns = group_columns(rows, kind)
    labels = [f"{name} (n={size:,})" for name, size in group_sizes(rows, kind).items()]
    whose, n = ("the user", "users") if kind == "users" else ("the held-out item", "pairs")
    caption = f"Test recall@20 by training interactions of {whose} (n: {n}), mean over seeds"
    cells = [[row["title"], *(f"{row[name]:.4f}" for name in columns)] for row in rows]
    return Table(caption, ["method", *labels], cells)


def cost_table(rows: Sequence[Row]) -> Table:
    """Time and size."""
    caption = (
        "Seconds of an epoch with its validation (median, without the first, which compiles), "
        "means over seeds of epochs and seconds up to the best, and learned numbers"
    )
    head = ["seconds per epoch", "epochs to the best", "seconds to the best", "parameters"]
    cells = [
        [
            row["title"],
            f"{row[head[0]]:.3g}",
            f"{row[head[1]]:.1f}",
            f"{row[head[2]]:.1f}",
            f"{row[head[3]]:,}",
        ]
        for row in rows
    ]
    return Table(caption, ["method", *head], cells)


def settings_table(rows: Sequence[Row]) -> Table:
    """What the searches chose."""
    cells = [[row["title"], row["settings"] or "as they start"] for row in rows]
    return Table("Settings of the best trial on validation", ["method", "settings"], cells)


def tables(rows: Sequence[Row]) -> list[Table]:
    """All tables."""
    return [
        accuracy_table(rows),
        group_table(rows, "users"),
        group_table(rows, "items"),
        cost_table(rows),
        settings_table(rows),
    ]


def markdown_text(rows: Sequence[Row]) -> str:
    """All tables as Markdown, each under what it shows."""
    return "\n".join(map(_markdown, tables(rows)))


def _markdown(table: Table) -> str:
    lines = [table.head, ["---"] * len(table.head), *table.cells]
    rows = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return f"{table.caption}:\n\n{rows}"


def with_deviation(row: Row, name: str) -> str:
    """`0.0930 ± 0.0010`, or the mean alone."""
    deviation = row[f"{name} deviation"]
    return f"{row[name]:.4f}" + ("" if math.isnan(deviation) else f" ± {deviation:.4f}")


def seeds_text(row: Row) -> str:
    """Seeds that finished, and those that diverged."""
    return f"{row['seeds']}" + (
        f" ({row['diverged seeds']} diverged)" if row["diverged seeds"] else ""
    )


def signed(value: float) -> str:
    """A difference, or nothing."""
    return "" if math.isnan(value) else f"{value:+.4f}"
