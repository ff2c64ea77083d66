"""`python -m mmssl_jax.study --study methods`: flags -> settings -> `compare_methods`."""

import argparse
from collections.abc import Sequence

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt
from tqdm import tqdm

from mmssl_jax.cli.errors import GOES_ON, reported
from mmssl_jax.cli.train import absolute_data
from mmssl_jax.compare.outcome import Budget
from mmssl_jax.compare.plan import plan_entries, read_starts
from mmssl_jax.compare.run import compare_methods
from mmssl_jax.compare.table import markdown_text
from mmssl_jax.config import Config, flatten, override
from mmssl_jax.files import user_path, user_text
from mmssl_jax.run_config import PATHS, ConfigParser, convert
from mmssl_jax.tune.search import SearchSettings

STUDY = "methods"
TEXT = "All methods, each after a search of its own (--study methods --help)."


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Whether the flags ask for the study over methods, whose settings are not those of one."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--study", default="")
    return bool(first.parse_known_args(arguments)[0].study == STUDY)


def compare_command(given: list[str]) -> None:
    """Parses the flags of `--study methods` and runs the comparison."""
    parser = compare_parser()
    parsed = parser.parse_args(given)
    known = flatten(Config())
    values = {key: value for key, value in parsed.items() if key in known}
    values |= {key: user_text(values[key]) for key in PATHS}
    # Without defaults, only what the flags name is there.
    named = parser.parse_args(given, defaults=False)
    settings = [key for key, _ in named.items() if key in known]
    places = (parsed.configs,) if isinstance(parsed.configs, str) else parsed.configs
    search = SearchSettings(parsed.search_seed, minutes=parsed.minutes)
    out = user_path(parsed.out)
    with reported(GOES_ON):
        shared = absolute_data(convert(override(Config(), values)))
        entries = plan_entries(parsed.only, shared, settings, read_starts(places))
        budget = Budget(parsed.trials, parsed.seeds, search)
        rows = compare_methods(entries, out, budget, tqdm.write)
    print(f"\n{markdown_text(rows) if rows else 'no run has finished'}")
    print(f"runs and tables: {out}; the page: {out / 'index.html'}")


def compare_parser() -> ConfigParser:
    """A parser of the settings that all methods share, and of the comparison's own flags."""
    parser = ConfigParser(
        prog="python -m mmssl_jax.study --study methods",
        description="Compares methods: for each a search in the space that it declares, then its "
        "best settings over seeds. A setting given here holds for all methods, and is not searched "
        "over.",
    )
    default = Budget()
    parser.add_argument("--study", choices=(STUDY,), default=STUDY, help=TEXT)
    for name, kind, value, text in (
        ("only", tuple[str, ...], (), "run these methods; empty means all"),
        ("configs", tuple[str, ...] | str, (),
         "YAML files of the settings that methods start from, each under its method, or folders "
         "of such; without one a method starts from its defaults"),
        ("trials", NonNegativeInt, default.trials, "trials of each method in all; 0: no search"),
        ("minutes", NonNegativeFloat, 0.0,
         "no trial of a method begins after as many minutes of trials; 0 means no such limit"),
        ("search_seed", NonNegativeInt, default.search.seed, "seed of the trials' suggestions"),
        ("seeds", tuple[int, ...], default.seeds, "seeds that the chosen settings run with"),
        ("out", str, f"studies/{STUDY}", "directory of the comparison"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=value, help=text)
    parser.add_class_arguments(Config, as_group=False, skip={"method"})
    return parser
