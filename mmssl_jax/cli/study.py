"""`python -m mmssl_jax.study`: flags -> settings -> `run_study`, or a comparison of methods."""

import sys

from mmssl_jax.cli import compare
from mmssl_jax.cli.errors import GOES_ON, reported
from mmssl_jax.cli.train import absolute_data
from mmssl_jax.files import user_path
from mmssl_jax.run_config import config_parser, parse_config
from mmssl_jax.study.run import run_study
from mmssl_jax.study.table import markdown_text
from mmssl_jax.study.variants import study_texts


def study_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `python -m mmssl_jax.study` and runs the study."""
    given = sys.argv[1:] if arguments is None else arguments
    if compare.is_asked_for(given):
        compare.compare_command(given)
        return
    parser = config_parser("python -m mmssl_jax.study", given)
    texts = study_texts(parser.settings_class().method) | {compare.STUDY: compare.TEXT}
    parser.add_argument(
        "--study",
        choices=tuple(texts),
        default=next(iter(texts)),
        help=" ".join(f"{name}: {text}" for name, text in texts.items()),
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
    config, parsed = parse_config(parser, given)
    out = user_path(parsed.out or f"studies/{parsed.study}")
    with reported(GOES_ON):
        rows = run_study(parsed.study, absolute_data(config), out, parsed.seeds, parsed.only)
    print(f"{markdown_text(rows)}\nruns and tables: {out}")
