"""The command lines: flags -> Config -> one library call."""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Literal, NoReturn

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveInt

from mmssl_jax.checkpoint import CheckpointError
from mmssl_jax.config import Config, ConfigError, override
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.recommend import Recommender
from mmssl_jax.recommend.cold_evaluation import evaluate_cold_items
from mmssl_jax.recommend.export import EMBEDDINGS, LISTS, Filter, check_suffix, export_lists
from mmssl_jax.recommend.export import export_embeddings as write_embeddings
from mmssl_jax.report.page import write_report
from mmssl_jax.reporting.log import metric_table
from mmssl_jax.run_config import config_parser, parse_config
from mmssl_jax.study.run import run_study
from mmssl_jax.study.table import markdown_text
from mmssl_jax.study.variants import StudyName
from mmssl_jax.training.epochs import RunError
from mmssl_jax.training.loop import fit
from mmssl_jax.training.restore import evaluate_run
from mmssl_jax.tune.outcome import rerun_best, write_best
from mmssl_jax.tune.search import SearchSettings, search
from mmssl_jax.tune.space import read_space

# What a user can mend: shown as a message, without a traceback.
USER_ERRORS = (ConfigError, DatasetError, RunError, CheckpointError)


def train_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `train.py` and trains."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = config_parser("train.py")
    parser.add_argument(
        "--run", type=str, default="", help="run directory (default runs/<config>-<time>)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --run; without --config it keeps the run's own settings",
    )
    saved = saved_config_of(arguments)
    if not saved and "--resume" in arguments:
        parser.error("--resume needs --run DIR; there is no run to resume: no config.yaml there")
    config, parsed = parse_config(parser, [*saved, *arguments])
    run = Path(parsed.run) if parsed.run else default_run(parsed.config or [], config.preset)
    try:
        fit(absolute_data(config), run, resume=parsed.resume)
    except USER_ERRORS as error:
        leave(error)
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"\nrun: {run}\nevaluate again: python eval.py --run {run} --split test")


def study_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `python -m mmssl_jax.study` and runs the study."""
    parser = config_parser("python -m mmssl_jax.study")
    parser.add_argument(
        "--study",
        type=StudyName,
        default="ablations",
        help="ablations: the paper's, and each modality left out; departures: each departure of "
        "the PyTorch release switched on alone; seeds: the base configuration alone",
    )
    parser.add_argument(
        "--seeds",
        type=tuple[int, ...],
        default=(1, 2, 3),
        help="seeds that every variant runs with",
    )
    parser.add_argument(
        "--only",
        type=tuple[str, ...],
        default=(),
        help="run these variants and the base; empty means all",
    )
    parser.add_argument("--out", type=str, default="", help="directory (default studies/<study>)")
    config, parsed = parse_config(parser, sys.argv[1:] if arguments is None else arguments)
    out = Path(parsed.out or f"studies/{parsed.study}")
    try:
        rows = run_study(parsed.study, absolute_data(config), out, parsed.seeds, parsed.only)
    except USER_ERRORS as error:
        leave(error)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    print(f"{markdown_text(rows)}\nruns and tables: {out}")


def tune_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `python -m mmssl_jax.tune`, searches, and runs the best with seeds."""
    parser = config_parser("python -m mmssl_jax.tune")
    default = SearchSettings()
    for name, kind, value, text in (
        ("space", str, "", "YAML file: the settings to search over, with ranges or choices"),
        ("trials", PositiveInt, 20, "trials of the search in all, those already done included"),
        ("out", str, "", "directory of the search (default tuning/<name of the space file>)"),
        ("seeds", tuple[int, ...], (1, 2, 3), "seeds that the best runs with; [] leaves it out"),
        ("search_seed", NonNegativeInt, default.seed, "seed of the trials' suggestions"),
        ("warmup_trials", NonNegativeInt, default.warmup_trials, "trials before any is pruned"),
        ("warmup_epochs", NonNegativeInt, default.warmup_epochs, "epochs before one is pruned"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=value, help=text)
    config, parsed = parse_config(parser, sys.argv[1:] if arguments is None else arguments)
    if not parsed.space:
        parser.error(
            "--space FILE is missing: what to search over, such as configs/space_tiktok.yaml"
        )
    out = Path(parsed.out or f"tuning/{Path(parsed.space).stem}")
    settings = SearchSettings(parsed.search_seed, parsed.warmup_trials, parsed.warmup_epochs)
    base = absolute_data(config)
    try:
        space = read_space(Path(parsed.space), base)
        trials = search(base, space, out, parsed.trials, settings, print)
        best, best_config = write_best(base, trials, out)
        print(f"best: {best.run}; train with it: python train.py --config {out / 'best.yaml'}")
        if parsed.seeds:
            print(f"\n{rerun_best(best_config, best.run, out, parsed.seeds)}")
    except USER_ERRORS as error:
        leave(error)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)


def absolute_data(config: Config) -> Config:
    """The same settings with the dataset's folder as an absolute path, since a run is evaluated
    from any folder."""
    if not config.data.path:
        return config
    return override(config, {"data.path": str(Path(config.data.path).absolute())})


