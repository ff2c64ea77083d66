"""MMSSL in its plain form: the equations of docs/method.md, in that order, a short function each.

Read this file first. Tests and benchmarks hold the package against it: from the same state and
draws, `train_step` here and the package's own step arrive at the same new state, up to rounding and
to dropout masks, which the two draw differently. The package does so without forming rows over all
items or messages of all edges, over several devices, and by `config.precision`.

Letters in shapes: U users, I items, E training interactions, L places of an edge list, D width of
an embedding, B triples of a batch, M modalities, N any number of users, items or rows. Dicts are
keyed by modality.
"""

import functools
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from mmssl_jax.methods.mmssl.config import CriticConfig, GameConfig, LossConfig, ModelConfig
from mmssl_jax.methods.mmssl.config import MMSSLConfig as Config

Scalar = Float[Array, ""]
Users = Float[Array, "U D"]
Items = Float[Array, "I D"]
Vectors = Float[Array, "N D"]
Rows = Float[Array, "N I"]
Ids = Int[Array, " N"]
Dropout = Key[Array, ""] | None  # without a key there is no dropout
Metrics = dict[str, Scalar]
Side = Literal["users", "items"]
Weights = Literal["receiver", "symmetric", "mean"]


class Edges(NamedTuple):
    """User-item pairs; places where the mask is False hold no edge."""

    users: Int[Array, " L"]
    items: Int[Array, " L"]
    mask: Bool[Array, " L"]


class Data(NamedTuple):
    """What is given. The two numbers are static: what jax.jit compiles closes over them."""

    edges: Edges  # the training interactions, without empty places
    features: dict[str, Float[Array, "I _F"]]
    present: dict[str, Bool[Array, " I"]]  # of the modalities that some items lack
    n_users: int
    n_items: int


class Draws(NamedTuple):
    """All randomness of one step: the triples (u, i, j), the game's draws, and dropout keys."""

    users: Int[Array, " B"]
    positives: Int[Array, " B"]
    negatives: Int[Array, " B"]
    uniform: Float[Array, "B I"]  # for the real rows' noise
    alpha: Float[Array, "B M"]
    critic_forward: Dropout = None  # of the features, in the critic's step
    generator_forward: Dropout = None  # the same in the generator's, if not `train.shared_forward`
    critic: Dropout = None  # of the critic, in its own step
    generator_critic: Dropout = None  # of the critic, in the generator's step


class State(NamedTuple):
    """What a step changes. Edge lists keep their lengths; `learned` has E places or more, U k or
    more if the edges come from all users, and (2T - 1) B k, as `collected`, if from batches."""

    step: Int[Array, ""]
    generator: dict
    critic: dict  # empty where no adversarial game is played
    generator_opt: optax.OptState
    critic_opt: optax.OptState | None
    learned: dict[str, Edges]  # G_m; at first the observed graph
    collected: dict[str, Edges]  # of batches, for the next G_m; else no entry


class Embeddings(NamedTuple):
    """Of users and items: the final h, the features f^m, the modality-aware ID embeddings e^m."""

    user: Users
    item: Items
    feature_user: dict[str, Users]
    feature_item: dict[str, Items]
    id_user: dict[str, Users]
    id_item: dict[str, Items]


def norms(x: Float[Array, "*rows N"]) -> Float[Array, "*rows"]:
    """|x| along the last axis, with gradient 0 where it is 0."""
    squared = jnp.sum(x * x, axis=-1)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)


def unit_rows(x: Float[Array, "*rows N"]) -> Float[Array, "*rows N"]:
    """unit(x) = x / |x|, and 0 with gradient 0 where |x| is at most 1e-12."""
    length = norms(x)[..., None]
    return jnp.where(length > 1e-12, x / jnp.where(length > 1e-12, length, 1.0), 0.0)


