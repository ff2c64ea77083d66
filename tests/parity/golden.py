"""Reads a golden directory: what the PyTorch release computed, and with which settings."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmssl_jax.config import override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.readers import read_dataset
from mmssl_jax.methods.mmssl.config import MMSSLConfig, preset_config
from mmssl_jax.methods.mmssl.draws import Draws, GameDraws
from mmssl_jax.methods.mmssl.state import Inputs, Setup, make_inputs, problem_sizes
from mmssl_jax.sampling import Batch

CRITIC_ROWS = ("fake", "real", "interpolated", "generator")


class Golden(NamedTuple):
    """A golden directory, opened. `modalities` in the release's order, which rows and alpha follow;
    this project's own order is alphabetical."""

    arrays: dict[str, np.ndarray]
    modalities: tuple[str, ...]
    constants: dict[str, Any]
    dataset: Dataset
    setup: Setup
    inputs: Inputs


class GoldenError(ValueError):
    """A golden directory that lacks something, or contradicts itself."""


def read_golden(directory: Path) -> Golden:
    """Arrays, constants, dataset and the `released` settings that match them.

    Raises GoldenError for arrays that are missing or are not the dataset folder's.
    """
    arrays = dict(np.load(directory / "golden.npz"))
    constants = json.loads((directory / "config.json").read_text())
    (folder,) = [path for path in (directory / "data").iterdir() if path.is_dir()]
    suffix = "_trans.weight"
    trained = [key for key in arrays if key.startswith("init/generator/") and key.endswith(suffix)]
    names = {key.removeprefix("init/generator/").removesuffix(suffix) for key in trained}
    modalities = tuple(
        key.removeprefix("data/") for key in arrays if key.removeprefix("data/") in names
    )
    require_arrays(arrays, modalities, constants["steps"])
    dataset = golden_dataset(read_dataset(folder, modalities=modalities), arrays, constants)
    config = golden_config(constants)
    inputs, sizes = make_inputs(dataset, config), problem_sizes(dataset, config, 1)
    degree = np.bincount(dataset.train[:, 0], minlength=dataset.n_users)
    batches = [degree[arrays[f"step{step}/users"]] for step in range(constants["steps"])]
    sizes = sizes._replace(
        # The release's steps are one epoch, however long an epoch of the dataset is.
        steps_per_epoch=max(sizes.steps_per_epoch, constants["steps"]),
        # A golden batch may hold a user twice.
        batch_edges=max(sizes.batch_edges, *(int(batch.sum()) for batch in batches)),
    )
    return Golden(arrays, modalities, constants, dataset, Setup(config, sizes), inputs)


def require_arrays(arrays: dict[str, np.ndarray], modalities: tuple[str, ...], steps: int) -> None:
    """Raises GoldenError for a missing array, so that nothing goes unchecked in silence."""
    sides = [
        f"{name}{side}" for name in ("", *(f"{m}_" for m in modalities)) for side in ("ui", "iu")
    ]
    needed = [f"graph/{side}" for side in sides]
    needed += [f"{kind}_{name}" for kind in ("input", "score") for name in CRITIC_ROWS]
    needed += ["users", "pos", "neg", "gumbel_uniform", "alpha", "bpr", "l2", "feat_reg"]
    needed += ["gradient_penalty", *(f"contrastive{number}" for number in range(len(modalities)))]
    missing = [
        f"step{step}/{name}"
        for step in range(steps)
        for name in needed
        if f"step{step}/{name}" not in arrays
    ]
    if not modalities or missing:
        raise GoldenError(
            f"golden.npz lacks {len(missing)} arrays, {missing[0]} first"
            if modalities
            else "golden.npz has no modality: expected data/M and init/generator/M_trans.weight"
        )


def golden_dataset(
    dataset: Dataset, arrays: dict[str, np.ndarray], constants: dict[str, Any]
) -> Dataset:
    """The folder's dataset with the golden run's number of users, whose last may stand in no file.

    Raises GoldenError where the folder is not what the arrays were computed from.
    """
    for name, features in dataset.features.items():
        if not np.array_equal(arrays[f"data/{name}"].astype(np.float32), features):
            raise GoldenError(f"data/{name} of golden.npz is not the folder's {name}_feat.npy")
    if not np.array_equal(np.unique(arrays["data/train"], axis=0), dataset.train):
        raise GoldenError("data/train of golden.npz is not the folder's train.json")
    n_users = arrays["init/generator/user_id_embedding.weight"].shape[0]
    if (constants["n_users"], constants["n_items"]) != (n_users, dataset.n_items):
        raise GoldenError(
            f"config.json has {constants['n_users']} users and {constants['n_items']} items, the "
            f"arrays and the folder {n_users} and {dataset.n_items}"
        )
    return dataclasses.replace(dataset, user_ids=np.arange(n_users))


def in_our_order(golden: Golden, rows: np.ndarray) -> np.ndarray:
    """Rows that stand modality by modality, in this project's order of modalities."""
    blocks = dict(zip(golden.modalities, np.split(rows, len(golden.modalities)), strict=True))
    return np.concatenate([blocks[modality] for modality in golden.dataset.modalities])


def golden_config(constants: dict[str, Any]) -> MMSSLConfig:
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
    suffix = "_trans.weight"
    modalities = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
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
    alpha = in_our_order(golden, arrays[f"{prefix}/alpha"]).reshape(len(golden.modalities), -1).T
    key = jax.random.key(0)
    return Draws(
        batch=Batch(*(jnp.asarray(arrays[f"{prefix}/{name}"]) for name in ("users", "pos", "neg"))),
        game=GameDraws(jnp.asarray(arrays[f"{prefix}/gumbel_uniform"]), jnp.asarray(alpha), key),
        critic_forward=key,
        generator_forward=key,
        generator_critic=key,
    )
