"""Flags and YAML: what is accepted and what is refused, precedence, and the way back."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import yaml

from mmssl_jax.config import Config, ConfigError, flatten, override
from mmssl_jax.methods import DEFAULT, METHODS
from mmssl_jax.methods.mmssl.config import MMSSLConfig, preset_config
from mmssl_jax.methods.mmssl.presets import PRESETS
from mmssl_jax.run_config import (
    config_diff,
    config_parser,
    dump_config,
    parse_config,
    read_config,
    validate,
)
from tests.problems import tiny_config

CONFIGS = sorted(
    path
    for path in (Path(__file__).resolve().parents[1] / "configs").glob("*.yaml")
    if not path.stem.startswith("space_")
)
DATA = "--data.path=somewhere"


def parse(*arguments: str) -> Config:
    return parse_config(config_parser("train.py", arguments), list(arguments))[0]


@pytest.fixture
def refusal(capsys):
    """Parses arguments that must be refused, and returns the message."""

    def refuse(*arguments: str) -> str:
        with pytest.raises(SystemExit) as leaving:
            parse(*arguments)
        assert leaving.value.code == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    return refuse


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return f"--config={path}"


def test_no_flags_give_the_defaults():
    assert parse(DATA) == override(MMSSLConfig(), {"data.path": "somewhere"})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_by_flag(name):
    assert parse(DATA, "--preset", name) == override(
        preset_config(name), {"data.path": "somewhere"}
    )


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip_of_presets(name, tmp_path):
    config = override(preset_config(name), {"data.path": "a folder: #1"})
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert read_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_round_trip_of_the_shipped_files(path, tmp_path):
    config = parse(f"--config={path}", DATA)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert read_config(tmp_path / "c.yaml") == config


def test_there_are_shipped_files():
    assert "demo" in [path.stem for path in CONFIGS]


def test_round_trip_of_unusual_values(tmp_path):
    changes = {
        "data.modalities": ("text", "image"),
        "structure.k_rate": 0.25,
        "critic.hidden": (0.5, 7.0),
        "optim.lr": 1e-30,
        "train.seed": 0,
        "eval.ks": (1, 20),
        "model.last_layer_softmax": True,
    }
    config = tiny_config("released", changes)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert read_config(tmp_path / "c.yaml") == config


def test_a_dump_names_every_setting():
    nested = yaml.safe_load(dump_config(MMSSLConfig()))
    keys = set()
    for stage, value in nested.items():
        inside = isinstance(value, dict)
        keys |= {f"{stage}.{key}" for key in value} if inside else {stage}
    assert keys == set(flatten(MMSSLConfig()))


def test_values_are_plain_python():
    for arguments in ([DATA], [DATA, "--optim.lr=1", "--model.dim=8", "--critic.hidden=[3, 2]"]):
        for key, value in flatten(parse(*arguments)).items():
            for entry in value if isinstance(value, tuple) else [value]:
                assert type(entry) in (int, float, bool, str, type(None)), key


def test_flags_before_files_before_preset_before_defaults(tmp_path):
    file = write(
        tmp_path / "c.yaml",
        "preset: released\ncritic: {slope: 0.5}\noptim: {lr: 0.125, critic_lr: 0.25}\n",
    )
    config = parse(file, DATA, "--optim.lr=0.75")
    assert config.optim.lr == 0.75  # flag over file
    assert config.optim.critic_lr == 0.25  # file over default
    assert config.critic.slope == 0.5  # file over preset
    assert config.critic.norm == "batch"  # preset over default
    assert config.optim.weight_decay == 0.01  # default


def test_the_order_of_flag_and_file_does_not_turn_the_preset(tmp_path):
    file = write(tmp_path / "c.yaml", "critic: {slope: 0.5}\n")
    for arguments in ([file, "--preset=released"], ["--preset=released", file]):
        config = parse(*arguments, DATA)
        assert (config.critic.slope, config.critic.norm) == (0.5, "batch")


def test_a_preset_flag_overrides_the_preset_of_a_file(tmp_path):
    file = write(tmp_path / "c.yaml", "preset: released\n")
    assert parse(file, "--preset=paper", DATA).critic.norm == "layer"


def test_later_files_override_earlier_ones(tmp_path):
    first = write(tmp_path / "a.yaml", "optim: {lr: 0.5, critic_lr: 0.5}\ntrain: {seed: 3}\n")
    second = write(tmp_path / "b.yaml", "optim: {lr: 0.25}\n")
    optim = parse(first, second, DATA).optim
    assert (optim.lr, optim.critic_lr) == (0.25, 0.5)
    assert parse(second, first, DATA).optim.lr == 0.5
    assert parse(first, second, DATA).train.seed == 3


def test_presets_do_not_leak_from_one_parser_to_the_next():
    parse(DATA, "--preset=released")
    assert parse(DATA).critic.norm == "layer"


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--optim.lrr=1", "optim.lr"),
        ("--optimm.lr=1", "optim.lr"),
        ("--modl.dim=8", "model.dim"),
        ("--eval.k=3", "eval.ks"),
        ("--optim.learning_rate=1", "optim.lr"),
        ("--optim.critic_learning_rate=1", "optim.critic_lr"),
        ("--presett=paper", "preset"),
    ],
)
def test_an_unknown_flag_names_the_nearest(refusal, flag, nearest):
    message = refusal(DATA, flag)
    assert f"there is no setting {flag[2:].split('=')[0]!r}" in message
    assert f"the nearest is {nearest!r}" in message


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("optim: {lrr: 1}", "optim.lrr", "optim.lr"),
        ("structure: {sourc: batches}", "structure.sourc", "structure.source"),
        ("presett: paper", "presett", "preset"),
        ("optim: {lr: {rate: 1}}", "", ""),
        ("modell: {dim: 8}", "modell.dim", "model.dim"),
    ],
)
def test_an_unknown_key_of_a_file_names_the_nearest(refusal, tmp_path, text, key, nearest):
    message = refusal(write(tmp_path / "c.yaml", text + "\n"), DATA)
    if key:
        assert f"there is no setting {key!r}; the nearest is {nearest!r}" in message


@pytest.mark.parametrize(
    "flag",
    [
        "--model.dim=0",
        "--model.dim=2.5",
        "--model.dropout=1",
        "--model.dropout=-0.1",
        "--optim.lr=0",
        "--optim.lr=fast",
        "--optim.lr=nan",
        "--optim.lr_decay=1.1",
        "--optim.critic_betas=[0.5, 1.0]",
        "--optim.critic_betas=[0.5]",
        "--critic.hidden=[0, 4]",
        "--game.weight=-1",
        "--train.patience=0",
        "--train.seed=-1",
        "--eval.ks=[0]",
        "--eval.ks=20",
        "--structure.source=some_users",
        "--parallel.transform=vmap",
        "--preset=official",
        "--model.last_layer_softmax=perhaps",
    ],
)
def test_values_out_of_range_or_choice(refusal, flag):
    assert flag[2:].split("=")[0] in refusal(DATA, flag)


def test_a_value_of_a_file_is_checked_too(refusal, tmp_path):
    assert "dropout" in refusal(write(tmp_path / "c.yaml", "model: {dropout: 2}\n"), DATA)


def test_settings_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match=r"model.heads is 5, which does not divide"):
        validate(parse(DATA, "--model.heads=5"))
    with pytest.raises(ConfigError, match=r"data.path is empty"):
        validate(parse())
    with pytest.raises(ConfigError, match=r"critic.hidden is \[1.5, 8"):
        validate(parse(DATA, "--critic.hidden=[1.5, 8]"))


def test_values_out_of_range_are_refused_without_the_command_line_too():
    config = override(tiny_config("paper"), {"train.epochs": 0})
    with pytest.raises(ConfigError, match=r"train.epochs"):
        validate(config)
    validate(tiny_config("released"))


def test_a_missing_file(refusal, tmp_path):
    assert "nowhere.yaml" in refusal(f"--config={tmp_path / 'nowhere.yaml'}")


def test_a_file_that_is_no_yaml(refusal, tmp_path):
    assert "line 2" in refusal(write(tmp_path / "c.yaml", "optim: {lr: [\n"), DATA)


def documents_of(owner: type) -> dict[str, str]:
    """The docstrings of a stage's fields, read from the source; a subclass's own come first."""
    documents: dict[str, str] = {}
    for each in reversed([each for each in owner.__mro__ if dataclasses.is_dataclass(each)]):
        (node,) = ast.parse(inspect.getsource(each)).body
        documents |= {
            field.target.id: text.value.value
            for field, text in zip(node.body, node.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
        }
    return documents


def documented_fields(config: Config) -> dict[str, str]:
    """The docstring of every setting, by its dotted key."""
    keyed = {}
    for key in flatten(config):
        *stage, name = key.split(".")
        owner = type(getattr(config, stage[0])) if stage else type(config)
        keyed[key] = documents_of(owner).get(name, "")
    return keyed


@pytest.mark.parametrize("method", METHODS)
def test_help_documents_every_field(capsys, method):
    with pytest.raises(SystemExit) as leaving:
        parse(*([] if method == DEFAULT else ["--method", method]), "--help")
    assert leaving.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for key, document in documented_fields(METHODS[method].CONFIG()).items():
        assert document, f"{key} has no docstring"
        assert f"--{key} " in text, key
        assert re.sub(r"\s+", " ", document) in text, key


def test_a_difference_names_both_values():
    now = tiny_config("paper", {"optim.lr": 0.5, "critic.hidden": (4, 4)})
    assert config_diff(tiny_config(), now) == [
        "optim.lr: 0.01 in the run, 0.5 now",
        "critic.hidden: (8, 4) in the run, (4, 4) now",
    ]


def test_what_a_resumed_run_may_change():
    changes = {
        "data.path": "moved",
        "data.format": "mmrec",
        "train.epochs": 9,
        "train.max_steps": 7,
        "parallel.devices": 4,
        "parallel.transform": "shard_map",
    }
    assert config_diff(tiny_config(), tiny_config("paper", changes)) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optim: [1\n", "not YAML: .*line 1"),
        ("", "holds nothing, expected settings by stage"),
        ("- 1\n", "holds a list, expected settings by stage"),
        (None, "cannot be read .*wants a YAML file"),
    ],
)
def test_a_broken_config_file_is_named(tmp_path, capsys, content, message):
    good, broken = tmp_path / "good.yaml", tmp_path / "broken.yaml"
    good.write_text("optim:\n  lr: 0.1\n")
    if content is not None:
        broken.write_text(content)
    with pytest.raises(SystemExit):
        parse(DATA, "--config", str(good), f"--config={broken}")
    assert re.search(rf"broken\.yaml: {message}", capsys.readouterr().err, re.DOTALL)


def test_whole_widths_of_the_critic_are_written_as_whole_numbers():
    assert yaml.safe_load(dump_config(MMSSLConfig()))["critic"]["hidden"] == [512, 256]
    config = override(MMSSLConfig(), {"critic.hidden": (0.25, 12)})
    assert "hidden:\n  - 0.25\n  - 12\n" in dump_config(config)


@pytest.mark.parametrize("stage", ["3", "null", "[1]"])
def test_a_stage_without_names_is_refused(refusal, tmp_path, stage):
    message = refusal(write(tmp_path / "c.yaml", f"optim: {stage}\n"), DATA)
    assert re.search(r"optim is (3|None|\[1\]), expected its settings by name", message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: [1\n", "c.yaml: not YAML"),
        ("- 1\n", "c.yaml: holds a list, expected settings by stage"),
        ("optim: {lrr: 1}\n", "there is no setting 'optim.lrr'; the nearest is 'optim.lr'"),
        ("optim: {lr: 0}\n", "optim.lr"),
        ("optim: 3\n", "optim is 3"),
        ("method: lightgnc\n", "there is no method 'lightgnc'; the nearest is 'lightgcn'"),
    ],
)
def test_a_file_read_in_python_raises(tmp_path, capsys, text, message):
    write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_config(tmp_path / "c.yaml")
    assert capsys.readouterr() == ("", "")
