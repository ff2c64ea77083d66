"""`python -m mmssl_jax.tune`: flags -> settings -> a search, and the best of it over seeds."""

import shlex
import sys
from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt

from mmssl_jax.cli.errors import GOES_ON, reported
from mmssl_jax.cli.train import absolute_data
from mmssl_jax.files import user_path
from mmssl_jax.run_config import config_parser, parse_config
from mmssl_jax.tune.outcome import rerun_best, write_best
from mmssl_jax.tune.search import SearchSettings, search
from mmssl_jax.tune.space import own_space, read_space


def tune_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `python -m mmssl_jax.tune`, searches, and runs the best with seeds."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = config_parser("python -m mmssl_jax.tune", given)
    default = SearchSettings()
    for name, kind, value, text in (
        ("space", str, "",
         "YAML file: the settings to search over, with ranges or choices; without one, those that "
         "the method declares"),
        ("trials", PositiveInt, 20, "trials of the search in all, those already done included"),
        ("out", str, "", "directory of the search (default tuning/<name of the space file, or "
         "of the method>)"),
        ("seeds", tuple[int, ...], (1, 2, 3), "seeds that the best runs with; [] leaves it out"),
        ("search_seed", NonNegativeInt, default.seed, "seed of the trials' suggestions"),
        ("warmup_trials", NonNegativeInt, default.warmup_trials, "trials before any is pruned"),
        ("warmup_epochs", NonNegativeInt, default.warmup_epochs, "epochs before one is pruned"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=value, help=text)
    config, parsed = parse_config(parser, given)
    if not parsed.space and not own_space(config):
        parser.error(f"--space FILE is missing: {config.method} declares no space of its own")
    out = user_path(parsed.out or f"tuning/{Path(parsed.space).stem or config.method}")
    settings = SearchSettings(parsed.search_seed, parsed.warmup_trials, parsed.warmup_epochs)
    base = absolute_data(config)
    with reported(GOES_ON):
        space = read_space(Path(parsed.space), base) if parsed.space else own_space(base)
        trials = search(base, space, out, parsed.trials, settings, print)
        best, best_config = write_best(base, trials, out)
        file = shlex.quote(str(out / "best.yaml"))
        print(f"best: {best.run}; train with it: python train.py --config {file}")
        if parsed.seeds:
            print(f"\n{rerun_best(best_config, best.run, out, parsed.seeds)}")
