"""Items that lack a modality: what datasets hold and refuse, and what the model does with them."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.data import Dataset, DatasetError, read_dataset
from mmssl_jax.graph.bipartite import observed_graph
from mmssl_jax.methods.mmssl.encoders import FeatureEncoder, partial_modality, propagate_features
from mmssl_jax.methods.mmssl.state import forward, make_inputs
from mmssl_jax.training.loop import fit
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_training
from tests.problems import (
    N_ITEMS,
    N_USERS,
    assert_close,
    edge_array,
    interaction_matrix,
    propagation_matrix,
    step_config,
    step_dataset,
    step_problem,
    tiny_config,
    tiny_dataset,
    write_folder,
)

GOLDEN = Path(__file__).parent / "parity" / "golden"
MATRIX = interaction_matrix()
NOWHERE = 3  # an item that lacks every modality


def masks() -> dict[str, np.ndarray]:
    """m1 is whole; m0 lacks all items of user 1, some others, and NOWHERE."""
    present = np.random.default_rng(2).random(N_ITEMS) < 0.6
    present[MATRIX[1].astype(bool)] = False
    present[NOWHERE] = False
    return {"m0": present}


def partial_dataset(**changes) -> Dataset:
    return dataclasses.replace(step_dataset(), presence=masks(), **changes)


def refused(data: Dataset, *parts: str) -> None:
    with pytest.raises(DatasetError) as error:
        data.check()
    for part in parts:
        assert part in str(error.value)


def test_a_partial_dataset_is_legal_and_counted():
    data = partial_dataset()
    data.check()
    absent = int((~masks()["m0"]).sum())
    assert data.missing_rate("m0") == pytest.approx(absent / N_ITEMS)
    assert data.missing_rate("m1") == 0
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in data.summary().splitlines())
    assert lines["modality m0"] == f"width 4, {absent / N_ITEMS:.2%} of the items lack it"
    assert lines["modality m1"] == "width 5"


@pytest.mark.parametrize(
    ("presence", "says"),
    [
        ({"m7": np.ones(N_ITEMS, bool)}, "'m7', which has no features"),
        ({"m0": np.ones(N_ITEMS, np.int8)}, "int8 array of shape (23,), expected bool [23]"),
        ({"m0": np.ones(N_ITEMS - 1, bool)}, "bool array of shape (22,), expected bool [23]"),
        ({"m0": np.zeros(N_ITEMS, bool)}, "no item has it"),
    ],
)
def test_presence_that_cannot_be_used(presence, says):
    refused(dataclasses.replace(step_dataset(), presence=presence), says)


def test_fingerprint_of_whole_data_is_what_it_was_before_presence_existed():
    """Older runs still match their data."""
    before = "e488b520b80ea44070dee97d57d4c893b33524665424ae47e74216fd66e6a162"
    assert read_dataset(GOLDEN / "data" / "tiny").fingerprint() == before


def test_fingerprint_sees_presence():
    other = masks()["m0"].copy()
    other[0] ^= True
    found = {
        step_dataset().fingerprint(),
        partial_dataset().fingerprint(),
        dataclasses.replace(step_dataset(), presence={"m0": other}).fingerprint(),
        dataclasses.replace(step_dataset(), presence={"m1": masks()["m0"]}).fingerprint(),
    }
    assert len(found) == 4


@pytest.fixture
def folder(tmp_path):
    """The tiny problem's folder in MMRec's layout, with 60 users and 40 items."""
    return write_folder(tiny_dataset(), tmp_path / "data")


def test_masks_are_read_and_absent_rows_become_zero(folder):
    rows = np.load(folder / "visual_feat.npy")
    present = np.arange(40) % 3 > 0
    rows[~present] = np.nan
    np.save(folder / "visual_feat.npy", rows)
    np.save(folder / "visual_mask.npy", present)
    np.save(folder / "acoustic_mask.npy", np.ones(40, bool))  # says nothing, so nothing is held

    data = read_dataset(folder)

    assert list(data.presence) == ["visual"]
    np.testing.assert_array_equal(data.presence["visual"], present)
    np.testing.assert_array_equal(data.features["visual"], np.where(present[:, None], rows, 0))
    assert not read_dataset(folder, modalities=["acoustic"]).presence


def test_nan_of_a_present_item_is_refused(folder):
    rows = np.load(folder / "visual_feat.npy")
    rows[[0, 5]] = np.nan
    np.save(folder / "visual_feat.npy", rows)
    np.save(folder / "visual_mask.npy", np.arange(40) > 0)
    with pytest.raises(DatasetError, match="NaN or infinite as float32, the first in row 5"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("name", "mask", "says"),
    [
        ("visual", np.ones(40), r"visual_mask.npy: float64 array of shape \(40,\), expected bool"),
        ("visual", np.ones(39, bool), r"bool array of shape \(39,\), expected bool \[40\]"),
        ("visual", np.zeros(40, bool), "visual_mask.npy: no item has the modality"),
        ("smell", np.ones(40, bool), "smell_mask.npy without smell_feat.npy"),
    ],
)
def test_masks_that_cannot_be_used(folder, name, mask, says):
    np.save(folder / f"{name}_mask.npy", mask)
    with pytest.raises(DatasetError, match=says):
        read_dataset(folder)


def test_a_mask_that_is_no_array(folder):
    (folder / "visual_mask.npy").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"visual_mask.npy: not a usable \.npy file"):
        read_dataset(folder)


def test_raw_ids_are_read(folder):
    users, items = [f"u{k}" for k in range(60)], [f"0{k}é" for k in range(40)]
    before = read_dataset(folder)
    (folder / "user_ids.json").write_text(json.dumps(users))
    (folder / "item_ids.json").write_text(json.dumps(items))

    data = read_dataset(folder)

    assert before.user_ids.tolist() == list(range(60))
    assert (data.user_ids.tolist(), data.item_ids.tolist()) == (users, items)
    assert data.fingerprint() != before.fingerprint()
    np.testing.assert_array_equal(data.train, before.train)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "item_ids.json: malformed JSON"),
        ('{"a": 1}', "the top level is a JSON dict, expected a list"),
        (json.dumps(list(range(40))), "entry 0 is 0, expected a raw id as a non-empty string"),
        (json.dumps([""] + [f"{k}" for k in range(39)]), "entry 0 is "),
        (json.dumps(["a"]), "1 ids, expected 40"),
        (json.dumps(["a", *(f"{k}" for k in range(38)), "a"]), "'a' is entry 0 and entry 39"),
    ],
)
def test_raw_ids_that_cannot_be_used(folder, content, says):
    (folder / "item_ids.json").write_text(content)
    with pytest.raises(DatasetError) as error:
        read_dataset(folder)
    assert says in str(error.value)


def test_an_absent_item_is_encoded_as_zero_without_the_bias():
    features = {name: jnp.asarray(raw) for name, raw in step_dataset().features.items()}
    present = masks()["m0"]
    partial = {"m0": partial_modality(edge_array(MATRIX), N_USERS, present, "receiver")}
    encoder = FeatureEncoder(dim=6, dropout=0.3)
    params = encoder.init(jax.random.key(0), features, True)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)

    encoded = encoder.apply({"params": params}, features, True, partial)

    for name, raw in features.items():
        dense = np.asarray(raw) @ np.asarray(params[name]["kernel"]) + np.asarray(
            params[name]["bias"]
        )
        expected = np.where(present[:, None], dense, 0) if name == "m0" else dense
        assert_close(encoded[name], expected, 1e-5)
    assert np.all(np.asarray(encoded["m0"])[~present] == 0)


@pytest.mark.parametrize("normalization", ["receiver", "symmetric", "mean"])
def test_users_weigh_the_items_that_have_the_modality(normalization):
    """Against dense matrices: the users' degrees count present items, the items' count users."""
    present, rng = masks()["m0"], np.random.default_rng(0)
    graph = observed_graph(edge_array(MATRIX), N_USERS, N_ITEMS, normalization)
    partial = {"m0": partial_modality(edge_array(MATRIX), N_USERS, present, normalization)}
    raw = {name: rng.normal(size=(N_ITEMS, 4)).astype(np.float32) for name in ("m1", "m0")}
    raw["m0"][~present] = 0

    of_users, of_items = propagate_features(
        graph, {name: jnp.asarray(x) for name, x in raw.items()}, N_USERS, partial
    )

    seen = {"m0": MATRIX * present[None, :], "m1": MATRIX}
    back = propagation_matrix(MATRIX.T, normalization)
    for name, x in raw.items():
        users = propagation_matrix(seen[name], normalization) @ x
        assert_close(of_users[name], users, 1e-5)
        assert_close(of_items[name], back @ users, 1e-5)
    assert not np.any(np.asarray(of_users["m0"])[1])  # user 1 has no item with m0
    inherits = ~present & (MATRIX[2] > 0)
    assert np.all(np.any(np.asarray(of_items["m0"])[inherits], axis=1))


def test_a_mean_is_not_shrunk_by_absent_items():
    """All present items have the same feature: a user's mean is that feature, whoever is absent."""
    present = masks()["m0"]
    partial = {"m0": partial_modality(edge_array(MATRIX), N_USERS, present, "mean")}
    graph = observed_graph(edge_array(MATRIX), N_USERS, N_ITEMS, "mean")
    encoded = {"m0": jnp.where(jnp.asarray(present)[:, None], jnp.ones((N_ITEMS, 2)), 0.0)}
    of_users, _ = propagate_features(graph, encoded, N_USERS, partial)
    has_some = (MATRIX * present[None, :]).any(axis=1)
    expected = np.where(has_some, 1.0, 0.0)[:, None] * [[1, 1]]
    np.testing.assert_allclose(of_users["m0"], expected, rtol=1e-6)


