"""Methods beside plain PyTorch programs of the same mathematics: `python -m benchmarks.peers`.

Each program does what its method does in an epoch: it draws as many batches, propagates over the
same graphs by PyTorch's own sparse products (CSR), and takes Adam steps. It is written as a
researcher would write it, without tricks. Epochs and evaluations take turns, and a ratio is that
of the medians. Both run on the same device: a GPU where JAX has one. It needs PyTorch (`pip
install torch`), which nothing else here does.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.measure import Result, benchmark_parser, run_benchmark
from mmssl_jax.config import Config, ConfigError
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.item_graph import mean_weights, modality_neighbours
from mmssl_jax.training.problem import Problem, load_problem, new_state
from mmssl_jax.training.programs import compile_training, split_evaluator


class Plain(NamedTuple):
    """A PyTorch program: `epoch()` trains and gives the last loss, `embed()` gives user and item
    vectors."""

    epoch: Callable[[], float]
    embed: Callable[[], tuple[Any, Any]]


def adjacency(torch: Any, edges: np.ndarray, n_users: int, n_items: int) -> Any:
    """The symmetrically normalised matrix over users and items, [U + I, U + I] in CSR."""
    users, items = edges[:, 0].astype(np.int64), edges[:, 1].astype(np.int64) + n_users
    rows, columns = np.concatenate([users, items]), np.concatenate([items, users])
    size = n_users + n_items
    degree = np.maximum(np.bincount(rows, minlength=size), 1)
    weights = (degree[rows] * degree[columns]) ** -0.5
    return _csr(torch, rows, columns, weights, (size, size))


def _csr(
    torch: Any, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, shape: tuple[int, int]
) -> Any:
    places = torch.tensor(np.stack([rows, columns]), dtype=torch.int64)
    values = torch.tensor(weights, dtype=torch.float32)
    return torch.sparse_coo_tensor(places, values, shape).coalesce().to_sparse_csr()


def item_matrix(torch: Any, problem: Problem) -> Any:
    """FREEDOM's frozen item graph, the mean over modalities of their normalised neighbours."""
    dataset, config = problem.dataset, problem.config
    k: int = config.freedom.k  # type: ignore[attr-defined]
    rows, columns, weights = [], [], []
    neighbours = modality_neighbours(dataset, k, True, config.data)
    for near in neighbours.values():
        items = np.asarray(near.items)
        rows.append(np.repeat(np.arange(len(items)), items.shape[1]))
        columns.append(items.ravel())
        weights.append(np.asarray(mean_weights(near)).ravel() / len(neighbours))
    size = dataset.n_items, dataset.n_items
    row, column, weight = (np.concatenate(part) for part in (rows, columns, weights))
    return _csr(torch, row, column, weight, size)


def plain_program(torch: Any, problem: Problem) -> Plain:
    """The PyTorch program of the problem's method."""
    dataset, config = problem.dataset, problem.config
    train, n_users, n_items = dataset.train, dataset.n_users, dataset.n_items
    settings: Any = getattr(config, config.method)
    is_freedom = config.method == "freedom"
    rng = np.random.default_rng(0)
    whole = adjacency(torch, train, n_users, n_items)
    alike = item_matrix(torch, problem) if is_freedom else None
    features = [torch.tensor(x) for x in dataset.features.values()] if is_freedom else []
    xavier = torch.nn.init.xavier_uniform_
    tables = [torch.nn.Parameter(xavier(torch.empty(n, settings.dim))) for n in (n_users, n_items)]
    layers = [torch.nn.Linear(x.shape[1], settings.dim, bias=False) for x in features]
    weights = [p for layer in layers for p in layer.parameters()]
    adam = torch.optim.Adam([*tables, *weights], lr=config.optim.lr)
    candidates = np.unique(train[:, 1])
    taken = np.sort(train[:, 0].astype(np.int64) * n_items + train[:, 1])
    degree = np.bincount(train[:, 0])[train[:, 0]] * np.bincount(train[:, 1])[train[:, 1]]

    def embed(graph: Any = None) -> tuple[Any, Any]:
        x = total = torch.cat(tables)
        for _ in range(settings.layers):
            x = (whole if graph is None else graph) @ x
            total = total + x
        users, items = torch.split(total / (settings.layers + 1), [n_users, n_items])
        return users, items if alike is None else items + alike @ tables[1]

    def is_taken(users: np.ndarray, items: np.ndarray) -> np.ndarray:
        pairs = users.astype(np.int64) * n_items + items
        place = np.minimum(np.searchsorted(taken, pairs), len(taken) - 1)
        return np.asarray(taken[place] == pairs)

    def draw() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = train[rng.choice(len(train), config.sampling.batch_size, replace=False)]
        users, positives = chosen.T
        negatives = candidates[rng.integers(len(candidates), size=len(users))]
        while (again := is_taken(users, negatives)).any():
            negatives[again] = candidates[rng.integers(len(candidates), size=again.sum())]
        return users, positives, negatives

    def thinned() -> Any:
        share = (degree**-0.5) / (degree**-0.5).sum()
        n_kept = int((1 - settings.dropped) * len(train))
        kept = rng.choice(len(train), n_kept, replace=False, p=share)
        return adjacency(torch, train[kept], n_users, n_items)

    def bpr(users: Any, positives: Any, negatives: Any) -> Any:
        margin = (users * (positives - negatives)).sum(1)
        return -torch.nn.functional.logsigmoid(margin).mean()

    def epoch() -> float:
        graph = thinned() if is_freedom else None
        for _ in range(problem.steps_per_epoch):
            batch = [torch.tensor(part.astype(np.int64)) for part in draw()]
            users, items = embed(graph)
            own = users[batch[0]]
            loss = bpr(own, items[batch[1]], items[batch[2]])
            if is_freedom:
                for layer, x in zip(layers, features, strict=True):
                    of_features = bpr(own, layer(x[batch[1]]), layer(x[batch[2]]))
                    loss = loss + settings.feature_weight * of_features
            else:
                sides = (tables[0][batch[0]], tables[1][batch[1]], tables[1][batch[2]])
                norms = sum(side.norm() for side in sides)
                loss = loss + settings.regularization * norms / len(own)
            adam.zero_grad()
            loss.backward()
            adam.step()
        return float(loss.detach())  # waits for the device

    return Plain(epoch, embed)