def saved_config_of(arguments: list[str]) -> list[str]:
    """With --resume, the run's own settings come first, so that a bare --resume changes none."""
    # jsonargparse does not look past what it does not know, and --help is not its business here.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--run", type=str, default="")
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(arguments)
    saved = Path(known.run) / "config.yaml"
    return ["--config", str(saved)] if known.resume and known.run and saved.is_file() else []


def default_run(files: list, preset: str) -> Path:
    """runs/<name of the last config file>-<local time>."""
    name = Path(str(files[-1])).stem if files else preset
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def eval_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `eval.py`, restores a checkpoint and prints its metrics or exports."""
    parser = ArgumentParser(
        prog="eval.py",
        description="Evaluates a checkpoint of a run; or, with a flag that asks for it, exports "
        "its recommendations or embeddings, or evaluates its cold items. --data.path, --cold-items "
        "and --export-embeddings are understood too.",
        allow_abbrev=False,
    )
    parser.add_function_arguments(evaluate_run, as_group=False)
    parser.add_function_arguments(use_run, as_group=False, skip={*RESTORING, "cold_items"})
    parser.add_argument(
        "--cold_items",
        action="store_true",
        help="ranks the items that data.cold_items held out, by their features alone",
    )
    arguments = sys.argv[1:] if arguments is None else arguments
    arguments = [EVAL_SPELLINGS.sub(_spelled, text) for text in arguments]
    parsed = parser.parse_args(arguments)
    given = {text.split("=")[0] for text in arguments}
    if "--k" in given and not parsed.export:
        parser.error("--k is the length of --export's lists; a run's own eval.ks are evaluated")
    if "--filter" in given and not parsed.export:
        parser.error(
            "--filter says what --export's lists leave out; evaluation masks what eval.mask says"
        )
    if "--split" in given and (parsed.export or parsed.export_embeddings or parsed.cold_items):
        parser.error("--split is for evaluating: exports and cold items have none")
    options = parsed.as_dict()
    names = ("export", "k", "filter", "export_embeddings", "cold_items")
    uses = {name: options.pop(name) for name in names}
    try:
        if uses["export"] or uses["export_embeddings"] or uses["cold_items"]:
            use_run(**{name: options[name] for name in RESTORING}, **uses)
        else:
            print(f"{options['split']} split, {options['checkpoint']} checkpoint")
            print(metric_table({"MMSSL": evaluate_run(**options)}))
    except USER_ERRORS as error:
        leave(error)


# What else the flags of eval.py may be called: train.py's spelling, and dashes.
EVAL_SPELLINGS = re.compile(r"^--(data\.path|data-path|cold-items|export-embeddings)(?==|$)")
RESTORING = ("run", "checkpoint", "data_path", "devices")


def _spelled(flag: re.Match[str]) -> str:
    return flag[0].replace("data.path", "data_path").replace("-", "_").replace("__", "--", 1)


def use_run(
    run: str,
    checkpoint: Literal["best", "last"] = "best",
    data_path: str = "",
    devices: int = 0,
    export: str = "",
    k: PositiveInt = 20,
    filter: Filter = "train",
    export_embeddings: str = "",
    cold_items: bool = False,
) -> None:
    """Exports a run's recommendations and embeddings, and evaluates its cold items, as asked.

    Args:
        export: writes the k best items of every user to this .csv or .parquet file.
        k: list length of the export.
        filter: what the export's lists leave out: the user's training items, those of validation
            too, or all known ones: test items and those of the run's cold items as well.
        export_embeddings: writes user and item embeddings to this .npz or .parquet file.
        cold_items: ranks the items that data.cold_items held out, by their features alone.
    """
    for file, suffixes in ((export, LISTS), (export_embeddings, EMBEDDINGS)):
        if file:
            check_suffix(Path(file), suffixes)
    recommender = Recommender.from_run(run, checkpoint, data_path, devices)
    if export:
        rows = export_lists(recommender, Path(export), k, leave_out=filter)
        n_items = recommender.dataset.n_items
        print(f"{export}: {rows:,} rows, the {k} best items of each user (left out: {filter})")
        if k > n_items:
            print(f"there are {n_items:,} items: no list has {k:,}")
    if export_embeddings:
        number = write_embeddings(recommender, Path(export_embeddings))
        print(f"{export_embeddings}: embeddings of {number:,} users and items")
    if cold_items:
        among_cold, among_all = evaluate_cold_items(recommender)
        print(f"cold items among themselves\n{metric_table(among_cold)}")
        print(f"\ncold items among all items\n{metric_table(among_all)}")


def report_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `python -m mmssl_jax.report` and writes the page."""
    parser = ArgumentParser(
        prog="python -m mmssl_jax.report",
        description="Writes one HTML page about one or several runs.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", help="directories of runs, finished or not")
    parser.add_function_arguments(write_report, as_group=False, skip={"runs"})
    parsed = parser.parse_args(arguments)
    try:
        page = write_report(**parsed.as_dict())
    except USER_ERRORS as error:
        leave(error)
    print(f"report: {page}")


def leave(error: Exception) -> NoReturn:
    """Prints what a user can mend, and exits with status 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