# --- Graphs and encoders ---
def propagate(edges: Edges, to: Side, x: Vectors, n: int, weights: Weights) -> Float[Array, "R D"]:
    """y_r = sum over edges (s, r) of w_sr x_s, for n receivers; an edge listed twice counts twice.
    Of degrees d, w_sr = 1/sqrt(d_r) (receiver), 1/sqrt(d_r d_s) (symmetric) or 1/d_r (mean)."""
    users, items = edges.users, edges.items
    receivers, senders = (users, items) if to == "users" else (items, users)
    present = edges.mask.astype(float)
    d_r = jax.ops.segment_sum(present, receivers, n)[receivers]
    d_s = jax.ops.segment_sum(present, senders, x.shape[0])[senders]
    divisor = {"receiver": d_r, "symmetric": d_r * d_s, "mean": d_r**2}[weights]
    w = jnp.where(edges.mask, 1 / jnp.sqrt(jnp.where(edges.mask, divisor, 1.0)), 0.0)
    return jax.ops.segment_sum(w[:, None] * x[senders], receivers, n)


def encode(params: dict, data: Data, config: ModelConfig, dropout: Dropout) -> dict[str, Items]:
    """x_m = dropout(raw_m W_m + b_m), and 0 for an item that lacks modality m."""
    encoded = {}
    for index, (m, raw) in enumerate(data.features.items()):
        x = raw @ params[m]["kernel"] + params[m]["bias"][None, :]
        if dropout is not None:
            key, kept = jax.random.fold_in(dropout, index), 1 - config.dropout
            x = jnp.where(jax.random.bernoulli(key, kept, x.shape), x / kept, 0.0)
        encoded[m] = jnp.where(data.present[m][:, None], x, 0.0) if m in data.present else x
    return encoded


def propagate_features(x: Items, m: str, data: Data, weights: Weights) -> tuple[Users, Items]:
    """f_u^m = sum over i in N(u) of w_ui x_i^m, then f_i^m = sum over u in N(i) of w_iu f_u^m.
    Items that lack m count in no degree of the first sum, and like others in the second."""
    mask = data.present[m][data.edges.items] if m in data.present else data.edges.mask
    users = propagate(data.edges._replace(mask=mask), "users", x, data.n_users, weights)
    return users, propagate(data.edges, "items", users, data.n_items, weights)


# --- Modality-aware structure learning; when it happens stands at the end of the file ---
def top_k_edges(ids: Ids, users: Vectors, items: Items, observed: Rows, config: Config) -> Edges:
    """G_m = {(u, i): i among the k largest s_ui^m}, s_ui^m = f_u^m . f_i^m, for the users `ids`.
    Cosine similarity takes unit vectors. With `mask_observed` training interactions have s = 0.
    The edges are listed by user, u1 u1 u2 u2. The release's slip (`edge_users` tiled), which is in
    edges from batches alone, lists the users as u1 u2 u1 u2 beside the same items."""
    structure, n_items = config.structure, items.shape[0]
    if structure.similarity == "cosine":
        users, items = unit_rows(users), unit_rows(items)
    scores = users @ items.T
    scores = jnp.where(observed > 0, 0.0, scores) if structure.mask_observed else scores
    k = structure.k if structure.k_rate is None else int(n_items * structure.k_rate)
    top = jax.lax.top_k(scores, min(k, n_items))[1]
    is_tiled = structure.edge_users == "tiled" and structure.source == "batches"
    of_edge = jnp.tile(ids, top.shape[1]) if is_tiled else jnp.repeat(ids, top.shape[1])
    return Edges(of_edge, top.reshape(-1), jnp.ones(of_edge.shape, bool))


