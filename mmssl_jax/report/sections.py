"""The sections about what runs recommend, and from which embeddings: runs in, HTML out."""

from collections.abc import Callable, Sequence

from mmssl_jax.report import html, panels
from mmssl_jax.report.analysis import USUAL_BOUNDS
from mmssl_jax.report.run import MODEL, POPULARITY, RANDOM, Analysis, Run
from mmssl_jax.report.samples import Sample

MOST_LISTED = 15  # of a sample user's training items

LISTS = (
    "Means over all users with held-out items, by list length K. Popularity and random rank the "
    "same items."
)
ACTIVITY = (
    "Users grouped by how many training interactions they have, in the manner of the paper's "
    "analysis of sparse users, with bounds of our own: groups from "
    f"{', '.join(map(str, (0, *USUAL_BOUNDS)))} interactions, or quartiles where nearly all users "
    "would be in one of these."
)
FOUND = (
    "Held-out (user, item) pairs grouped by how many training interactions the item has, and the "
    "share of them that the user's list holds."
)
COVERAGE = (
    "Of the lists of all users with held-out items. Coverage: share of the catalogue that is in "
    "any list. Gini: 0 if all items are listed equally often, near 1 if few take all places. Mean "
    "popularity: training interactions of a listed item. The last row is the training interactions "
    "themselves: lists with higher numbers amplify popularity."
)
WEIGHTS = (
    "The weight that the method gives each modality. Nodes of which nothing is known weigh all "
    "modalities alike."
)
MAPS = "Items by the first two principal components of the vectors that the method has for them."
COLD = (
    "Items that data.cold_items held out of training, ranked by their features alone for the users "
    "who had interactions with them: among themselves, where chance is the measure, and among all "
    "items, where they stand against trained ones. Content is the cosine with a user's mean raw "
    "features."
)
SAMPLES = (
    "One user drawn at random from each activity group, in the dataset's own ids. Held-out items "
    "in the list are marked as hits, those of the split that this page analyses."
)


