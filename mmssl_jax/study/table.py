"""From the results of a study's runs to a table: mean, deviation, and paired tests over seeds and
over users."""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mmssl_jax.method import BASE, Variant
from mmssl_jax.ranking.per_user import PerUser
from mmssl_jax.study.paired import NOTHING, paired_over_users, paired_test

Results = Mapping[str, Mapping[int, dict[str, Any]]]  # {variant: {seed: result.json}}
ByUser = Mapping[str, Mapping[int, PerUser]]  # {variant: {seed: per_user.npz}}


class Summary(NamedTuple):
    """One metric of one variant over its seeds, beside the base on the same seeds.

    deviation is the sample's (ddof 1), NaN for one seed; difference and p_value compare paired
    seeds with the base, by Student's paired t-test; NaN for the base and for fewer than two pairs.
    """

    seeds: int
    mean: float
    deviation: float
    difference: float
    p_value: float


def summarize(results: Results, variant: str, metric: str, split: str = "test") -> Summary:
    """Summary of `metric` (such as "recall@20") for a variant that has at least one result."""
    own = {seed: result[split][metric] for seed, result in results[variant].items()}
    values = np.array(list(own.values()))
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    base = {seed: result[split][metric] for seed, result in results.get(BASE, {}).items()}
    shared = sorted(own.keys() & base.keys())
    gaps = np.array([own[seed] - base[seed] for seed in shared])
    test = NOTHING if variant == BASE else paired_test(gaps)
    return Summary(len(values), float(values.mean()), deviation, test.difference, test.p_value)


COLUMNS = ("recall@20", "ndcg@20")


def table_rows(
    variants: list[Variant],
    results: Results,
    by_user: ByUser,
    metrics: tuple[str, ...] = COLUMNS,
) -> list[dict[str, Any]]:
    """One row per variant with results: name, what, seeds, and each metric's summary on test.

    by_user: of the runs that have it; where there is none, no test over users.
    """
    rows = []
    for variant in variants:
        if not results.get(variant.name):
            continue
        row: dict[str, Any] = {"variant": variant.name, "what": variant.what}
        for metric in metrics:
            summary = summarize(results, variant.name, metric)
            row["seeds"] = summary.seeds
            row[metric] = summary.mean
            row[f"{metric} deviation"] = summary.deviation
            row[f"{metric} difference"] = summary.difference
            row[f"{metric} p"] = summary.p_value
            row[f"{metric} user p"] = user_p_value(by_user, variant.name, metric)
        epochs = [result["best_epoch"] for result in results[variant.name].values()]
        row["best epoch"] = float(np.mean(epochs))
        rows.append(row)
    return rows


def user_p_value(by_user: ByUser, variant: str, metric: str) -> float:
    """p of the test over users beside the base; NaN for the base itself."""
    if variant == BASE:
        return math.nan
    return paired_over_users(by_user.get(variant, {}), by_user.get(BASE, {}), metric).p_value


def csv_text(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV; figures that do not exist are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if _is_nan(value) else value for key, value in row.items()})
    return buffer.getvalue()


def markdown_text(rows: list[dict[str, Any]], metrics: tuple[str, ...] = COLUMNS) -> str:
    """The rows as a Markdown table: mean ± deviation, difference from the base and its p
    over seeds and over users."""
    head = ["variant", "what", "seeds"]
    for metric in metrics:
        head += [metric, "difference", "p, seeds", "p, users"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for row in rows:
        cells = [row["variant"], row["what"], str(row["seeds"])]
        for metric in metrics:
            deviation = row[f"{metric} deviation"]
            spread = "" if _is_nan(deviation) else f" ± {deviation:.4f}"
            difference = row[f"{metric} difference"]
            p_values = row[f"{metric} p"], row[f"{metric} user p"]
            cells += [
                f"{row[metric]:.4f}{spread}",
                "" if _is_nan(difference) else f"{difference:+.4f}",
                *map(p_text, p_values),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def p_text(p_value: float) -> str:
    """A p-value, or nothing where there is none."""
    if _is_nan(p_value):
        return ""
    return "< .001" if p_value < 0.001 else f"{p_value:.3f}"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
