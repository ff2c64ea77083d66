"""The page of a comparison: what there is of each method in, one HTML file out."""

import math
from collections.abc import Sequence

from mmssl_jax.compare.outcome import Budget, Outcome
from mmssl_jax.compare.table import (
    METRICS,
    Row,
    Table,
    accuracy_table,
    cost_table,
    group_columns,
    group_sizes,
    group_table,
    settings_table,
    validation,
    with_deviation,
)
from mmssl_jax.methods import METHODS
from mmssl_jax.report import html
from mmssl_jax.report.plots import (
    COLOURS,
    Panel,
    Series,
    category_panel,
    error_panel,
    scatter_panel,
)

BUDGET = (
    "Every method gets the same number of trials in the space that it declares, judged on "
    "validation alone. The settings of the best trial are run with each seed, and the test split "
    "is read once by each finished run. The best on validation stands first."
)
P_VALUES = (
    "Whiskers are sample deviations over seeds. The p-values are of Student's paired t-test over "
    "users against the first method, each user with the mean over the seeds of both. They are of "
    "single tests, not corrected for their number, and say nothing of other seeds or trials."
)
USERS = (
    "Users grouped by their training interactions, in fixed groups. Recall is a mean over users."
)
ITEMS = (
    "Held-out (user, item) pairs grouped by the training interactions of the item, in fixed "
    "groups: 0 are items that nobody had in training. Recall is the share of the pairs whose item "
    "is in the user's list of 20."
)
COST = (
    "On one machine, so that times are comparable with each other alone. Seconds up to the best "
    "epoch hold the compilation."
)


Section = tuple[str, str]  # heading, HTML


def page(progress: str, results: Sequence[Section]) -> str:
    """The page as HTML, of what `progress` and `result_sections` return."""
    return html.document("Methods compared", [("Progress", progress), *results])


def result_sections(outcomes: Sequence[Outcome], rows: Sequence[Row]) -> list[Section]:
    """What came out; nothing without a finished run."""
    if not rows:
        return []
    styles = style_of_methods(rows)
    return [
        ("Accuracy", accuracy(rows, outcomes, styles)),
        ("Users by activity", by_group(rows, "users", USERS, styles)),
        ("Items by popularity", by_group(rows, "items", ITEMS, styles)),
        ("Cost", cost(rows, styles)),
        ("Settings", as_html(settings_table(rows))),
    ]


def style_of_methods(rows: Sequence[Row]) -> dict[str, int]:
    """A number for each method that stays its own while others come and go."""
    places = {name: place for place, name in enumerate(METHODS)}
    return {row["title"]: places[row["method"]] for row in rows}


def progress(outcomes: Sequence[Outcome], budget: Budget, wanted: Sequence[str]) -> str:
    """How far every method is.

    wanted: methods that the comparison runs, whether there is anything of them yet or not.
    """
    found = {outcome.name: outcome for outcome in outcomes}
    names = [name for name in METHODS if name in wanted or name in found]
    cells = [progress_line(name, found.get(name), budget) for name in names]
    head = ["method", "search", "seeds", "remarks"]
    seeds = ", ".join(map(str, budget.seeds))
    limit = f", begun within {budget.search.minutes:g} minutes" if budget.search.minutes else ""
    caption = f"Up to {budget.trials} trials a method{limit}; seeds {seeds}"
    return html.paragraph(BUDGET) + html.table(caption, head, cells)


def progress_line(name: str, outcome: Outcome | None, budget: Budget) -> list[str]:
    """Name, trials, seeds and remarks of one method."""
    title = METHODS[name].TITLE
    if outcome is None:
        return [title, "waits", "waits", ""]
    search, remarks = "no search", []
    if outcome.tuning:
        done, pruned = outcome.tuning["trials"], outcome.tuning["pruned"]
        minutes = outcome.tuning["minutes"]
        search = f"{done} trials, {pruned} of them pruned, {minutes:.1f} minutes"
        if outcome.tuning["chosen"] is None:
            remarks.append(str(outcome.tuning.get("error", "no trial finished")))
    elif outcome.begun:
        search = f"{outcome.begun} of {budget.trials} trials so far"
    remarks += [f"seed {seed}: {message}" for seed, message in outcome.diverged.items()]
    return [title, search, f"{len(outcome.runs)} of {len(budget.seeds)}", "; ".join(remarks)]


