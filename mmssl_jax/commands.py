"""The command lines of `train.py`, `eval.py` and the report: flags -> one library call."""

import argparse
import sys
import time
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser

from mmssl_jax.checkpoint import CheckpointError
from mmssl_jax.config import ConfigError, override
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.report.page import write_report
from mmssl_jax.reporting.log import metric_table
from mmssl_jax.run_config import config_parser, parse_config
from mmssl_jax.training.loop import RunError, fit
from mmssl_jax.training.restore import evaluate_run

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
    if config.data.path:
        # A run is evaluated from any folder.
        config = override(config, {"data.path": str(Path(config.data.path).absolute())})
    try:
        fit(config, run, resume=parsed.resume)
    except USER_ERRORS as error:
        leave(error)
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"\nrun: {run}\nevaluate again: python eval.py --run {run} --split test")


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
    """Parses the flags of `eval.py`, restores a checkpoint and prints its metrics."""
    parser = ArgumentParser(
        prog="eval.py", description="Evaluates a checkpoint of a run.", allow_abbrev=False
    )
    parser.add_function_arguments(evaluate_run, as_group=False)
    parsed = parser.parse_args(arguments)
    try:
        metrics = evaluate_run(**parsed.as_dict())
    except USER_ERRORS as error:
        leave(error)
    print(metric_table({"MMSSL": metrics}))


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