def test_a_mask_of_all_items_changes_nothing():
    config = step_config()
    problem = step_problem(config)
    everyone = {m: np.ones(N_ITEMS, bool) for m in problem.dataset.modalities}
    masked = make_inputs(dataclasses.replace(problem.dataset, presence=everyone), config)
    plain, full = (
        forward(problem.setup, problem.state.generator, problem.state.learned, i, None)
        for i in (problem.inputs, masked)
    )
    assert_close(full, plain, 1e-6)


def test_absent_features_are_never_read():
    config, absent = step_config(), ~masks()["m0"]
    problem = step_problem(config)
    changed = {**problem.dataset.features}
    changed["m0"] = np.where(absent[:, None], np.float32(1e3), changed["m0"])
    results = [
        forward(
            problem.setup,
            problem.state.generator,
            problem.state.learned,
            make_inputs(partial_dataset(features=features), config),
            None,
        )
        for features in (problem.dataset.features, changed)
    ]
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_gradients_are_finite_with_an_item_that_lacks_everything(similarity):
    config = step_config(structure__similarity=similarity)
    problem = step_problem(config)
    presence = {m: masks()["m0"] for m in problem.dataset.modalities}
    assert not any(mask[NOWHERE] for mask in presence.values())
    inputs = make_inputs(dataclasses.replace(problem.dataset, presence=presence), config)

    def loss(params):
        learned, key = problem.state.learned, jax.random.key(1)
        embeddings = forward(problem.setup, params, learned, inputs, key)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(embeddings))

    gradients = jax.grad(loss)(problem.state.generator)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(leaf)), path
    for leaf in jax.tree.leaves(gradients["encoder"]):
        assert np.any(leaf != 0)


