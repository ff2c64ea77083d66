"""What a study compares: named changes of a base configuration."""

from collections.abc import Sequence

from mmssl_jax.config import AnyConfig, Config, ConfigError, override
from mmssl_jax.method import BASE, Studied, Variant
from mmssl_jax.methods import METHODS

SEEDS = "seeds"


def study_texts(method: str) -> dict[str, str]:
    """The studies of a method, its own and the base configuration over seeds, by name, with what
    each compares."""
    found = METHODS[method]
    texts: dict[str, str] = {}
    if isinstance(found, Studied):
        for name, make in found.STUDIES.items():
            texts[name] = (make.__doc__ or "").strip().splitlines()[0]
    return texts | {SEEDS: "The base configuration alone."}


def study_variants(study: str, base: Config, modalities: Sequence[str]) -> list[Variant]:
    """The variants of a study; `seeds` has the base alone.

    Raises ConfigError for a study that the base's method does not have.
    """
    names = study_texts(base.method)
    if study not in names:
        raise ConfigError(
            f"there is no study {study!r} of {base.method}; there are {', '.join(names)}"
        )
    if study == SEEDS:
        return [Variant(BASE, "the base configuration", {})]
    method = METHODS[base.method]
    assert isinstance(method, Studied)
    return method.STUDIES[study](base, modalities)


def configure(base: AnyConfig, variant: Variant, seed: int) -> AnyConfig:
    """The configuration of one run of a study."""
    return override(base, {**variant.changes, "train.seed": seed})