def plain_evaluation(torch: Any, dataset: Dataset) -> Callable[[Any, Any], float]:
    """All-rank evaluation of the test users: users' and items' vectors to recall@20."""
    held_out = [np.empty(0, int)] * dataset.n_users
    seen = [np.empty(0, int)] * dataset.n_users
    for lists, edges in ((held_out, dataset.test), (seen, dataset.train)):
        users, first = np.unique(edges[:, 0], return_index=True)
        for user, items in zip(users, np.split(edges[:, 1], first[1:]), strict=True):
            lists[user] = items
    of_split = np.unique(dataset.test[:, 0])

    def recall(users: Any, items: Any) -> float:
        total = 0.0
        for start in range(0, len(of_split), 1024):
            block = of_split[start : start + 1024]
            scores = users[torch.tensor(block)] @ items.T
            rows = np.repeat(np.arange(len(block)), [len(seen[user]) for user in block])
            columns = np.concatenate([seen[user] for user in block])
            scores[torch.tensor(rows), torch.tensor(columns)] = -torch.inf
            best = torch.topk(scores, 20).indices.cpu().numpy()
            for user, found in zip(block, best, strict=True):
                total += np.isin(found, held_out[user]).sum() / len(held_out[user])
        return total / len(of_split)

    return recall


def measure_peers(
    config: Config, dataset: Dataset | None, repeats: int, profile: str | None
) -> Result:
    """Seconds of an epoch's steps and of the test split's evaluation, here and in PyTorch."""
    del profile
    import torch

    if config.method not in ("lightgcn", "freedom"):
        raise ConfigError(
            f"method is {config.method!r}; there are PyTorch programs of lightgcn and freedom"
        )
    problem = load_problem(config, dataset)
    device = "cuda" if problem.devices[0].platform == "gpu" else "cpu"
    torch.set_default_device(device)
    training, evaluate = compile_training(problem), split_evaluator(problem, "test")
    state = training.lay_out(new_state(problem))
    plain = plain_program(torch, problem)
    recall = plain_evaluation(torch, problem.dataset)
    n_steps = problem.steps_per_epoch
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = jax.block_until_ready(call(*arguments))
        times.setdefault(name, []).append(time.perf_counter() - started)
        return result

    for _ in range(repeats + 1):  # the first compiles, and does not count
        state, _metrics = timed("epoch_s", training.epoch, state, n_steps)
        timed("torch_epoch_s", plain.epoch)
        scorer = training.embed(state)
        found = timed("evaluation_s", evaluate.__call__, scorer)["recall@20"]
        vectors = [torch.tensor(np.asarray(part)) for part in scorer]
        same = timed("torch_evaluation_s", recall, *vectors)
        if abs(found - same) > 1e-3:
            raise AssertionError(f"recall@20 {found} here and {same} in PyTorch")
    of_run = {name: median(values[1:]) for name, values in times.items()}
    return {
        **of_run,
        "epoch_ratio": of_run["torch_epoch_s"] / of_run["epoch_s"],
        "evaluation_ratio": of_run["torch_evaluation_s"] / of_run["evaluation_s"],
        "torch": torch.__version__,
        "torch_device": device,
        "torch_threads": torch.get_num_threads(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    run_benchmark(benchmark_parser("peers", arguments), measure_peers, (), arguments)


if __name__ == "__main__":
    main()
