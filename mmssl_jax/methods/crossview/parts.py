"""What CrossView's own study compares: the method without each of its parts."""

from collections.abc import Sequence

from mmssl_jax.method import BASE, Variant
from mmssl_jax.methods.crossview.config import CrossViewConfig


def parts(base: CrossViewConfig, modalities: Sequence[str]) -> list[Variant]:
    """Without each part in turn, and with the adversarial game."""
    del modalities
    game = base.game.weight or 1e-2
    return [
        Variant(BASE, "the whole method", {}),
        Variant("w-o-user-view", "without the view of users", {"view.user_hops": 0}),
        Variant("w-o-item-view", "without the view of items", {"view.item_hops": 0}),
        Variant("taste", "with the users' taste", {"view.taste_weight": 0.5}),
        Variant(
            "w-o-contrast", "without contrasts", {"contrast.users": 0.0, "contrast.items": 0.0}
        ),
        Variant("bpr", "BPR in place of the softmax", {"softmax.kind": "bpr"}),
        Variant("by-user", "users drawn, not interactions", {"sampling.by": "user"}),
        Variant("last", "the last parameters, not their average", {"averaging": 0.0}),
        Variant("w-o-game" if base.game.weight else "game", *_other_game(base.game.weight, game)),
    ]


def _other_game(now: float, weight: float) -> tuple[str, dict[str, float]]:
    if now:
        return "without the adversarial game", {"game.weight": 0.0}
    return f"with the adversarial game, weight {weight:g}", {"game.weight": weight}
