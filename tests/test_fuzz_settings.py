"""Settings that are drawn at random come back from their file, and files of anything end in the
project's own errors or in settings."""

import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl_jax.config import Config, ConfigError, flatten, override
from mmssl_jax.messages import LONGEST
from mmssl_jax.methods import METHODS
from mmssl_jax.records.read import read_json
from mmssl_jax.run_config import convert, dump_config, read_config
from mmssl_jax.settings_yaml import parse_yaml, plain
from mmssl_jax.training.errors import RunError
from mmssl_jax.tune.space import read_space

FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None)
MANY = settings(max_examples=60, deadline=None, derandomize=True, database=None)

# What a file can hold: any text of a user but NUL and halves of pairs; `~` at its head is a place.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
PLACES = TEXTS.filter(lambda text: not text.startswith("~"))
RATES = st.floats(min_value=1e-30, max_value=1e6)
DRAWN = {
    "data.path": PLACES,
    "data.modalities": st.lists(TEXTS, max_size=3).map(tuple),
    "data.seed": st.integers(0, 2**32 - 1),
    "data.misplaced": st.floats(0, 1, exclude_max=True),
    "sampling.batch_size": st.integers(1, 2**24),
    "optim.lr": RATES,
    "optim.weight_decay": st.floats(0, 1e6),
    "train.epochs": st.integers(1, 2**31 - 1),
    "train.monitor": TEXTS,
    "train.tensorboard": st.booleans(),
    "eval.ks": st.lists(st.integers(1, 2**31 - 1), max_size=4).map(tuple),
    "parallel.compilation_cache": PLACES,
    "structure.k_rate": st.none() | RATES,
    "critic.hidden": st.lists(RATES, max_size=3).map(tuple),
    "model.dim": st.integers(1, 2**16),
}


def in_file(content: bytes, read) -> object:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.yaml"
        file.write_bytes(content)
        return read(file)


@pytest.mark.parametrize("method", ["mmssl", "crossview", "mf", "itemknn"])
@FEW
@given(data=st.data())
def test_settings_come_back_from_their_file(method, data):
    config = METHODS[method].CONFIG()
    known = flatten(config)
    keys = [key for key in DRAWN if key in known]
    changes = data.draw(st.fixed_dictionaries({}, optional={key: DRAWN[key] for key in keys}))
    changed = override(config, changes)
    assert in_file(dump_config(changed).encode(), read_config) == changed
    assert convert(changed) == changed


def ends_well(content: bytes, base: Config) -> None:
    """Reads a file as settings, as a space and as JSON."""
    for read, error in (
        (read_config, ConfigError),
        (lambda path: read_space(path, base), ConfigError),
        (lambda path: read_json(path, "a record", RunError), RunError),
    ):
        try:
            found: object = in_file(content, read)
        except error as refusal:
            found = str(refusal)
        assert isinstance(found, Config | dict) or 0 < len(str(found)) <= LONGEST


@MANY
@given(
    content=st.binary(max_size=200)
    | st.text(max_size=200).map(
        str.encode,
    )
)
def test_bytes_end_well(content):
    ends_well(content, METHODS["mf"].CONFIG())


# Texts that look like settings, so that more of the reading is reached than the first character.
WORDS = st.sampled_from([
    "optim", "lr", "data", "path", "method", "mf", "eval", "ks", ":", ": ", "\n", "\n  ", "- ", "{",
    "}", "[", "]", ",", "&a ", "*a", "!x ", "!!python/name:os.system ", "~", "null", "yes", ".inf",
    "1e-3", "0x1", "'", '"', "|\n", ">", "---\n", "%", "#", "\t", "?", "<<", "class_path", "low",
    "high", "choices", "\ufeff", "\\", "@", "`",
])  # fmt: skip


@MANY
@given(words=st.lists(WORDS, max_size=30))
def test_what_looks_like_settings_ends_well(words):
    ends_well("".join(words).encode(), METHODS["mf"].CONFIG())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@FEW
@given(value=VALUES, key=st.sampled_from(sorted(flatten(METHODS["mf"].CONFIG()))))
def test_any_value_of_a_setting_ends_well(value, key):
    *stage, name = key.split(".")
    content = {stage[0]: {name: value}} if stage else {name: value}
    ends_well(yaml.safe_dump(content).encode(), METHODS["mf"].CONFIG())
    ends_well(json.dumps(content).encode(), METHODS["mf"].CONFIG())
    config = METHODS["mf"].CONFIG()
    owner = getattr(config, stage[0]) if stage else config
    changed = dataclasses.replace(owner, **{name: value})
    told = "valid"
    try:
        convert(dataclasses.replace(config, **{stage[0]: changed}) if stage else changed)
    except ConfigError as refusal:
        told = str(refusal)
    assert 0 < len(told) <= LONGEST


@FEW
@given(text=TEXTS)
def test_a_text_in_quotes_is_that_text(text):
    assert plain(parse_yaml(yaml.safe_dump([text], default_style='"'))) == [text]