def accuracy(rows: Sequence[Row], outcomes: Sequence[Outcome], styles: dict[str, int]) -> str:
    """Bars and the table."""
    pictures = [accuracy_panel(rows, metric, styles) for metric in METRICS]
    monitors = {o.config.train.monitor for o in outcomes if o.config}
    chosen_by = f"Validation is {', '.join(sorted(monitors))}. "
    baselines = html.paragraph(chosen_by + baseline_text(outcomes))
    return (
        html.paragraph(P_VALUES) + html.panels(pictures) + baselines + as_html(accuracy_table(rows))
    )


def accuracy_panel(rows: Sequence[Row], metric: str, styles: dict[str, int]) -> Panel:
    """One bar a method, with its deviation over seeds."""
    bars = [
        Series(row["title"], [], finite(row[metric], row[f"{metric} deviation"]), style)
        for row, style in zip(rows, styles.values(), strict=True)
    ]
    said = "; ".join(f"{row['title']} {with_deviation(row, metric)}" for row in rows)
    return error_panel(f"Test {metric}", bars, metric, f"Bar chart of test {metric}: {said}.")


def finite(*values: float) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if not math.isnan(value)]


def baseline_text(outcomes: Sequence[Outcome]) -> str:
    """What rankings without a method reach on the same lists."""
    best = max((o for o in outcomes if o.runs), key=lambda outcome: validation(outcome)[0])
    first = next(iter(best.runs.values()))
    said = [
        f"{name} has " + " and ".join(f"{metric} {values[metric]:.4f}" for metric in METRICS)
        for name, values in first.result["baselines"].items()
    ]
    return f"On the same test split a ranking by {', a ranking by '.join(said)}." if said else ""


def by_group(rows: Sequence[Row], kind: str, text: str, styles: dict[str, int]) -> str:
    """Lines over groups, and their table."""
    columns, sizes = group_columns(rows, kind), group_sizes(rows, kind)
    series = [
        Series(row["title"], [], [row[name] for name in columns], style, style // len(COLOURS))
        for row, style in zip(rows, styles.values(), strict=True)
    ]
    said = "; ".join(
        f"{each.label}, " + ", ".join(f"{label}: {y:.3f}" for label, y in labelled)
        for each in series
        for labelled in [zip(sizes, each.y, strict=True)]
    )
    whose = "the user" if kind == "users" else "the held-out item"
    axis = f"training interactions of {whose}"
    alt = f"Line chart of recall@20 by {axis}: {said}."
    labels = [f"{name}\nn={size:,}" for name, size in sizes.items()]
    picture = category_panel(f"recall@20 by {axis}", labels, series, axis, alt)
    table = as_html(group_table(rows, kind))
    return html.paragraph(text) + html.beside([html.panels([picture]), table])


def cost(rows: Sequence[Row], styles: dict[str, int]) -> str:
    """Time against accuracy, and the table."""
    column, metric = "seconds to the best", METRICS[0]
    points = [
        Series(row["title"], [row[column]], [row[metric]], style, style // len(COLOURS))
        for row, style in zip(rows, styles.values(), strict=True)
    ]
    said = "; ".join(f"{p.label}: {p.x[0]:.3g} s, {p.y[0]:.4f}" for p in points)
    alt = f"Scatter plot of test {metric} by seconds up to the best epoch: {said}."
    picture = scatter_panel(
        f"{metric} by time", points, "seconds up to the best epoch", metric, alt
    )
    return html.paragraph(COST) + html.beside([html.panels([picture]), as_html(cost_table(rows))])


def as_html(table: Table) -> str:
    """A table of the comparison as HTML."""
    return html.table(table.caption, table.head, table.cells)