def analysis_sections(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(heading, HTML) of every section, for runs that have an analysis."""
    groups: list[tuple[str, str, Callable[[Sequence[Run]], str]]] = [
        ("Lists by length", LISTS, list_section),
        ("Users by activity", ACTIVITY, activity_section),
        ("Items by popularity", FOUND, found_section),
        ("Coverage and popularity bias", COVERAGE, coverage_section),
    ]
    single: list[tuple[str, str, Callable[[Run], str]]] = [
        ("Sample recommendations", SAMPLES, samples_section),
    ]
    if any(_analysis(run).maps for run in runs):
        single.insert(0, ("Item embeddings", MAPS, map_section))
    if any(_analysis(run).weights for run in runs):
        single.insert(0, ("Modality weights", WEIGHTS, weight_section))
    if any(_analysis(run).cold for run in runs):
        single.insert(0, ("Cold items", COLD, cold_section))
    sections = [(name, html.paragraph(t) + by_data(runs, make)) for name, t, make in groups]
    return sections + [(name, html.paragraph(t) + each_run(runs, make)) for name, t, make in single]


def by_data(runs: Sequence[Run], section: Callable[[Sequence[Run]], str]) -> str:
    """A section for each group of runs whose lists can be compared, side by side."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        assert run.analysis
        key = run.dataset["fingerprint"], run.config.eval.mask, run.analysis.k
        groups.setdefault((*key, *run.analysis.ks), []).append(run)
    bodies = list(map(section, groups.values()))
    if len(groups) == 1:
        return bodies[0]
    headings = [html.heading(", ".join(run.label for run in group)) for group in groups.values()]
    return "".join(head + body for head, body in zip(headings, bodies, strict=True))


def each_run(runs: Sequence[Run], section: Callable[[Run], str]) -> str:
    """A section for each run."""
    if len(runs) == 1:
        return section(runs[0])
    return "".join(html.heading(run.label) + section(run) for run in runs)


def list_section(runs: Sequence[Run]) -> str:
    """Metrics by K."""
    first = _analysis(runs[0])
    names = [name for name in first.metrics[MODEL] if "@" in name]
    rankings = [(run.label, _analysis(run).metrics[MODEL]) for run in runs]
    rankings += [(name, first.metrics[name]) for name in (POPULARITY, RANDOM)]
    rows = [[name, *(f"{metrics[name]:.5f}" for _, metrics in rankings)] for name in names]
    users = f"{first.metrics[MODEL]['users']:,.0f}"
    caption = f"{first.split}, means over {users} users"
    full = html.table(caption, ["metric", *(label for label, _ in rankings)], rows)
    pictures = html.panels(panels.metric_panels(runs))
    return pictures + html.details("All metrics as a table", full)


def activity_section(runs: Sequence[Run]) -> str:
    """Metrics by the users' numbers of training interactions."""
    full = group_table(runs, "activity", ("recall", "ndcg"), "users")
    pictures = html.panels(panels.activity_panels(runs))
    return pictures + html.details("The numbers", full)


def found_section(runs: Sequence[Run]) -> str:
    """Held-out items found, by their popularity."""
    full = group_table(runs, "found", ("found",), "pairs")
    return html.beside([html.panels(panels.found_panels(runs)), full])


def group_table(runs: Sequence[Run], table: panels.Table, columns: Sequence[str], unit: str) -> str:
    """Groups, their sizes and the values of each run and of popularity."""
    first = panels.groups_of(runs[0], table)
    sources = [(run.label, panels.groups_of(run, table)[MODEL]) for run in runs]
    sources.append((POPULARITY, first[POPULARITY]))
    head = ["interactions", unit, *(f"{label} {c}" for label, _ in sources for c in columns)]
    rows = [
        [label, f"{first[MODEL].size[place]:,}"]
        + [f"{source.values[column][place]:.4f}" for _, source in sources for column in columns]
        for place, label in enumerate(first[MODEL].label)
    ]
    return html.table(f"By training interactions ({unit})", head, rows)


def coverage_section(runs: Sequence[Run]) -> str:
    """How much of the catalogue the lists show, and how popular it is."""
    first = _analysis(runs[0])
    sources = [(run.label, _analysis(run).concentration[MODEL]) for run in runs]
    sources += [(name, first.concentration[name]) for name in (POPULARITY,)]
    sources += [("training data", first.concentration["training"])]
    head = ["", "coverage", "Gini", "mean popularity", "on the most popular tenth"]
    rows = [
        [label, f"{c.coverage:.1%}", f"{c.gini:.3f}", f"{c.mean_popularity:.1f}",
         f"{c.head_share:.1%}"]
        for label, c in sources
    ]  # fmt: skip
    table = html.table(f"Coverage and popularity of the top {first.k}", head, rows)
    pictures = html.panels(panels.concentration_panels(runs))
    return html.beside([pictures, table])


def weight_section(run: Run) -> str:
    """Weights of the modalities."""
    pictures = panels.weight_panels(run)
    if not pictures:
        return html.paragraph("There is one modality, so its weight is 1 everywhere.")
    said = _analysis(run).note
    note = html.paragraph(said) if said else ""
    return note + html.panels(pictures)


def map_section(run: Run) -> str:
    """Maps of item embeddings."""
    mapped, items = len(_analysis(run).map_popularity), run.dataset["items"]
    which = f"All {items:,} items." if mapped == items else f"{mapped:,} random of {items:,} items."
    return html.paragraph(which) + html.panels(panels.map_panels(run))


def cold_section(run: Run) -> str:
    """Metrics of cold items."""
    tables = _analysis(run).cold
    if not tables:
        return html.paragraph("This run held no items out.")
    k = _analysis(run).k
    metrics = [f"{name}@{k}" for name in ("recall", "ndcg", "hit_ratio")]
    rows = [
        [f"{ranking}, {where}", *(f"{values[metric]:.5f}" for metric in metrics)]
        for where, table in tables.items()
        for ranking, values in table.items()
    ]
    return html.table("Cold items", ["ranking", *metrics], rows)


def samples_section(run: Run) -> str:
    """Lists of a few users."""
    return html.beside(list(map(sample_card, _analysis(run).samples)))


def sample_card(sample: Sample) -> str:
    """What one user has and gets."""
    train, user = sample.train, sample.user
    more = f" and {len(train) - MOST_LISTED} more" if len(train) > MOST_LISTED else ""
    best = f"top {len(sample.listed)}"
    return html.heading(f"User {user}", 4) + html.definitions(
        [
            ("training items", html.text((", ".join(train[:MOST_LISTED]) + more) or "none")),
            ("held-out items", html.text(", ".join(sample.held_out))),
            (best, html.item_list(sample.listed, f"{best} for user {user}")),
        ]
    )


def _analysis(run: Run) -> Analysis:
    assert run.analysis is not None, f"{run.label} has no checkpoint to show"
    return run.analysis
