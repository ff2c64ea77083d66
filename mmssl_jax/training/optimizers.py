"""Both players' optimizers."""

import optax

from mmssl_jax.config import OptimConfig


def generator_optimizer(config: OptimConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW with rate lr * lr_decay^(epoch/50), the epoch counted in whole epochs from 0."""

    def rate(count):
        return config.lr * config.lr_decay ** ((count // steps_per_epoch) / 50)

    return optax.adamw(rate, weight_decay=config.weight_decay)


def critic_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Adam with the critic's rate and betas."""
    beta_1, beta_2 = config.critic_betas
    return optax.adam(config.critic_lr, b1=beta_1, b2=beta_2)
