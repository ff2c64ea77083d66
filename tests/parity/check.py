"""Holds the `released` preset against golden numbers: `python -m tests.parity.check DIR`."""

import sys
from pathlib import Path

from mmssl_jax.data.dataset import DatasetError
from tests.parity.golden import Golden, GoldenError, read_golden
from tests.parity.quantities import Error, all_errors, left_out


def report(errors: list[Error]) -> str:
    """One line per quantity, and the worst relative error last."""
    width = max(len(error.quantity) for error in errors)
    lines = [
        f"{error.quantity:<{width}}  {error.error:9.2e}  tolerance {error.tolerance:.0e}"
        + ("" if error.error <= error.tolerance else "  EXCEEDED")
        for error in errors
    ]
    worst = max(errors, key=lambda error: error.error)
    return "\n".join([*lines, f"worst relative error {worst.error:.2e} ({worst.quantity})"])


def not_covered(golden: Golden) -> list[str]:
    """What this golden run cannot show."""
    steps, refresh = golden.constants["steps"], golden.constants["T"]
    parts = [f"loss {name}, whose weight is 0" for name in left_out(golden)]
    if steps <= refresh + 1:
        parts.append(f"a rebuilt graph, which step {refresh + 1} would use: there are {steps}")
    return parts


def main(arguments: list[str]) -> int:
    """Checks the directory named by the only argument; 0 when every tolerance is kept."""
    if len(arguments) != 1 or not (Path(arguments[0]) / "golden.npz").is_file():
        print("usage: python -m tests.parity.check DIR (with golden.npz, config.json, data/)")
        return 2
    try:
        golden = read_golden(Path(arguments[0]))
    except (GoldenError, DatasetError) as error:
        print(f"error: {error}")
        return 1
    errors = all_errors(golden)
    for what in not_covered(golden):
        print(f"not covered: {what}")
    print(report(errors))
    return int(any(not error.error <= error.tolerance for error in errors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
