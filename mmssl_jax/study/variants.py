"""What a study compares: named changes of a base configuration."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmssl_jax.config import AnyConfig, Config, ConfigError, override
from mmssl_jax.method import BASE, Studied, Variant
from mmssl_jax.methods import METHODS
from mmssl_jax.study.controls import modality_controls


def base_alone(base: Config, modalities: Sequence[str]) -> list[Variant]:
    """The base configuration alone."""
    del base, modalities
    return [Variant(BASE, "the base configuration", {})]


Studies = Mapping[str, Callable[[Any, Sequence[str]], list[Variant]]]

SEEDS = "seeds"
# The studies that every method has; the first is what a method without its own does by default.
SHARED: Studies = {SEEDS: base_alone, "modalities": modality_controls}


def studies_of(method: str) -> Studies:
    """The studies of a method by name: its own, and those that all share."""
    found = METHODS[method]
    return {**(found.STUDIES if isinstance(found, Studied) else {}), **SHARED}


def study_texts(method: str) -> dict[str, str]:
    """The studies of a method by name, with what each compares."""
    return {
        name: (make.__doc__ or "").strip().splitlines()[0]
        for name, make in studies_of(method).items()
    }


def study_variants(study: str, base: Config, modalities: Sequence[str]) -> list[Variant]:
    """The variants of a study; `seeds` has the base alone.

    Raises ConfigError for a study that the base's method does not have.
    """
    studies = studies_of(base.method)
    if study not in studies:
        raise ConfigError(
            f"there is no study {study!r} of {base.method}; there are {', '.join(studies)}"
        )
    return studies[study](base, modalities)


def configure(base: AnyConfig, variant: Variant, seed: int) -> AnyConfig:
    """The configuration of one run of a study."""
    return override(base, {**variant.changes, "train.seed": seed})
