"""What the studies of MMSSL compare: named changes of a base configuration."""

from collections.abc import Sequence
from typing import Any

from mmssl_jax.config import ConfigError, flatten
from mmssl_jax.method import BASE, Variant
from mmssl_jax.methods.mmssl.config import MMSSLConfig
from mmssl_jax.methods.mmssl.presets import DEPARTURES, PRESETS

NOT_STUDIED = ("critic.hidden", "loss.mask_repeated")


def ablations(base: MMSSLConfig, modalities: Sequence[str]) -> list[Variant]:
    """The paper's ablations, and each modality left out in turn where there are several."""
    del base  # whatever it is, each variant changes one thing of it
    variants = [
        Variant(BASE, "the whole method", {}),
        Variant("w-o-ASL", "without the adversarial game", {"game.weight": 0.0}),
        Variant("w-o-CL", "without the contrastive loss", {"loss.contrastive": 0.0}),
        Variant(
            "w-o-GT", "real rows as they are, not Gumbel-softened", {"game.real_rows": "observed"}
        ),
        Variant(
            "r-p-GAE", "edge likelihood in place of the game", {"game.kind": "edge_likelihood"}
        ),
    ]
    for left_out in modalities if len(modalities) > 1 else ():
        kept = tuple(name for name in modalities if name != left_out)
        variants.append(
            Variant(f"w-o-{left_out}", f"modality {left_out} left out", {"data.modalities": kept})
        )
    return variants


def departures(base: MMSSLConfig, modalities: Sequence[str]) -> list[Variant]:
    """Each departure of the PyTorch release switched on alone, then all of them together.

    A switch that needs another to be valid brings it along, so `04-edge_users` differs from
    `11-source` by the tiling alone. Left out are the critic's widths, which cost most and mean
    least, and row 23, which shows only where a batch holds a user twice.
    Raises ConfigError unless the base is the paper preset in what is switched.
    """
    del modalities  # the switches are the same whatever there are
    now, paper = flatten(base), PRESETS["paper"]
    changed = [k for k, v in paper.items() if now[k] != v and k not in NOT_STUDIED]
    if changed:
        raise ConfigError(
            f"the study of departures starts from the paper preset, but {', '.join(changed)} "
            "differ from it: take these settings out"
        )
    # Edges are collected from batches only where they become the graph every T steps, and the
    # release's tiling is a property of that collection. T = 1 would leave the graph empty after one
    # step (row 3), so nothing else would show; T = 2 keeps the edges of one batch.
    batches: dict[str, Any] = {"structure.source": "batches", "structure.every": 2}
    along = {"structure.source": batches, "structure.edge_users": batches}
    variants = [Variant(BASE, "the base configuration", {})]
    together: dict[str, Any] = {}
    for departure in DEPARTURES:
        if departure.key in NOT_STUDIED:
            continue
        changes = {departure.key: departure.released, **along.get(departure.key, {})}
        together[departure.key] = departure.released
        name = f"{departure.row:02d}-{departure.key.split('.')[1]}"
        variants.append(Variant(name, departure.what, changes))
    return [*variants, Variant("released", "all of them", together)]