# --- Embeddings ---
def attention(params: dict, vectors: dict[str, Vectors], config: ModelConfig) -> Vectors:
    """a_h(m, m') = softmax over m' of (e^m W_Q)_h . (e^m' W_K)_h / sqrt(D/H), and
    e~ = mean over m of [sum over m' of a_h(m, m') e^m', all h side by side] W_O.
    By `attention_values` queries the sum is over a_h(m, m') e^m, so e^m itself, as the weights sum
    to 1: W_Q and W_K do not exist."""
    e = jnp.stack(list(vectors.values()), axis=1)  # [N, M, D]
    mixed = jnp.repeat(e[:, :, None, :], config.heads, axis=2)
    if config.attention_values == "keys":
        by_head = (*e.shape[:2], config.heads, config.dim // config.heads)
        query, key = ((e @ params[name]).reshape(by_head) for name in ("query", "key"))
        logits = jnp.einsum("nqhc,nkhc->nqhk", query, key) / by_head[-1] ** 0.5
        mixed = jnp.einsum("nqhk,nkd->nqhd", jax.nn.softmax(logits, axis=-1), e)
    return jnp.mean(jax.lax.collapse(mixed, 2) @ params["output"], axis=1)


def light_gcn(edges: Edges, user: Users, item: Items, config: ModelConfig) -> tuple[Users, Items]:
    """z_u^(l+1) = sum over i in N(u) of w_ui z_i^(l), z_i^(l+1) = sum over u in N(i) of
    w_iu z_u^(l+1) (if simultaneous, z_u^(l)), and z~ = (z^(0) + .. + z^(L)) / (L + 1)."""
    users, items, weights = [user], [item], config.id_normalization
    for layer in range(config.gnn_layers):
        is_softened = config.last_layer_softmax and layer == config.gnn_layers - 1
        soften = jax.nn.softmax if is_softened else lambda x: x
        users.append(soften(propagate(edges, "users", items[-1], user.shape[0], weights)))
        source = users[-1] if config.propagation_order == "users_first" else users[-2]
        items.append(soften(propagate(edges, "items", source, item.shape[0], weights)))
    return jnp.mean(jnp.stack(users), axis=0), jnp.mean(jnp.stack(items), axis=0)


def forward(
    params: dict, config: ModelConfig, data: Data, learned: dict[str, Edges], dropout: Dropout
) -> Embeddings:
    """e_u^m = sum over i in G_m(u) of w_ui e_i, likewise e_i^m; z = e + id_fusion * unit(e~);
    h = z~ + feature_fusion * sum over m of unit(f^m)."""
    f_user, f_item = {}, {}
    for m, x in encode(params["encoder"], data, config, dropout).items():
        f_user[m], f_item[m] = propagate_features(x, m, data, config.feature_normalization)
    user, item = params["user_embedding"], params["item_embedding"]
    e_user = {m: propagate(g, "users", item, data.n_users, "receiver") for m, g in learned.items()}
    e_item = {m: propagate(g, "items", user, data.n_items, "receiver") for m, g in learned.items()}
    user = user + config.id_fusion * unit_rows(attention(params["attention"], e_user, config))
    item = item + config.id_fusion * unit_rows(attention(params["attention"], e_item, config))
    user, item = light_gcn(data.edges, user, item, config)
    user = user + config.feature_fusion * sum(unit_rows(f) for f in f_user.values())
    item = item + config.feature_fusion * sum(unit_rows(f) for f in f_item.values())
    return Embeddings(user, item, f_user, f_item, e_user, e_item)


# --- The game ---
def training_rows(data: Data, users: Ids) -> Rows:
    """a_ui = 1 if (u, i) is a training interaction, else 0; a row for each of `users`."""
    n_rows = users.shape[0]
    # Each user's row, which is one of several if it is there more than once; else past the end.
    row = jnp.full(data.n_users, n_rows).at[users].set(jnp.arange(n_rows))
    places = row[data.edges.users], data.edges.items
    return jnp.zeros((n_rows, data.n_items)).at[places].set(1.0, mode="drop")[row[users]]


def generated_rows(users: Vectors, items: Items, observed: Rows, mask_observed: bool) -> Rows:
    """r_u^m = unit over i of (f_u^m . f_i^m); if masked, training interactions have 0 in it.
    The model's own scores, s_u = unit over i of (h_u . h_i), are this of its final embeddings."""
    scores = users @ items.T
    return unit_rows(scores * (1 - observed) if mask_observed else scores)


def generated_batch(config: Config, data: Data, embeddings: Embeddings, ids: Ids) -> Array:
    """r_u^m of the users `ids` and all m, modality by modality: [M N, I]."""
    observed, masked = training_rows(data, ids), config.structure.mask_observed
    vectors = zip(embeddings.feature_user.values(), embeddings.feature_item.values(), strict=True)
    return jnp.concatenate([generated_rows(u[ids], i, observed, masked) for u, i in vectors])


def real_rows(observed: Rows, uniform: Rows, own_scores: Rows, config: GameConfig) -> Rows:
    """r_u = unit(p + zeta s_u), p = softmax over i of (a + s g) / t, or of a + s g / t by
    `temperature_scope`, g = -log(-log(u + 1e-8) + 1e-8); for real rows `observed`, unit(a)."""
    if config.real_rows == "observed":
        return unit_rows(observed)
    noise = config.gumbel_scale * -jnp.log(-jnp.log(uniform + 1e-8) + 1e-8) / config.temperature
    of_row = observed / config.temperature if config.temperature_scope == "logit" else observed
    return unit_rows(jax.nn.softmax(of_row + noise, axis=1) + config.score_weight * own_scores)


class Critic(nn.Module):
    """For each hidden width: linear, leaky ReLU, normalisation, dropout; then one score per row,
    linear or score_bound * sigmoid. Batch normalisation is by the rows that come together."""

    config: CriticConfig

    @nn.compact
    def __call__(self, rows: Rows, deterministic: bool) -> Float[Array, " N"]:
        """score(r) of each row r; without dropout if deterministic."""
        config, n_items = self.config, rows.shape[1]
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        widths = [max(1, int(w * n_items)) if w < 1 else int(w) for w in config.hidden]
        batch_norm = functools.partial(nn.BatchNorm, use_running_average=False)
        norm = nn.LayerNorm if config.norm == "layer" else batch_norm
        kernel = self.param("first_kernel", uniform, (n_items, widths[0]))
        hidden = rows @ kernel + self.param("first_bias", nn.initializers.zeros, (widths[0],))[None]
        for index, width in enumerate(widths):
            if index:
                hidden = nn.Dense(width, kernel_init=uniform, name=f"dense_{index}")(hidden)
            hidden = nn.leaky_relu(hidden, config.slope)
            hidden = norm(epsilon=1e-5, use_fast_variance=False, name=f"norm_{index}")(hidden)
            hidden = nn.Dropout(float(config.dropout[index]))(hidden, deterministic)
        score = nn.Dense(1, kernel_init=uniform, name="score")(hidden)[:, 0]
        return config.score_bound * nn.sigmoid(score) if config.score_bound else score


def score(params: dict, config: CriticConfig, rows: Rows, dropout: Dropout) -> Float[Array, " N"]:
    """score(r) of each row r, by the critic with these parameters."""
    rngs = None if dropout is None else {"dropout": dropout}
    # Batch normalisation also keeps running means, which nothing reads.
    return Critic(config).apply(
        {"params": params}, rows, dropout is None, rngs=rngs, mutable=["batch_stats"]
    )[0]


def gradient_penalty(params: dict, config: CriticConfig, rows: Rows, dropout: Dropout) -> Scalar:
    """GP = mean over rows of (|d score / d row| - 1)^2."""
    gradients = jax.grad(lambda rows: jnp.sum(score(params, config, rows, dropout)))(rows)
    return jnp.mean((norms(gradients) - 1) ** 2)


def critic_loss(
    params: dict, config: Config, data: Data, embeddings: Embeddings, draws: Draws
) -> tuple[Scalar, Metrics]:
    """L_C = mean score(r_u^m) - mean score(r_u) + weight * GP, with GP at the rows
    x^ = alpha r_u + (1 - alpha) r_u^m. All m have the same r_u."""
    observed, users = training_rows(data, draws.users), embeddings.user[draws.users]
    fake = generated_batch(config, data, embeddings, draws.users)
    own = generated_rows(users, embeddings.item, observed, config.structure.mask_observed)
    real = jnp.tile(real_rows(observed, draws.uniform, own, config.game), (len(data.features), 1))
    alpha = draws.alpha.T.reshape(-1, 1)
    mixed = alpha * real + (1 - alpha) * fake
    keys = [None] * 3 if draws.critic is None else list(jax.random.split(draws.critic, 3))
    of_fake = jnp.mean(score(params, config.critic, fake, keys[0]))
    of_real = jnp.mean(score(params, config.critic, real, keys[1]))
    penalty = config.game.gradient_penalty * gradient_penalty(params, config.critic, mixed, keys[2])
    loss = of_fake - of_real + penalty
    parts = {"gradient_penalty": penalty, "score_fake": of_fake, "score_real": of_real}
    return loss, {"critic_loss": loss, **parts}


# --- The other losses ---
def contrastive_loss(e: Vectors, h: Vectors, users: Ids, config: LossConfig) -> Scalar:
    """L_con^m = mean over u of -log(f(e_u, h_u) / (sum over v of f(e_u, h_v) + sum over v != u of
    f(e_u, e_v)) + 1e-8), f(x, y) = exp(cosine(x, y) / tau).
    With `mask_repeated` both sums leave out the same user at other places of the batch."""
    e, h, itself = unit_rows(e), unit_rows(h), jnp.eye(len(users), dtype=bool)
    same_user = users[:, None] == users[None, :] if config.mask_repeated else itself
    counts = jnp.concatenate([~same_user | itself, ~same_user], axis=1)
    log_f = jnp.concatenate([e @ h.T, e @ e.T], axis=1) / config.temperature
    log_sum = jax.nn.logsumexp(jnp.where(counts, log_f, -jnp.inf), axis=1)
    log_positive = jnp.sum(e * h, axis=1) / config.temperature
    return -jnp.mean(jnp.log(jnp.exp(log_positive - log_sum) + 1e-8))


def bpr_loss(users: Vectors, positives: Vectors, negatives: Vectors) -> Scalar:
    """L_bpr = mean of -log sigmoid(h_u . h_i - h_u . h_j)."""
    return -jnp.mean(jax.nn.log_sigmoid(jnp.sum(users * (positives - negatives), axis=1)))


def l2(vectors: list[Array], count: int) -> Scalar:
    """L2 = sum of |x|^2 / 2 over all vectors, by B for the batch's h and by I for all f^m."""
    return jnp.sum(jnp.stack([jnp.sum(x * x) for x in vectors])) / (2 * count)


def edge_likelihood_loss(embeddings: Embeddings, draws: Draws) -> Scalar:
    """Mean over (u, i, j) and m of -log sigmoid(f_u^m . f_i^m) - log(1 - sigmoid(f_u^m . f_j^m)),
    which the ablation has in place of L_adv."""
    terms = []
    for m, items in embeddings.feature_item.items():
        users = embeddings.feature_user[m][draws.users]
        present = jnp.sum(users * items[draws.positives], axis=1)
        absent = jnp.sum(users * items[draws.negatives], axis=1)
        terms.append(-jax.nn.log_sigmoid(present) - jax.nn.log_sigmoid(-absent))
    return jnp.mean(jnp.stack(terms))


def generator_loss(
    params: dict, config: Config, data: Data, state: State, draws: Draws
) -> tuple[Scalar, tuple[Embeddings, Metrics]]:
    """L_G = L_bpr + embedding_l2 * L2(h) + feature_l2 * L2(f) + contrastive * sum over m of L_con^m
    + game.weight * L_adv, L_adv = -mean score(r_u^m), by the critic of the state."""
    dropout = draws.critic_forward if config.train.shared_forward else draws.generator_forward
    embeddings = forward(params, config.model, data, state.learned, dropout)
    users, positives, negatives = draws.users, draws.positives, draws.negatives
    h = [embeddings.user[users], embeddings.item[positives], embeddings.item[negatives]]
    e = [params["user_embedding"][users]]
    e += [params["item_embedding"][items] for items in (positives, negatives)]
    f = [*embeddings.feature_user.values(), *embeddings.feature_item.values()]
    of_batch = l2(h if config.loss.l2_target == "final" else e, len(users))
    parts = {"bpr": bpr_loss(*h), "embedding_l2": config.loss.embedding_l2 * of_batch}
    parts["feature_l2"] = config.loss.feature_l2 * l2(f, data.n_items)
    loss = parts["bpr"] + parts["embedding_l2"] + parts["feature_l2"]
    for m, e_user in embeddings.id_user.items() if config.loss.contrastive else ():
        parts[f"contrastive_{m}"] = contrastive_loss(e_user[users], h[0], users, config.loss)
        loss = loss + config.loss.contrastive * parts[f"contrastive_{m}"]
    if config.game.weight and config.game.kind == "edge_likelihood":
        parts["edge_likelihood"] = edge_likelihood_loss(embeddings, draws)
        loss = loss + config.game.weight * parts["edge_likelihood"]
    elif config.game.weight:
        fake, key = generated_batch(config, data, embeddings, users), draws.generator_critic
        parts["adversarial"] = -jnp.mean(score(state.critic, config.critic, fake, key))
        loss = loss + config.game.weight * parts["adversarial"]
    return loss, (embeddings, {"generator_loss": loss, **parts})


# --- A step and an epoch ---
def steps_per_epoch(config: Config, data: Data) -> int:
    """E // B + 1."""
    return data.edges.users.shape[0] // config.sampling.batch_size + 1


def optimizers(config: Config, data: Data) -> list[optax.GradientTransformation]:
    """The generator's AdamW with rate lr * lr_decay^(epoch/50), and the critic's Adam."""
    o, steps = config.optim, steps_per_epoch(config, data)
    return [
        optax.adamw(lambda n: o.lr * o.lr_decay ** (n // steps / 50), weight_decay=o.weight_decay),
        optax.adam(o.critic_lr, *o.critic_betas),
    ]


def train_step(config: Config, data: Data, state: State, draws: Draws) -> tuple[State, Metrics]:
    """The critic's step on L_C, the generator's on L_G against the new critic, learned graphs."""
    metrics: Metrics = {}
    of_generator, of_critic = optimizers(config, data)
    if config.game.weight and config.game.kind == "adversarial":
        seen = forward(state.generator, config.model, data, state.learned, draws.critic_forward)
        of_loss = jax.grad(critic_loss, has_aux=True)
        gradients, metrics = of_loss(state.critic, config, data, seen, draws)
        updates, opt = of_critic.update(gradients, state.critic_opt, state.critic)
        state = state._replace(critic=optax.apply_updates(state.critic, updates), critic_opt=opt)
    of_loss = jax.grad(generator_loss, has_aux=True)
    gradients, (embeddings, parts) = of_loss(state.generator, config, data, state, draws)
    updates, opt = of_generator.update(gradients, state.generator_opt, state.generator)
    generator = optax.apply_updates(state.generator, updates)
    state = state._replace(generator=generator, generator_opt=opt)
    if config.structure.source == "batches":
        state = renew_from_batches(config, data, state, embeddings, draws.users)
    elif config.structure.every:
        state = renew_from_all(config, data, state, (state.step + 1) % config.structure.every == 0)
    return state._replace(step=state.step + 1), {**metrics, **parts}


def start_epoch(config: Config, data: Data, state: State) -> State:
    """Before the first step of an epoch, G_m of all users if T = 0; else the state as it is."""
    if config.structure.source == "batches" or config.structure.every:
        return state
    return renew_from_all(config, data, state, state.step % steps_per_epoch(config, data) == 0)


# --- Learned graphs' renewal ---
def padded(edges: Edges, length: int) -> Edges:
    """The edges, and behind them empty places."""
    return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, length - leaf.shape[0])), edges)


