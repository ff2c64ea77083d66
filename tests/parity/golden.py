"""Reads a golden directory: what the PyTorch release computed, and with which settings."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmssl_jax.config import Config, override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.readers import read_dataset
from mmssl_jax.losses.adversarial import GameDraws
from mmssl_jax.presets import preset_config
from mmssl_jax.training.draws import Draws
from mmssl_jax.training.sampling import Batch
from mmssl_jax.training.state import Inputs, Sizes, make_inputs, problem_sizes


class Golden(NamedTuple):
    """A golden directory, opened."""

    arrays: dict[str, np.ndarray]
    constants: dict[str, Any]
    dataset: Dataset
    config: Config
    inputs: Inputs
    sizes: Sizes


def read_golden(directory: Path) -> Golden:
    """Arrays, constants, dataset and the `released` settings that match them."""
    arrays = dict(np.load(directory / "golden.npz"))
    constants = json.loads((directory / "config.json").read_text())
    (folder,) = [path for path in (directory / "data").iterdir() if path.is_dir()]
    dataset = read_dataset(folder)
    config = golden_config(constants)
    return Golden(
        arrays,
        constants,
        dataset,
        config,
        make_inputs(dataset, config),
        problem_sizes(dataset, config, 1),
    )


def golden_config(constants: dict[str, Any]) -> Config:
    """The `released` preset with the golden run's sizes and rates, and no dropout."""
    return override(
        preset_config("released"),
        {
            "model.dim": constants["dim"],
            "model.heads": constants["heads"],
            "model.gnn_layers": constants["gnn_layers"],
            "model.dropout": 0.0,
            "model.id_fusion": constants["id_cat_rate"],
            "model.feature_fusion": constants["model_cat_rate"],
            "structure.k": constants["topk"],
            "structure.k_rate": None,
            "structure.every": constants["T"],
            "critic.dropout": (0.0, 0.0),
            "game.weight": constants["g_rate"],
            "game.gradient_penalty": constants["gp_lambda"] * constants["gp_rate"],
            "game.temperature": constants["real_data_tau"],
            "game.gumbel_scale": constants["log_log_scale"],
            "game.score_weight": float(constants["ui_pre_scale"]),
            "loss.embedding_l2": constants["l2"],
            "loss.feature_l2": constants["feat_reg"],
            "loss.contrastive": constants["cl_rate"],
            "loss.temperature": constants["tau"],
            "sampling.batch_size": constants["batch"],
            "optim.lr": constants["lr"],
            "optim.critic_lr": constants["critic_lr"],
            "optim.weight_decay": constants["weight_decay"],
            "eval.ks": tuple(constants["ks"]),
        },
    )


def generator_params(arrays: dict[str, np.ndarray], prefix: str) -> dict:
    """The generator's parameters or gradients under `prefix`, in this project's layout."""
    names = [key[len(prefix) + 1 :] for key in arrays if key.startswith(prefix + "/")]
    modalities = [name.split("_trans")[0] for name in names if name.endswith("_trans.weight")]
    return jax.tree.map(
        jnp.asarray,
        {
            "encoder": {
                modality: {
                    "kernel": arrays[f"{prefix}/{modality}_trans.weight"].T,
                    "bias": arrays[f"{prefix}/{modality}_trans.bias"],
                }
                for modality in sorted(modalities)
            },
            "user_embedding": arrays[f"{prefix}/user_id_embedding.weight"],
            "item_embedding": arrays[f"{prefix}/item_id_embedding.weight"],
            "attention": {"output": arrays[f"{prefix}/weight_dict.w_self_attention_cat"]},
        },
    )


def critic_params(arrays: dict[str, np.ndarray], prefix: str) -> dict:
    """The critic's parameters or gradients under `prefix`, in this project's layout."""

    def get(name: str) -> np.ndarray:
        return arrays[f"{prefix}/net.{name}"]

    return jax.tree.map(
        jnp.asarray,
        {
            "first_kernel": get("0.weight").T,
            "first_bias": get("0.bias"),
            "norm_0": {"scale": get("2.weight"), "bias": get("2.bias")},
            "dense_1": {"kernel": get("4.weight").T, "bias": get("4.bias")},
            "norm_1": {"scale": get("6.weight"), "bias": get("6.bias")},
            "score": {"kernel": get("8.weight").T, "bias": get("8.bias")},
        },
    )


def golden_draws(golden: Golden, step: int) -> Draws:
    """The injected randomness of a step."""
    arrays, prefix = golden.arrays, f"step{step}"
    n_modalities = len(golden.dataset.features)
    alpha = arrays[f"{prefix}/alpha"].reshape(n_modalities, -1).T
    key = jax.random.key(0)
    return Draws(
        batch=Batch(*(jnp.asarray(arrays[f"{prefix}/{name}"]) for name in ("users", "pos", "neg"))),
        game=GameDraws(jnp.asarray(arrays[f"{prefix}/gumbel_uniform"]), jnp.asarray(alpha), key),
        critic_forward=key,
        generator_forward=key,
        generator_critic=key,
    )
