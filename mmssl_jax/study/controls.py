"""What the features are worth to a method: a study of controls that every method shares."""

from collections.abc import Sequence
from typing import Any

from mmssl_jax.config import Config, ConfigError
from mmssl_jax.method import BASE, Variant, uses_features
from mmssl_jax.methods import METHODS

SHARES = (0.05, 0.1, 0.2)


def modality_controls(base: Config, modalities: Sequence[str]) -> list[Variant]:
    """Trained anew with noise, shuffled, constant or misplaced features, and each modality alone.

    Raises ConfigError for a method or a dataset without features, and where the base replaces them.
    """
    require_features(base, modalities)
    several = len(modalities) > 1
    variants = [
        Variant(BASE, "the features as they are", {}),
        Variant("noise", "noise in place of all features", {"data.features": "noise"}),
        Variant("shuffled", "each item has another's features", {"data.features": "shuffled"}),
    ]
    if several:
        variants.append(
            Variant(
                "shuffled-each",
                "the same, another item's in each modality",
                {"data.features": "shuffled_each"},
            )
        )
    variants.append(
        Variant("constant", "every item has the same features", {"data.features": "constant"})
    )
    for name in modalities if several else ():
        changes: dict[str, Any] = {"data.features": "noise", "data.replaced": (name,)}
        variants.append(Variant(f"noise-{name}", f"noise in place of {name}", changes))
    for name in modalities if several else ():
        variants.append(Variant(f"only-{name}", f"{name} alone", {"data.modalities": (name,)}))
    for share in SHARES:
        changes = {"data.features": "misplaced", "data.misplaced": share}
        what = f"{share:.0%} of the items have another's features"
        variants.append(Variant(f"misplaced-{100 * share:02.0f}", what, changes))
    return [
        *variants,
        Variant(
            "random-neighbours",
            "random items in place of the nearest, where a method looks for them",
            {"data.neighbours": "random"},
        ),
        Variant(
            "shuffled-later",
            "the base's states, ranking with another item's features",
            {"data.features": "shuffled"},
            state_of=BASE,
        ),
    ]


def require_features(base: Config, modalities: Sequence[str]) -> None:
    """Raises ConfigError unless there are features to study, and the base has them as they are."""
    kind = METHODS[base.method]
    if not uses_features(kind):
        raise ConfigError(
            f"{kind.TITLE} uses no features of items, so there is nothing to replace: study a "
            "method that does, with --method NAME"
        )
    if not modalities:
        raise ConfigError("the dataset has no features of items, so there is nothing to replace")
    for key, value, usual in (
        ("features", base.data.features, "real"),
        ("neighbours", base.data.neighbours, "nearest"),
    ):
        if value != usual:
            raise ConfigError(
                f"data.{key} is {value}, but this study compares with {usual}: leave it out"
            )