def tiny_partial() -> Dataset:
    """The trainable tiny problem; items 0 and 1 lack both modalities."""
    data = tiny_dataset()
    lacking = np.random.default_rng(0).random((2, data.n_items)) < 0.4
    lacking[:, :2] = True
    features = {m: data.features[m].copy() for m in data.modalities}
    for row, rows in zip(lacking, features.values(), strict=True):
        rows[row] = 0
    presence = dict(zip(data.modalities, ~lacking, strict=True))
    return dataclasses.replace(data, features=features, presence=presence)


@pytest.mark.parametrize("preset", [pytest.param("paper", marks=pytest.mark.slow), "released"])
def test_steps_with_missing_modalities_are_finite_and_learn(preset):
    problem = load_problem(tiny_config(preset), tiny_partial())
    before = new_state(problem)
    # Steps use their state up.
    after, metrics = compile_training(problem).epoch(new_state(problem), 3)
    players = (after.method.generator, after.method.critic)
    for path, leaf in jax.tree_util.tree_leaves_with_path((players, metrics)):
        assert np.all(np.isfinite(leaf)), path
    for name in problem.dataset.modalities:
        old, new = (state.method.generator["encoder"][name]["kernel"] for state in (before, after))
        assert np.any(old != new)


@pytest.mark.slow
def test_a_run_on_missing_modalities(tmp_path):
    config = tiny_config("paper", {"train.epochs": 2})
    result = fit(config, tmp_path / "run", dataset=tiny_partial(), quiet=True)
    assert 0 <= result["test"]["recall@20"] <= 1
    saved = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert saved["fingerprint"] == tiny_partial().fingerprint()