def renew_from_all(config: Config, data: Data, state: State, due: Bool[Array, ""]) -> State:
    """If due, G_m of all users whose f_u^m is not 0, by the parameters now, without dropout."""

    def renewed() -> dict[str, Edges]:
        embeddings = forward(state.generator, config.model, data, state.learned, None)
        ids, learned = jnp.arange(data.n_users, dtype=data.edges.users.dtype), {}
        observed = training_rows(data, ids)
        for m, users in embeddings.feature_user.items():
            edges = top_k_edges(ids, users, embeddings.feature_item[m], observed, config)
            edges = edges._replace(mask=jnp.any(users != 0, axis=1)[edges.users])
            learned[m] = padded(edges, state.learned[m].users.shape[0])
        return learned

    return state._replace(learned=jax.lax.cond(due, renewed, lambda: state.learned))


def renew_from_batches(
    config: Config, data: Data, state: State, embeddings: Embeddings, ids: Ids
) -> State:
    """The release's way: a step collects its batch's edges, by the embeddings that it trained with.
    Every T-th step of an epoch but the first does not: what is collected becomes G_m, and goes."""
    step_in_epoch = state.step % steps_per_epoch(config, data)
    due = (step_in_epoch % config.structure.every == 0) & (step_in_epoch > 0)
    observed, learned, collected = training_rows(data, ids), {}, {}
    for m, old in state.collected.items():
        users, items = embeddings.feature_user[m][ids], embeddings.feature_item[m]
        new = top_k_edges(ids, users, items, observed, config)
        longer = jax.tree.map(lambda o, n: jnp.concatenate([o[n.shape[0] :], n]), old, new)
        emptied = old._replace(mask=jnp.zeros_like(old.mask))
        as_graph = padded(old, state.learned[m].users.shape[0])
        if_due, if_not = (as_graph, emptied), (state.learned[m], longer)
        learned[m], collected[m] = jax.tree.map(functools.partial(jnp.where, due), if_due, if_not)
    return state._replace(learned=learned, collected=collected)
