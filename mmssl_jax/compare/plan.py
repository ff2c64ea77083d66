"""What a comparison runs: each method's settings to start from, and the space around them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmssl_jax.config import Config, ConfigError, flatten, override
from mmssl_jax.files import user_path
from mmssl_jax.messages import shown
from mmssl_jax.methods import METHODS
from mmssl_jax.run_config import nearest_name, read_config, validate
from mmssl_jax.settings_yaml import Scalar, Section, read_yaml
from mmssl_jax.tune.space import Space, own_space

# They say what is measured and on which data, so no method's file has a say in them.
ALIKE = (
    "data.path", "data.format", "data.modalities", "data.seed", "data.cold_items",
    "eval.ks", "eval.mask", "train.monitor",
)  # fmt: skip
K = 20  # of the tables


class Entry(NamedTuple):
    """A method of a comparison: where it starts, and the space that trials are drawn from."""

    name: str
    config: Config
    space: Space


def plan_entries(
    names: Sequence[str], shared: Config, given: Sequence[str], starts: Mapping[str, Config]
) -> list[Entry]:
    """One entry for each method.

    A method starts from its settings in `starts`, or its defaults, under the settings of `shared`
    that are named in `given` or in ALIKE. One named in `given` is not searched over.

    Args:
      names: of the methods, all for none.
    Raises ConfigError for an unknown method, or settings that do not fit together.
    """
    unknown = [name for name in (*names, *starts) if name not in METHODS]
    if unknown:
        nearest = nearest_name(unknown[0], METHODS)
        raise ConfigError(
            f"there is no method {shown(unknown[0])}; the nearest is {nearest!r}; there are "
            f"{', '.join(METHODS)}"
        )
    if K not in shared.eval.ks:
        raise ConfigError(
            f"eval.ks is {list(shared.eval.ks)}, but the comparison's tables are of lists of {K}: "
            f"add {K}"
        )
    values = flatten(shared)
    changes = {key: values[key] for key in dict.fromkeys((*ALIKE, *given))}
    entries = []
    for name in METHODS:
        if names and name not in names:
            continue
        config = override(starts.get(name, METHODS[name].CONFIG()), changes)
        try:
            validate(config)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        space = {key: entry for key, entry in own_space(config).items() if key not in given}
        entries.append(Entry(name, config, space))
    return entries


def read_starts(places: Sequence[str]) -> dict[str, Config]:
    """{method: settings} of files, each of the method that it names; a later one replaces an
    earlier one.

    A folder stands for its *.yaml files that name a method.
    Raises ConfigError for a place that is not there, a file that holds no settings, and two files
    of one folder that name the same method.
    """
    starts: dict[str, Config] = {}
    for place in map(user_path, places):
        if not place.is_dir():
            config = read_config(place)
            starts[config.method] = config
            continue
        found: dict[str, Path] = {}
        for file in sorted(place.glob("*.yaml")):
            method = _method_of(file)
            if method in found:
                raise ConfigError(
                    f"{found[method]} and {file} are both settings of {method}: name the one that "
                    "is meant in --configs in place of the folder"
                )
            if method is not None:
                found[method] = file
        starts |= {method: read_config(file) for method, file in found.items()}
    return starts


def _method_of(file: Path) -> str | None:
    """The method that a YAML file names, if it does."""
    found = read_yaml(file, "--configs")
    if not isinstance(found, Section) or "method" not in found.entries:
        return None
    method = found.entries["method"][1]
    return method.text if isinstance(method, Scalar) and method.text else None
