"""Each file of a run deleted, emptied, halved or with a bit changed: a message or the same end."""

import shutil

import pytest

from mmssl_jax.cli.eval import eval_command
from mmssl_jax.cli.train import train_command
from tests.faults.runs import outcome, settings

EPOCHS = 3
KINDS = ("delete", "empty", "halve", "flip")
# Files that a resumed run writes anew, or that only people read.
UNREAD = ("environment.json", "result.json", "per_user.npz", "lock")


def spoil(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return
    if kind == "flip" and content:
        content[len(content) // 3] ^= 4
    path.write_bytes({"empty": b"", "halve": content[: len(content) // 2]}.get(kind, content))


@pytest.fixture(scope="module")
def made(data):
    """A run of three epochs, and the outcome of a fourth."""
    run = data.parent / "made"
    train_command([*settings(data, EPOCHS), f"--run={run}"])
    longer = shutil.copytree(run, data.parent / "longer")
    train_command([*settings(data, EPOCHS + 1), f"--run={longer}", "--resume"])
    return run, outcome(longer)


def status(command, arguments):
    """0, or the status that a command leaves with."""
    try:
        command(arguments)
    except SystemExit as end:
        return end.code
    return 0


def harm(file, kind, made, data, folder, capfd):
    """Resumes and evaluates a copy of the run with one file spoilt; returns the two statuses."""
    run, (records, result) = made
    copies = [shutil.copytree(run, folder / name) for name in ("resumed", "evaluated")]
    for copy in copies:
        spoil(copy / file.relative_to(run), kind)
    capfd.readouterr()
    resumed = status(train_command, [*settings(data, EPOCHS + 1), f"--run={copies[0]}", "--resume"])
    evaluated = status(eval_command, [f"--run={copies[1]}", "--split=test"])
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err, (file, kind)
    assert {resumed, evaluated} <= {0, 2}, (file, kind, said.err)
    if resumed == 0:
        found_records, found_result = outcome(copies[0])
        # A damaged line of the log is left out and told; a lost best epoch is told, too. What the
        # log's figures say has no digest: they are for people, and nothing goes on from them.
        told = "is damaged" in said.out or "is lost" in said.out or file.name == "metrics.jsonl"
        assert told or (found_records, found_result) == (records, result), (file, kind)
        assert found_records[-1] == records[-1], (file, kind)
    for copy in copies:
        shutil.rmtree(copy)
    return resumed, evaluated


def files_of(run):
    return [path for path in sorted(run.rglob("*")) if path.is_file() and path.name not in UNREAD]


def test_some_files(made, data, tmp_path, capfd):
    run, _ = made
    for name, kind in (
        ("config.yaml", "halve"),
        ("dataset.json", "empty"),
        ("metrics.jsonl", "flip"),
    ):
        harm(run / name, kind, made, data, tmp_path, capfd)
    largest = max((run / "checkpoints" / "best").rglob("d/*"), key=lambda path: path.stat().st_size)
    assert harm(largest, "flip", made, data, tmp_path, capfd) == (0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_file(kind, made, data, tmp_path, capfd):
    files = files_of(made[0])
    assert len(files) > 30
    ends = [harm(file, kind, made, data, tmp_path, capfd) for file in files]
    assert any(evaluated == 2 for _, evaluated in ends)
