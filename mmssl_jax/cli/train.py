"""`python train.py`: flags -> settings -> `fit`."""

import argparse
import shlex
import sys
import time
import warnings
from pathlib import Path

from mmssl_jax.cli.errors import reported
from mmssl_jax.config import AnyConfig, override
from mmssl_jax.files import check_output_folder, user_path
from mmssl_jax.hosts import agreed, is_primary, join, leaving_at_once
from mmssl_jax.methods import DEFAULT
from mmssl_jax.run_config import (
    ConfigParser,
    check_config_file,
    config_files,
    config_parser,
    parse_config,
)
from mmssl_jax.training.loop import fit


def train_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `train.py` and trains."""
    given = sys.argv[1:] if arguments is None else arguments
    saved = saved_config_of(given)
    parser = config_parser("train.py", [*saved, *given])
    parser.add_argument(
        "--run", type=str, default="", help="run directory (default runs/<config>-<time>)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --run; without --config it keeps the run's own settings",
    )
    if not saved and "--resume" in given:
        parser.error("--resume needs --run DIR; there is no run to resume: no config.yaml there")
    if saved:
        refuse_another_method(parser, Path(saved[1]))
    config, parsed = parse_config(parser, [*saved, *given])
    with leaving_at_once(), reported(""):
        join(config.parallel)
        if not is_primary():
            warnings.simplefilter("ignore")
        name = agreed(parsed.run or str(default_run(config_files(given), config.method)))
        run = user_path(name)
        check_output_folder(run)
        fit(absolute_data(config), run, resume=parsed.resume)
    if is_primary():
        again = f"python eval.py --run {shlex.quote(str(run))} --split test"
        print(f"\nrun: {run}\nevaluate again: {again}")


def absolute_data(config: AnyConfig) -> AnyConfig:
    """The same settings with the dataset's folder as an absolute path, since a run is evaluated
    from any folder."""
    if not config.data.path:
        return config
    return override(config, {"data.path": str(user_path(config.data.path).absolute())})


def saved_config_of(arguments: list[str]) -> list[str]:
    """With --resume, the run's own settings come first, so that a bare --resume changes none."""
    # jsonargparse does not look past what it does not know, and --help is not its business here.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--run", type=str, default="")
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(arguments)
    saved = user_path(known.run) / "config.yaml"
    return ["--config", str(saved)] if known.resume and known.run and saved.is_file() else []


def refuse_another_method(parser: ConfigParser, saved: Path) -> None:
    """Leaves with a message where a run of one method is to be resumed as one of another."""
    own = check_config_file(parser, saved).get("method", DEFAULT)
    asked = parser.settings_class().method
    if own != asked:
        parser.error(f"{saved.parent} is a run of {own}, which cannot go on as one of {asked}")


def default_run(files: list, method: str) -> Path:
    """runs/<name of the last config file, or the method's>-<local time>."""
    name = Path(str(files[-1])).stem if files else method
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
