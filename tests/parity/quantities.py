"""Recomputes every golden quantity through the project's own modules.

Each function yields `Error`s: how far a quantity is from the golden one, and how far it may be.
Errors are relative to the largest golden entry, so that tiny entries do not count as large errors.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmssl_jax.graph.bipartite import BipartiteGraph
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.method import Vectors
from mmssl_jax.methods.mmssl.draws import Draws, share_batch
from mmssl_jax.methods.mmssl.game.adversarial import critic_projections, score_rows
from mmssl_jax.methods.mmssl.state import (
    State,
    critic_module,
    critic_optimizer,
    forward,
    init_state,
)
from mmssl_jax.methods.mmssl.step import (
    apply_critic,
    apply_generator,
    critic_gradients,
    forward_with_pullback,
    generator_gradients,
    train_step,
)
from mmssl_jax.optimizers import adamw
from mmssl_jax.parallel import in_float32, local_devices
from mmssl_jax.ranking.evaluate import HeldOut, make_evaluator
from mmssl_jax.ranking.lists import Scoring
from tests.parity.golden import (
    Golden,
    critic_params,
    generator_params,
    golden_draws,
    in_our_order,
)

SMALLEST_GRADIENT = 1e-7  # tensors below hold the release's rounding noise


class Error(NamedTuple):
    """The worst error of one quantity."""

    quantity: str
    error: float
    tolerance: float


def relative_error(ours: Any, golden: np.ndarray) -> float:
    """max |ours - golden| / max |golden|; NaN counts as infinite."""
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    if ours.shape != golden.shape:
        raise ValueError(f"shape {ours.shape} against golden {golden.shape}")
    scale = max(float(np.max(np.abs(golden), initial=0)), 1e-30)
    error = float(np.max(np.abs(ours - golden), initial=0)) / scale
    return error if np.isfinite(error) else float("inf")


def golden_state(golden: Golden) -> State:
    """The state before step 0."""
    state = init_state(golden.setup, jax.random.key(0), golden.inputs)
    return state._replace(
        generator=generator_params(golden.arrays, "init/generator"),
        critic=critic_params(golden.arrays, "init/critic"),
    )


def free_running(golden: Golden) -> Iterator[Error | State]:
    """Runs all steps from the initial parameters; yields the errors of the loss terms, the state
    before each step, and at last the state after the last one."""
    step = jax.jit(lambda state, draws: train_step(golden.setup, state, draws, golden.inputs))
    state = golden_state(golden)
    for index in range(golden.constants["steps"]):
        yield state
        state, metrics = step(state, golden_draws(golden, index))
        arrays, prefix = golden.arrays, f"step{index}"
        terms = {
            "bpr": arrays[f"{prefix}/bpr"],
            "embedding_l2": arrays[f"{prefix}/l2"],
            "feature_l2": arrays[f"{prefix}/feat_reg"],
            "gradient_penalty": arrays[f"{prefix}/gradient_penalty"],
            "score_fake": arrays[f"{prefix}/score_fake"].mean(),
            "score_real": arrays[f"{prefix}/score_real"].mean(),
            "adversarial": -arrays[f"{prefix}/score_generator"].mean(),
        }
        for number, modality in enumerate(golden.modalities):
            terms[f"contrastive_{modality}"] = arrays[f"{prefix}/contrastive{number}"]
        for name in left_out(golden):
            terms.pop(name)
        for name, value in terms.items():
            yield Error(f"loss {name}", relative_error(metrics[name], value), 1e-4)
    yield state


def left_out(golden: Golden) -> list[str]:
    """Loss terms that this project does not compute because their weight is 0."""
    names = []
    if not golden.setup.config.game.weight:
        names += ["gradient_penalty", "score_fake", "score_real", "adversarial"]
    if not golden.setup.config.loss.contrastive:
        names += [f"contrastive_{modality}" for modality in golden.modalities]
    return names


def dense_graph(graph: BipartiteGraph, n_users: int, n_items: int) -> tuple[jax.Array, jax.Array]:
    """Both propagation matrices, by propagating the identity."""
    return (
        propagate(graph.to_users, jnp.eye(n_items), n_users),
        propagate(graph.to_items, jnp.eye(n_users), n_items),
    )


def graph_errors(golden: Golden, state: State, step: int) -> Iterator[Error]:
    """The propagation matrices that a step uses, the learned ones from the free-running state."""
    sizes = golden.setup.sizes
    graphs = {"": golden.inputs.observed.features} | {
        f"{modality}_": graph for modality, graph in state.learned.items()
    }
    for name, graph in graphs.items():
        both = dense_graph(graph, sizes.n_users, sizes.n_items)
        for side, ours in zip(("ui", "iu"), both, strict=True):
            theirs = golden.arrays[f"step{step}/graph/{name}{side}"]
            rebuilt = " after a rebuild" if step > golden.constants["T"] else ""
            kind = f"learned {side}{rebuilt}" if name else f"observed {side}"
            yield Error(f"graph {kind}", relative_error(ours, theirs), 1e-5)


def teacher_forced(golden: Golden, state: State, step: int) -> State:
    """The state before a step with the golden parameters and the free-running learned graphs."""
    before = f"step{step - 1}" if step else "init"
    suffix = "_after" if step else ""
    return state._replace(
        generator=generator_params(golden.arrays, f"{before}/generator{suffix}"),
        critic=critic_params(golden.arrays, f"{before}/critic{suffix}"),
    )


def forward_errors(golden: Golden, state: State, step: int) -> Iterator[Error]:
    """Outputs of the forward pass."""
    draws = golden_draws(golden, step)
    embeddings = forward(
        golden.setup, state.generator, state.learned, golden.inputs, draws.generator_forward
    )
    ours = {"user": embeddings.user, "item": embeddings.item}
    ours |= {"user_id_fused": embeddings.user, "item_id_fused": embeddings.item}
    for modality in golden.dataset.modalities:
        ours |= {
            f"{modality}_user": embeddings.feature_user[modality],
            f"{modality}_item": embeddings.feature_item[modality],
            f"{modality}_user_id": embeddings.id_user[modality],
            f"{modality}_item_id": embeddings.id_item[modality],
        }
    for name, value in ours.items():
        theirs = golden.arrays[f"step{step}/forward/{name}"]
        yield Error(f"forward {name}", relative_error(value, theirs), 1e-5)


def critic_errors(golden: Golden, state: State, step: int) -> Iterator[Error]:
    """The critic's inputs, made dense by projecting with the identity, and its scores."""
    draws, setup = golden_draws(golden, step), golden.setup
    share = share_batch(setup, draws, golden.inputs)
    embeddings = forward(setup, state.generator, state.learned, golden.inputs, draws.critic_forward)

    def rows(kernel: jax.Array) -> dict[str, jax.Array]:
        fake, real, between, _ = critic_projections(setup, kernel, embeddings, share)
        return {"fake": fake, "real": real, "interpolated": between, "generator": fake}

    critic = critic_module(setup)
    updated = critic_params(golden.arrays, f"step{step}/critic_after")
    for name, dense in rows(jnp.eye(setup.sizes.n_items)).items():
        params = updated if name == "generator" else state.critic
        projection = rows(params["first_kernel"])[name]
        scores = score_rows(critic, params, projection, draws.game.dropout)
        theirs = in_our_order(golden, golden.arrays[f"step{step}/input_{name}"])
        yield Error(f"critic input {name}", relative_error(dense, theirs), 1e-5)
        theirs = in_our_order(golden, golden.arrays[f"step{step}/score_{name}"])
        yield Error(f"critic score {name}", relative_error(scores, theirs), 1e-5)


