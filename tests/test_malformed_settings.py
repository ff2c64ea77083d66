"""Malformed settings, flags, spaces and JSON files: each is told in a short message, in which file
and where, and nothing is imported or read that a value names."""

import json
import os
import sys
from pathlib import Path

import pytest

from mmssl_jax.cli.check import check_parser
from mmssl_jax.cli.compare import compare_parser
from mmssl_jax.cli.errors import leave
from mmssl_jax.cli.eval import eval_command, eval_parser
from mmssl_jax.cli.prepare import prepare_parser
from mmssl_jax.cli.report import report_command
from mmssl_jax.cli.train import train_command
from mmssl_jax.compare.plan import read_starts
from mmssl_jax.config import Config, ConfigError, DataConfig, EvalConfig, OptimConfig, TrainConfig
from mmssl_jax.files import check_output_file, check_output_folder, user_path
from mmssl_jax.messages import LONGEST
from mmssl_jax.methods.mmssl.config import MMSSLConfig
from mmssl_jax.records.read import DATASET_KEYS, read_json
from mmssl_jax.run_config import FileParser, config_parser, convert, parse_config, read_config
from mmssl_jax.study.run import read_result
from mmssl_jax.training.errors import RunError
from mmssl_jax.tune.space import read_space


def check_message(message: str, *parts: str) -> None:
    """Short, without control characters, and with these parts."""
    assert len(message) <= LONGEST + 200, len(message)  # the line about --help comes on top
    assert all(char.isprintable() or char == "\n" for char in message)
    for part in parts:
        assert part in message


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that says when it is imported."""
    ran = tmp_path / "ran"
    (tmp_path / "evil_settings.py").write_text(f"open({str(ran)!r}, 'w')\nclass Model:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "evil_settings.Model"
    assert sys.modules.pop("evil_settings", None) is None
    assert not ran.exists()


DEEP, LONG = "[" * 5000, "x" * 200_000

# Bytes or text of a settings file, and what its message names.
FILES = {
    "repeated section": ("optim: {lr: 1}\noptim: {lr: 2}\n", "line 2", "optim", "line 1"),
    "repeated key": ("optim:\n  lr: 1\n  lr: 2\n", "line 3", "'lr'"),
    "dotted and nested": ("optim.lr: 1\noptim:\n  lr: 2\n", "line 3", "optim.lr"),
    "section twice over": ("optim: 3\noptim.lr: 2\n", "line 1", "optim"),
    "alias": ("optim: {lr: &a 1, critic_lr: *a}\n", "line 1", "&a"),
    "alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 1", "anchor"),
    "lonely alias": ("data: {path: *home}\n", "line 1", "'*home'", "quotes"),
    "python tag": ("data: {path: !!python/object/apply:os.system [ls]}\n", "line 1", "tag"),
    "own tag": ("data:\n  path: !env HOME\n", "line 2", "'!env'"),
    "str tag": ("data: {path: !!str 3}\n", "line 1", "tag"),
    "two documents": ("optim: {lr: 1}\n---\noptim: {lr: 2}\n", "line 2", "document"),
    "deep lists": (f"eval: {{ks: {DEEP}}}\n", "line 1", "levels"),
    "deep mappings": ("{a: " * 5000, "line 1", "levels"),
    "deep blocks": ("".join(" " * i + "a:\n" for i in range(300)), "line 13", "levels"),
    "large": (f"# {LONG}\noptim: {{lr: 1}}\n", "bytes"),
    "long key": (f"{'k' * 900}: 1\n", "line 1", "so long a name"),
    "method of many letters": (f"method: {'m' * 50_000}\n", "method"),
    "long number": (f"train: {{epochs: {'9' * 9000}}}\n", "line 1", "9,000 characters"),
    "not UTF-8": (b"data:\n  path: caf\xe9\n", "line 2", "0xe9", "UTF-8"),
    "UTF-16": ("optim: {lr: 1}\n".encode("utf-16"), "line 1", "UTF-8"),
    "NUL": (b"optim: {lr: 1}\n\x00", "line 2", "'\\x00'"),
    "written NUL": ('data: {path: "a\\0b"}\n', "line 1", "'\\x00'"),
    "half of a pair": ('data: {path: "\\ud800"}\n', "line 1", "\\ud800"),
    "escape sequence": (b"optim: \x1b[31m\n", "line 1", "'\\x1b'"),
    "tab": ("optim:\n\tlr: 1\n", "line 2", "\\t"),
    "not closed": ("optim: {lr: 1\n", "not YAML", "line 1"),
    "not closed quote": ('data: {path: "a\n', "not YAML", "line"),
    "wrong indent": ("optim:\n  lr: 1\n critic_lr: 2\n", "line 3"),
    "empty": ("", "holds nothing"),
    "comments alone": ("# optim:\n", "holds nothing"),
    "a list": ("- optim\n", "holds a list"),
    "a text": ("optim\n", "holds a value"),
    "number as key": ("2024: 1\n", "line 1", "'2024'"),
    "yes as key": ("yes: 1\n", "line 1", "'yes'"),
    "null as key": ("optim: {~: 1}\n", "line 1", "'~'"),
    "list as key": ("? [a, b]\n: 1\n", "line 1", "key"),
    "merge key": ("optim:\n  <<: {lr: 1}\n", "<<", "line 2"),
    "infinite": ("optim:\n  lr: .inf\n", "line 2", "optim.lr", "finite"),
    "NaN": ("optim:\n  weight_decay: .NaN\n", "line 2", "optim.weight_decay"),
    "nan": ("structure: {k_rate: nan}\n", "line 1", "structure.k_rate"),
    "quoted infinity": ("optim: {lr: 'inf'}\n", "optim.lr", "line 1"),
    "overflow": ("optim: {lr: 1e999}\n", "line 1", "optim.lr"),
    "infinite in a list": ("critic: {hidden: [4, .inf]}\n", "line 1", "critic.hidden"),
    "yes for a number": ("optim: {lr: yes}\n", "line 1", "optim.lr is yes"),
    "off for a number": ("train: {epochs: off}\n", "line 1", "train.epochs is off"),
    "no value": ("optim:\n  lr:\n", "line 2", "optim.lr has no value"),
    "null text": ("data: {path: null}\n", "line 1", "data.path has no value", "''"),
    "tilde alone": ("data: {path: ~}\n", "line 1", "data.path", "'~' in quotes"),
    "null in texts": ("data: {modalities: [visual, ~]}\n", "line 1", "data.modalities"),
    "hexadecimal": ("model:\n  dim: 0x10\n", "line 2", "model.dim"),
    "sexagesimal": ("train: {epochs: 1:30}\n", "line 1", "train.epochs"),
    "text for a number": ("train:\n  epochs: many\n", "line 2", "train.epochs"),
    "huge": ("train: {epochs: 1000000000000000000000000000000}\n", "line 1", "train.epochs"),
    "huge blocks": ("eval: {block_users: 1000000000000}\n", "line 1", "eval.block_users"),
    "huge list length": ("eval: {ks: [20, 99999999999]}\n", "line 1", "eval.ks"),
    "huge seed": ("train: {seed: 18446744073709551616}\n", "line 1", "train.seed"),
    "huge width": ("model: {dim: 2000000000}\n", "line 1", "model.dim"),
    "huge hidden": ("critic: {hidden: [1e300, 4]}\n", "line 1", "critic.hidden"),
    "huge depth": ("model: {gnn_layers: 1000000}\n", "line 1", "model.gnn_layers"),
    "unknown key": ("optim:\n  lrr: 1\n", "line 2", "optim.lrr", "nearest is 'optim.lr'"),
    "unknown stage": ("optimizer: {lr: 1}\n", "line 1", "optimizer"),
    "a stage as a number": ("optim: 3\n", "line 1", "optim is 3"),
    "a stage as null": ("optim: null\n", "line 1", "optim is None"),
    "a mapping as a number": ("optim: {lr: {low: 1}}\n", "line 1", "optim.lr.low"),
    "unknown method": ("method: lightgnc\n", "lightgnc", "lightgcn"),
    "a method as a list": ("method: [mf]\n", "method"),
    "class_path": ("model:\n  class_path: evil_settings.Model\n", "line 2", "class_path"),
    "class_path on top": ("class_path: evil_settings.Model\n", "line 1", "class_path"),
    "class_path of a leaf": ("data: {path: {class_path: evil_settings.Model}}\n", "class_path"),
    "class_path in a list": ("data: {modalities: [{class_path: evil_settings.Model}]}\n", "line 1"),
    "class_path with a dot": ("model.class_path: evil_settings.Model\n", "line 1", "class_path"),
    "init_args": ("model: {init_args: {dim: 8}}\n", "line 1", "init_args"),
    "dict_kwargs": ("model: {dict_kwargs: {dim: 8}}\n", "line 1", "dict_kwargs"),
    "__class__": ("model: {__class__: evil_settings.Model}\n", "line 1", "__class__"),
    "__path__": ("__path__: x\n", "line 1", "__path__"),
    "a class for a stage": ("model: evil_settings.Model\n", "line 1", "model is"),
    "a file for a stage": ("optim: other.yaml\n", "line 1", "optim is"),
    "config in a config": ("config: other.yaml\n", "config"),
    "print_config": ("print_config: x\n", "print_config"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_settings_file(name, tmp_path, evil):
    content, *parts = FILES[name]
    file = tmp_path / "c.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as refusal:
        read_config(file)
    check_message(str(refusal.value), *parts, *([] if " method" in f" {name}" else ["c.yaml"]))


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to a pipe", "nothing"])
def test_what_is_no_settings_file(kind, tmp_path):
    place = tmp_path / "c.yaml"
    if kind == "folder":
        place.mkdir()
    elif kind == "device":
        place = Path("/dev/zero")
    elif kind != "nothing":
        pipe = place if kind == "pipe" else tmp_path / "pipe"
        os.mkfifo(pipe)
        if pipe != place:
            place.symlink_to(pipe)
    for read in (read_config, lambda path: read_space(path, MMSSLConfig())):
        with pytest.raises(ConfigError) as refusal:
            read(place)
        check_message(str(refusal.value), str(place))
    with pytest.raises(RunError) as refused:
        read_json(place, "a record", RunError)
    check_message(str(refused.value), str(place))


# Flags of train.py, and what their message names.
FLAGS = [
    ("--model=evil_settings.Model", "model"),
    ("--model={class_path: evil_settings.Model}", "model"),
    ('--model={"class_path": "evil_settings.Model"}', "model"),
    ("--model.class_path=evil_settings.Model", "model.class_path"),
    ("--model.help=evil_settings.Model", "model.help"),
    ("--model.init_args.dim=3", "model.init_args.dim"),
    ("--data.modalities.class_path=evil_settings.Model", "data.modalities.class_path"),
    ("--optim.lr.class_path=evil_settings.Model", "optim.lr.class_path"),
    ("--optim=other.yaml", "optim"),
    ("--__class__=evil_settings.Model", "__class__"),
    ("--config.x=1", "config.x"),
    ("--config=http://localhost/c.yaml", "http:"),
    ("--config={optim: {lr: 1}}", "cannot be read"),
    ("--config=" + "x" * 5000, "cannot be read"),
    ("@other.yaml", "@other.yaml"),
    ("--optim.lr=inf", "optim.lr"),
    ("--optim.lr=-inf", "optim.lr"),
    ("--optim.lr=nan", "optim.lr"),
    ("--optim.lr=1e999", "optim.lr"),
    ("--optim.lr=true", "optim.lr"),
    ("--critic.hidden=[4, inf]", "critic.hidden"),
    ("--critic.hidden=[4, 1e300]", "critic.hidden"),
    ("--train.epochs=1" + "0" * 30, "train.epochs"),
    ("--train.epochs=" + "9" * 5000, "train.epochs"),
    ("--eval.block_users=1000000000000", "eval.block_users"),
    ("--eval.ks=[20, 1000000000000]", "eval.ks"),
    ("--eval.ks=" + DEEP, "eval.ks"),
    ("--eval.ks=[&a 1, *a]", "eval.ks"),
    ("--eval.ks=!!python/object/apply:os.system [ls]", "eval.ks"),
    ("--eval.ks={a: 1, a: 2}", "eval.ks"),
    ("--train.seed=4294967296", "train.seed"),
    ("--model.dim+=3", "model.dim+"),
    ("--" + "x" * 5000, "unrecognized"),
    ("--data.path=\udcff", "UTF-8"),
    ("--method=\x1b[31m", "\\x1b"),
]


@pytest.mark.parametrize(("flag", "part"), FLAGS, ids=lambda text: ascii(text)[:40])
def test_a_flag(flag, part, evil, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text("lr: 0.5\n")
    with pytest.raises(SystemExit) as leaving:
        train_command([flag])
    assert leaving.value.code == 2
    check_message(capsys.readouterr().err, "error: ", part)


@pytest.mark.parametrize(
    ("parser", "arguments", "part"),
    [
        (eval_parser, ["--run=x", "--k=1" + "0" * 30], "k is"),
        (eval_parser, ["--run=x", "--devices=99999999999"], "devices is"),
        (eval_parser, ["--run=x", "--evil.class_path=a"], "evil.class_path"),
        (compare_parser, ["--minutes=inf"], "minutes is"),
        (compare_parser, ["--seeds=[18446744073709551616]"], "seeds is"),
        (compare_parser, ["--data=evil_settings.Model"], "data is no setting"),
        (check_parser, ["--data=evil_settings.Model"], "unrecognized arguments: --data"),
        (check_parser, ["--k=99999999999"], "k is"),
        (prepare_parser, ["--text=evil_settings.Model"], "text is no setting"),
        (prepare_parser, ["--min_rating=nan", "--interactions=a", "--out=b"], "min_rating"),
    ],
)
def test_a_flag_of_other_commands(parser, arguments, part, evil, capsys):
    with pytest.raises(SystemExit) as leaving:
        parser().parse_args(arguments)
    assert leaving.value.code == 2
    check_message(capsys.readouterr().err, "error: ", part)


def test_the_environment_sets_nothing(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("CONFIG_OPTIM__LR", "0.7")
    parser = config_parser("config", [], FileParser)
    assert parse_config(parser, [])[0].optim.lr == MMSSLConfig().optim.lr


SPACES = {
    "NaN": ("optim.lr: {low: .nan, high: 1}\n", "line 1"),
    "infinite": ("\noptim.lr: {low: 1, high: .inf}\n", "line 2"),
    "quoted infinite": ("optim.lr: {low: 1, high: 'inf'}\n", "optim.lr"),
    "endless steps": ("optim.lr: {low: 1, high: 1e308, step: 1e-300}\n", "optim.lr"),
    "infinite step": ("optim.lr: {low: 1, high: 2, step: .inf}\n", "line 1"),
    "huge": ("model.dim: {low: 8, high: 99999999999}\n", "model.dim"),
    "repeated": ("optim.lr: {low: 1, high: 2}\noptim.lr: {low: 2, high: 3}\n", "line 2"),
    "repeated low": ("optim.lr: {low: 1, low: 2, high: 3}\n", "line 1", "low"),
    "class_path": ("model: {class_path: evil_settings.Model}\n", "class_path"),
    "class_path as a choice": ("data.features: {choices: [{class_path: x}]}\n", "class_path"),
    "mapping as a choice": ("data.features: {choices: [{a: 1}]}\n", "data.features"),
    "alias": ("optim.lr: {low: &a 1, high: *a}\n", "line 1"),
    "a list": ("- optim.lr\n", "expected a line for each setting"),
    "no value": ("optim.lr:\n", "line 1", "optim.lr"),
    "long key": (f"{'k' * 3000}: {{low: 1, high: 2}}\n", "line 1"),
    "long choice": (f"data.features: {{choices: [{'x' * 9000}]}}\n", "data.features"),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_space_file(name, tmp_path, evil):
    content, *parts = SPACES[name]
    file = tmp_path / "s.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as refusal:
        read_space(file, MMSSLConfig())
    check_message(str(refusal.value), "s.yaml", *parts)


def test_a_choice_is_what_the_setting_takes(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("data.replaced: {choices: [[on], [2024]]}\n")
    assert read_space(file, MMSSLConfig())["data.replaced"].values == (("on",), ("2024",))


def test_files_of_a_comparison(tmp_path):
    (tmp_path / "a.yaml").write_text("method: mf\nmethod: mf\n")
    with pytest.raises(ConfigError) as refusal:
        read_starts([str(tmp_path)])
    check_message(str(refusal.value), "a.yaml", "line 2", "'method'")


JSONS = {
    "empty": "",
    "cut off": '{"name": "a", ',
    "a list": "[1]",
    "a number": "3",
    "null": "null",
    "NaN": '{"users": NaN}',
    "infinite": '{"users": 1e999}',
    "digits": '{"users": ' + "9" * 9000 + "}",
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "repeated": '{"users": 1, "users": 2}',
    "not UTF-8": b'{"name": "\xff"}',
    "BOM": '\ufeff{"name": "a"}',
    "control": '{"name": "\x1b"}',
    "no keys": "{}",
    "another kind": json.dumps(
        {**{key: kind() for key, kind in DATASET_KEYS.items()}, "users": "x"}
    ),
    "a long value": json.dumps({"name": ["x" * 9000] * 900}),
}


@pytest.mark.parametrize("name", JSONS)
def test_a_json_file(name, tmp_path):
    file, content = tmp_path / "dataset.json", JSONS[name]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError) as refusal:
        read_json(file, "a record", RunError, DATASET_KEYS)
    check_message(str(refusal.value), "dataset.json", "a record")


def test_a_json_file_that_is_too_large(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"a": "x" * 1000}))
    with pytest.raises(RunError, match=r"a\.json: cannot be read .*1,009 bytes.*100 are read"):
        read_json(file, "a record", RunError, most=100)


@pytest.mark.parametrize("content", ["{}", '{"best_epoch": 1, "best_step": 1, "validation": 3}'])
def test_a_result(content, tmp_path):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(RunError) as refusal:
        read_result(tmp_path, ["test/recall@20"])
    check_message(str(refusal.value), "result.json")


def test_a_result_without_a_figure(tmp_path):
    whole = {"best_epoch": 1, "best_step": 1, "validation": {}, "test": {"recall@5": 0.1}}
    (tmp_path / "result.json").write_text(json.dumps(whole))
    assert read_result(tmp_path, ["test/recall@5"]) == whole
    with pytest.raises(RunError, match=r"result\.json: has no test recall@20"):
        read_result(tmp_path, ["test/recall@20"])


@pytest.mark.parametrize(
    "config",
    [
        Config(optim=OptimConfig(lr=float("inf"))),
        Config(optim=OptimConfig(weight_decay=float("nan"))),
        Config(train=TrainConfig(epochs=10**30)),
        Config(eval=EvalConfig(ks=(10**12,))),
        Config(eval=EvalConfig(block_users=10**12)),
        Config(data=DataConfig(path=object())),  # type: ignore[arg-type]
        Config(data=DataConfig(path={"class_path": "evil_settings.Model"})),  # type: ignore[arg-type]
        Config(optim={"class_path": "evil_settings.Model"}),  # type: ignore[arg-type]
    ],
)
def test_settings_of_python(config, evil):
    with pytest.raises(ConfigError) as refusal:
        convert(config)
    check_message(str(refusal.value))


# --- What is taken for what is meant ---


def read(tmp_path: Path, text: str) -> MMSSLConfig:
    (tmp_path / "c.yaml").write_text(text)
    config = read_config(tmp_path / "c.yaml")
    assert isinstance(config, MMSSLConfig)
    return config


def test_an_empty_section_changes_nothing(tmp_path):
    text = "data: {format: synthetic}\noptim:\n  # lr: 1e-3\nmodel: {}\n"
    assert read(tmp_path, text) == read(tmp_path, "data: {format: synthetic}\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [("off", "off"), ("2024", "2024"), ("2024-01-01", "2024-01-01"), ("'~'", "~"), ("1e3", "1e3")],
)
def test_text_is_text(tmp_path, monkeypatch, text, found):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = read(tmp_path, f"data: {{path: {text}}}\nparallel: {{compilation_cache: {text}}}\n")
    expected = str(tmp_path) if found == "~" else found
    assert (config.data.path, config.parallel.compilation_cache) == (expected, expected)


def test_numbers_and_truth_are_read_as_people_write_them(tmp_path):
    text = (
        "\ufeff%YAML 1.2\n---\noptim: {lr: 1e-3}\n"
        "train: {epochs: 1_0, tensorboard: off, seed: 010}\n"
        "structure: {k_rate: null}\ndata: {modalities: [on, 2024]}\neval: {ks: [1e1, '20']}\n"
    )
    config = read(tmp_path, text)
    assert (config.optim.lr, config.train.epochs, config.train.tensorboard) == (0.001, 10, False)
    assert (config.train.seed, config.structure.k_rate, config.eval.ks) == (10, None, (10, 20))
    assert config.data.modalities == ("on", "2024")


def test_a_flag_takes_texts_too(capsys):
    arguments = ["--data.modalities=[on, 2024, text]", "--data.path", "[a, b"]
    config, _ = parse_config(config_parser("train.py", arguments), arguments)
    assert config.data.modalities == ("on", "2024", "text")
    assert config.data.path == "[a, b"


# --- Paths, and outputs that cannot be written ---


@pytest.mark.parametrize("name", ["a b", "a@b", "a,b", "[a]", "größe", "a'b", "$(a)", "a: b"])
def test_paths_as_people_have_them(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    file = folder / "c.yaml"
    file.write_text(f"data:\n  path: {json.dumps(str(folder))}\n")
    arguments = [f"--config={file}"]
    assert parse_config(config_parser("x", arguments), arguments)[0].data.path == str(folder)
    arguments = ["--config", str(file), "--data.path", name]
    assert parse_config(config_parser("x", arguments), arguments)[0].data.path == name


def test_the_home_folder_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("data: {path: ~/shop}\n")
    arguments = ["--config=~/c.yaml", "--parallel.compilation_cache=~/cache"]
    config, _ = parse_config(config_parser("x", arguments), arguments)
    assert config.data.path == str(tmp_path / "shop")
    assert config.parallel.compilation_cache == str(tmp_path / "cache")
    assert user_path("~/a") == tmp_path / "a"


@pytest.mark.parametrize("kind", ["below a file", "a file", "protected", "too long a name"])
def test_a_folder_that_cannot_be_written(kind, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    place = {
        "below a file": tmp_path / "file" / "run",
        "a file": tmp_path / "file",
        "protected": Path("/proc/run"),
        "too long a name": tmp_path / ("x" * 300),
    }[kind]
    with pytest.raises(OSError, match=r".") as refusal:
        check_output_folder(place)
    assert str(place) in str(refusal.value)
    with pytest.raises(SystemExit) as leaving:
        train_command(["--data.format=synthetic", f"--run={place}"])
    assert leaving.value.code == 2
    check_message(capsys.readouterr().err, "error: ", str(place))


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "below a file", "protected"])
def test_a_file_that_cannot_be_written(kind, tmp_path, capsys):
    place = tmp_path / "out.html"
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place = Path("/dev/null")
    elif kind == "below a file":
        place.touch()
        place = place / "out.html"
    else:
        place = Path("/proc/out.html")
    with pytest.raises(OSError, match=r"."):
        check_output_file(place)
    with pytest.raises(SystemExit) as leaving:
        report_command(["no-run", f"--out={place}"])
    assert leaving.value.code == 2
    check_message(capsys.readouterr().err, "error: ", str(place))


@pytest.mark.parametrize(
    "flag", ["--export={}/a.csv", "--export_embeddings={}/a.npz", "--save={}/a"]
)
def test_outputs_are_tried_before_the_run_is_read(flag, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as leaving:
        eval_command(["--run=no-run", flag.format(tmp_path / "file")])
    assert leaving.value.code == 2
    check_message(capsys.readouterr().err, "error: ", "file")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/a/b"), "/a/b: No space left on device"),
        (PermissionError(13, "Permission denied", "/a"), "/a: Permission denied"),
        (OSError("no name"), "no name"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        leave(error)
    assert leaving.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {message}")
    assert told.count("\n") == 1
