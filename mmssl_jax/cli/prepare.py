"""The command line: flags and YAML files -> Settings -> `prepare`."""

import dataclasses
import shlex
import sys
from typing import Any

from jsonargparse import Namespace

from mmssl_jax.cli.stops import stoppable
from mmssl_jax.config import ConfigError, SamplingConfig
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.files import user_text
from mmssl_jax.messages import clipped, shown
from mmssl_jax.prepare.pipeline import prepare
from mmssl_jax.prepare.settings import Settings
from mmssl_jax.prepare.write import summary_table
from mmssl_jax.settings_parser import SettingsParser

STOPPED = "stopped; what was encoded is kept, and the same command goes on from there"


def prepare_parser() -> SettingsParser:
    """A parser of `--config FILE` and of every field of Settings as a dotted flag."""
    parser = SettingsParser(
        prog="python -m mmssl_jax.prepare",
        description="Turns a table of interactions, and the items' texts, images or features, "
        "into a dataset folder for train.py.",
    )
    parser.settings_class = Settings
    parser.add_argument("--config", action="config", help="YAML file of settings; may be repeated")
    parser.add_class_arguments(Settings, as_group=False)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, prepares, and prints the summary; exits with 2 on what a user can mend."""
    parser = prepare_parser()
    given = sys.argv[1:] if arguments is None else arguments
    found = parser.parse_args(given)
    for entry in dataclasses.fields(Settings):
        if dataclasses.is_dataclass(entry.type) and not isinstance(found[entry.name], Namespace):
            parser.error(f"{entry.name} is {shown(found[entry.name])}, expected settings by name")
    for group in ("text", "image"):
        encoder, flag = found[group].encoder, f"--{group}.encoder"
        if ":" in encoder and not any(word.startswith(flag) for word in given):
            parser.error(
                f"{group}.encoder is {shown(encoder)} in a settings file, which may not name code "
                f"to run: give the function with {flag}"
            )
    parsed = parser.instantiate(found)
    names = [entry.name for entry in dataclasses.fields(Settings)]
    settings = Settings(**{name: parsed[name] for name in names})
    try:
        with stoppable(STOPPED):
            summary = prepare(settings)
    except (ConfigError, DatasetError) as error:
        print(clipped(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
    except (OSError, MemoryError) as error:  # a disk that fails, or is too small; no memory
        print(clipped(f"error: {str(error) or 'not enough memory'}"), file=sys.stderr)
        sys.exit(2)
    out = user_text(settings.out)
    print(summary_table(summary))
    print(f"\ndataset: {out}\ntrain: {train_command(out, summary)}")


def train_command(out: str, summary: dict[str, Any]) -> str:
    """The command that trains on the folder; with a batch of some of its users if the default one
    would take more than there are."""
    command, users = f"python train.py --data.path {shlex.quote(out)}", summary["kept"]["users"]
    if users >= SamplingConfig().batch_size:
        return command
    return f"{command} --sampling.batch_size {2 ** max(0, (users // 2).bit_length() - 1)}"
