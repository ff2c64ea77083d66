"""`python eval.py`: a run's checkpoint evaluated, or used for exports and cold items."""

import re
import sys
from pathlib import Path
from typing import NamedTuple

from jsonargparse.typing import PositiveInt

from mmssl_jax.cli.errors import reported
from mmssl_jax.config import ParallelConfig
from mmssl_jax.files import check_output_file, check_output_folder, user_text
from mmssl_jax.hosts import is_primary, leaving_at_once, require_one
from mmssl_jax.recommend.cold_evaluation import evaluate_cold_items
from mmssl_jax.recommend.contents import check_new_folder, contents_of
from mmssl_jax.recommend.export import EMBEDDINGS, LISTS, check_suffix, export_lists
from mmssl_jax.recommend.export import export_embeddings as write_embeddings
from mmssl_jax.recommend.recommender import Filter, Recommender
from mmssl_jax.records.log import metric_table
from mmssl_jax.settings_parser import SettingsParser
from mmssl_jax.training.problem import Problem, TrainState
from mmssl_jax.training.restore import evaluate_run, restore_run, title_of

# What else the flags may be called: train.py's spelling, and dashes.
SPELLINGS = re.compile(r"^--(data\.path|data-path|cold-items|export-embeddings)(?==|$)")
PLACES = ("run", "data_path", "export", "export_embeddings", "save")
RESTORING = ("run", "checkpoint", "data_path", "devices")


class Uses(NamedTuple):
    """What a run is used for besides evaluation; "" and False for what is not asked."""

    export: str
    k: int
    filter: Filter
    export_embeddings: str
    save: str
    cold_items: bool

    def any(self) -> bool:
        """Whether anything is asked."""
        return bool(self.export or self.export_embeddings or self.save or self.cold_items)


def eval_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `eval.py`, restores a checkpoint and prints its metrics or exports."""
    given = sys.argv[1:] if arguments is None else arguments
    given = [SPELLINGS.sub(_spelled, text) for text in given]
    parser = eval_parser()
    options = parser.parse_args(given).as_dict()
    options |= {name: user_text(options[name]) for name in PLACES}
    uses = Uses(*(options.pop(name) for name in Uses._fields))
    flags = {text.split("=")[0] for text in given}
    if "--k" in flags and not uses.export:
        parser.error("--k is the length of --export's lists; a run's own eval.ks are evaluated")
    if "--filter" in flags and not uses.export:
        parser.error(
            "--filter says what --export's lists leave out; evaluation masks what eval.mask says"
        )
    say = print if is_primary() else (lambda text: None)
    if "--split" in flags and uses.any():
        parser.error("--split is for evaluating: exports and cold items have none")
    with leaving_at_once(), reported():
        if uses.any():
            require_one(ParallelConfig(), "an export, a saved recommender or a test of cold items")
            check_outputs(uses)
            use_run(*restore_run(Path(options["run"]), *(options[n] for n in RESTORING[1:])), uses)
        else:
            say(f"{options['split']} split, {options['checkpoint']} checkpoint")
            say(metric_table({title_of(options["run"]): evaluate_run(**options)}))


def eval_parser() -> SettingsParser:
    """A parser of what `evaluate_run` takes, and of what else a run is used for."""
    parser = SettingsParser(
        prog="eval.py",
        description="Evaluates a checkpoint of a run; or, with a flag that asks for it, exports "
        "its recommendations or embeddings, saves it for serving, or evaluates its cold items. "
        "--data.path, --cold-items and --export-embeddings are understood too.",
    )
    parser.add_function_arguments(evaluate_run, as_group=False)
    parser.add_argument(
        "--export",
        type=str,
        default="",
        help="writes the k best items of every user to this .csv or .parquet file",
    )
    parser.add_argument("--k", type=PositiveInt, default=20, help="list length of the export")
    parser.add_argument(
        "--filter",
        type=Filter,
        default="train",
        help="what the export's lists leave out: the user's training items, those of validation "
        "too, or all known ones (test items and those of the run's cold items as well), or none",
    )
    parser.add_argument(
        "--export_embeddings",
        type=str,
        default="",
        help="writes user and item embeddings to this .npz or .parquet file",
    )
    parser.add_argument(
        "--save",
        type=str,
        default="",
        help="writes a folder that Recommender.load reads, without the dataset",
    )
    parser.add_argument(
        "--cold_items",
        action="store_true",
        help="ranks the items that data.cold_items held out, by their features alone",
    )
    return parser


def _spelled(flag: re.Match[str]) -> str:
    return flag[0].replace("data.path", "data_path").replace("-", "_").replace("__", "--", 1)


def check_outputs(uses: Uses) -> None:
    """Raises DatasetError or OSError for what could not be written, before the run is restored."""
    for file, suffixes in ((uses.export, LISTS), (uses.export_embeddings, EMBEDDINGS)):
        if file:
            check_suffix(Path(file), suffixes)
            check_output_file(Path(file))
    if uses.save:
        check_new_folder(Path(uses.save))
        check_output_folder(Path(uses.save))


def use_run(problem: Problem, state: TrainState, uses: Uses) -> None:
    """Exports a run's recommendations and embeddings, saves it, and evaluates its cold items, as
    asked."""
    recommender = Recommender(contents_of(problem, state))
    if uses.export:
        rows = export_lists(recommender, Path(uses.export), uses.k, filter=uses.filter)
        n_items = len(recommender.item_ids)
        print(
            f"{uses.export}: {rows:,} rows, the {uses.k} best items of each user "
            f"(left out: {uses.filter})"
        )
        if uses.k > n_items:
            print(f"there are {n_items:,} items: no list has {uses.k:,}")
    if uses.export_embeddings:
        number = write_embeddings(recommender, Path(uses.export_embeddings))
        print(f"{uses.export_embeddings}: embeddings of {number:,} users and items")
    if uses.save:
        recommender.save(uses.save)
        print(f"{uses.save}: a recommender for Recommender.load")
    if uses.cold_items:
        among_cold, among_all = evaluate_cold_items(problem, recommender)
        print(f"cold items among themselves\n{metric_table(among_cold)}")
        print(f"\ncold items among all items\n{metric_table(among_all)}")