Gradients = Callable[[State, Draws], dict]


def compile_gradients(golden: Golden) -> tuple[Gradients, Gradients]:
    """The gradients of critic and generator as functions of a state and a step's draws."""

    setup, inputs = golden.setup, golden.inputs

    def of_critic(state: State, draws: Draws) -> dict:
        share = share_batch(setup, draws, inputs)
        embeddings = forward(setup, state.generator, state.learned, inputs, draws.critic_forward)
        return critic_gradients(setup, state, embeddings, share)[0]

    def of_generator(state: State, draws: Draws) -> dict:
        share = share_batch(setup, draws, inputs)
        passed = forward_with_pullback(setup, state, inputs, draws)
        return generator_gradients(setup, state, *passed, share)[0]

    return jax.jit(of_critic), jax.jit(of_generator)


def gradient_errors(
    golden: Golden, gradients: tuple[Gradients, Gradients], state: State, step: int
) -> Iterator[Error]:
    """Gradients at the golden parameters; the generator's against the golden updated critic."""
    draws, (of_critic, of_generator) = golden_draws(golden, step), gradients
    ours = of_critic(state, draws)
    yield from _tensor_errors(
        "critic gradient", ours, critic_params(golden.arrays, f"step{step}/critic_grad")
    )
    state = state._replace(critic=critic_params(golden.arrays, f"step{step}/critic_after"))
    ours = of_generator(state, draws)
    yield from _tensor_errors(
        "generator gradient", ours, generator_params(golden.arrays, f"step{step}/generator_grad")
    )


# The critic's biases that a BatchNorm undoes: the release's are rounding noise.
_UNDONE = ("['first_bias']", "['norm_0']['bias']", "['dense_1']['bias']")


