"""`python -m mmssl_jax.report`: flags -> `write_report`."""

from mmssl_jax.cli.errors import reported
from mmssl_jax.report.page import write_report
from mmssl_jax.settings_parser import SettingsParser


def report_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `python -m mmssl_jax.report` and writes the page."""
    parser = SettingsParser(
        prog="python -m mmssl_jax.report",
        description="Writes one HTML page about one or several runs.",
    )
    parser.add_argument("runs", nargs="+", help="directories of runs, finished or not")
    parser.add_function_arguments(write_report, as_group=False, skip={"runs"})
    parsed = parser.parse_args(arguments)
    with reported():
        page = write_report(**parsed.as_dict())
    print(f"report: {page}")