def _tensor_errors(what: str, ours: Any, theirs: Any, tolerance: float = 1e-4) -> Iterator[Error]:
    our_leaves = dict(jax.tree_util.tree_leaves_with_path(ours))
    for path, golden in jax.tree_util.tree_leaves_with_path(theirs):
        name = jax.tree_util.keystr(path)
        noise = "critic" in what and name in _UNDONE
        if not noise and float(jnp.max(jnp.abs(golden))) > SMALLEST_GRADIENT:
            yield Error(f"{what} {name}", relative_error(our_leaves[path], golden), tolerance)


def optimizer_errors(golden: Golden) -> Iterator[Error]:
    """Both optimizers along the golden gradients: parameters, and each step's change of them.

    A change is some thousandth of its parameter, so that parameters alone would hide a wrong one,
    and two roundings of its parameter are no error of it.
    """
    setup, state = golden.setup, golden_state(golden)
    state = state._replace(
        generator_opt=adamw(setup.config.optim, setup.sizes.steps_per_epoch).init(state.generator),
        critic_opt=critic_optimizer(setup.config).init(state.critic),
    )
    for step in range(golden.constants["steps"]):
        before = teacher_forced(golden, state, step)
        of_critic = critic_params(golden.arrays, f"step{step}/critic_grad")
        of_generator = generator_params(golden.arrays, f"step{step}/generator_grad")
        state = apply_generator(setup, apply_critic(setup, before, of_critic), of_generator)
        after = teacher_forced(golden, state, step + 1)
        for player in ("critic", "generator"):
            ours, theirs, old = (getattr(s, player) for s in (state, after, before))
            yield from _tensor_errors(f"{player} update", ours, theirs, 1e-5)
            changes = jax.tree.map(jnp.subtract, theirs, old)
            near = jax.tree.map(_within_rounding, ours, theirs)
            ours = jax.tree.map(jnp.subtract, near, old)
            yield from _tensor_errors(f"{player} change", ours, changes, 1e-4)


def _within_rounding(ours: jax.Array, theirs: jax.Array) -> np.ndarray:
    """Ours, or theirs where both are the same but for the rounding of two float32 operations."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return np.where(np.abs(ours - theirs) <= 2 * np.spacing(np.abs(theirs)), theirs, ours)


def final_errors(golden: Golden, state: State) -> Iterator[Error]:
    """Evaluation-mode embeddings at the golden final parameters."""
    last = golden.constants["steps"] - 1
    generator = generator_params(golden.arrays, f"step{last}/generator_after")
    embeddings = forward(golden.setup, generator, state.learned, golden.inputs, None)
    for name, ours in (("user", embeddings.user), ("item", embeddings.item)):
        yield Error(f"final {name}", relative_error(ours, golden.arrays[f"final/{name}"]), 1e-5)


def metric_errors(golden: Golden) -> Iterator[Error]:
    """Evaluation metrics of the golden final embeddings, absolute; ndcg is the release's own."""
    dataset, ks = golden.dataset, golden.constants["ks"]
    final = Vectors(*(jnp.asarray(golden.arrays[f"final/{side}"]) for side in ("user", "item")))
    for split, name in (("validation", "val"), ("test", "test")):
        pairs = HeldOut(dataset.n_users, dataset.n_items, dataset.train, dataset.splits[split])
        transform = golden.setup.config.parallel.transform
        evaluate = make_evaluator(pairs, Scoring(tuple(ks)), local_devices(1), transform)
        ours = evaluate(final)
        n_users = len(golden.arrays[f"metrics/{name}/users"])
        yield Error(f"metric users {split}", abs(ours["users"] - n_users), 0.0)
        names = {"recall": "recall", "precision": "precision", "hit_ratio": "hit_ratio"}
        for metric, theirs in (names | {"release_ndcg": "ndcg"}).items():
            values = golden.arrays[f"metrics/{name}/{theirs}"]
            worst = max(abs(ours[f"{metric}@{k}"] - v) for k, v in zip(ks, values, strict=True))
            yield Error(f"metric {metric} {split}", float(worst), 1e-6)


@in_float32
def all_errors(golden: Golden) -> list[Error]:
    """The worst error of every quantity over all steps."""
    worst: dict[str, Error] = {}

    def keep(errors: Iterator[Error]) -> None:
        for error in errors:
            if error.quantity not in worst or error.error > worst[error.quantity].error:
                worst[error.quantity] = error

    states = []
    for found in free_running(golden):
        if isinstance(found, State):
            states.append(found)
        else:
            keep(iter([found]))
    gradients = compile_gradients(golden)
    for step, state in enumerate(states[:-1]):
        keep(graph_errors(golden, state, step))
        forced = teacher_forced(golden, state, step)
        keep(forward_errors(golden, forced, step))
        keep(critic_errors(golden, forced, step))
        keep(gradient_errors(golden, gradients, forced, step))
    keep(optimizer_errors(golden))
    keep(final_errors(golden, states[-1]))
    keep(metric_errors(golden))
    return list(worst.values())
