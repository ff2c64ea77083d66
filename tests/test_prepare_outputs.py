"""Where `mmssl_jax.prepare` reads and writes: paths, full disks, caches, what is left behind."""

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.cli.prepare import main
from mmssl_jax.data import DatasetError, read_dataset
from mmssl_jax.prepare import write
from tests import shop
from tests.malformed import IDS, LOG, TEXT, VISUAL, npz, prepared, written

pytest.importorskip("polars", reason="needs the extra `tables`")
pytestmark = pytest.mark.extras


def refused(folder: Path, capfd, *flags: str) -> str:
    """What is said of these flags."""
    with pytest.raises(SystemExit) as left:
        prepared(folder, list(flags))
    assert left.value.code == 2
    return capfd.readouterr().err


def full_disk(monkeypatch, name: str) -> None:
    """Writing this file fails as on a full disk."""
    real = write._write

    def failing(path: Path, content) -> None:
        real(path, content)
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write, "_write", failing)


@pytest.mark.parametrize("name", ["v_feat.npy", "v_mask.npy", ".item_ids.json.unfinished"])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path, capfd, monkeypatch, name, is_there):
    written(tmp_path, {"v.npz": npz(ids=IDS[:2], features=np.eye(2))})
    if is_there:
        (tmp_path / "out").mkdir()
    full_disk(monkeypatch, name)
    said = refused(tmp_path, capfd, *VISUAL)
    assert f"{tmp_path / 'out'}: cannot be written (No space left on device); its files" in said
    assert (tmp_path / "out").exists() == is_there
    assert not is_there or not list((tmp_path / "out").iterdir())


def test_a_part_of_a_folder_is_no_dataset(tmp_path, capfd, monkeypatch):
    written(tmp_path, {})
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: None)  # as after a power cut
    monkeypatch.setattr(Path, "rmdir", lambda path: None)
    full_disk(monkeypatch, ".train.json.unfinished")
    refused(tmp_path, capfd, *VISUAL)
    assert (tmp_path / "out" / "test.json").exists()
    with pytest.raises(DatasetError, match=r"missing train\.json"):
        read_dataset(tmp_path / "out")
    monkeypatch.undo()
    assert "out: the rest of a preparation that was stopped" in refused(tmp_path, capfd, *VISUAL)


def test_a_user_of_all_items_is_named_before_anything_is_encoded(tmp_path, capfd):
    more = "".join(f"all-seeing,{item},5,0\n" for item in "abcd")
    written(tmp_path, {"log.csv": LOG + more})
    shop.calls.clear()
    flags = ["--split.method=global_time", "--split.test=0", "--split.validation=0.2"]
    said = refused(tmp_path, capfd, *TEXT, "--time_column=time", *flags)
    assert "log.csv: 1 users have all 4 items in training, the first are 'all-seeing'" in said
    assert not shop.calls
    assert not (tmp_path / "out").exists()


def test_paths_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    array = {"v.npy": lambda path: np.save(path, np.eye(3)), "ids.txt": "a\nb\nc\n"}
    written(tmp_path, array)
    flags = ["--interactions=~/log.csv", "--features=[v=~/v.npy@~/ids.txt]", "--out=~/home/shop"]
    prepared(tmp_path, flags)
    assert read_dataset(tmp_path / "home" / "shop").modalities == ("v",)
    (tmp_path / "p.yaml").write_text(
        "interactions: ~/log.csv\nitems: ~/items.csv\ncache: ~/kept\nout: ~/yaml\ncore:\n"
        "  users: 1\n  items: 1\nsplit:\n  method: leave_one_out\ntext:\n  column: title\n"
    )
    main([f"--config={tmp_path / 'p.yaml'}", "--text.encoder=tests.shop:letters"])
    assert list((tmp_path / "kept").glob("text-*/*.npz"))
    assert read_dataset(tmp_path / "yaml").modalities == ("text",)
    assert not (tmp_path / "~").exists()


def test_brackets_stars_and_signs_in_paths_are_letters(tmp_path, capsys):
    folder = tmp_path / "log [12] *@home"
    folder.mkdir()
    (tmp_path / "log 1 *@home").mkdir()
    for place in tmp_path.iterdir():
        written(place, {})
    (tmp_path / "log 1 *@home" / "log.csv").write_text(LOG.replace("u", "x"))
    out = prepared(folder, VISUAL)
    assert read_dataset(out).user_ids.tolist() == ["u1", "u2", "u3"]
    command = capsys.readouterr().out.strip().splitlines()[-1]
    assert shlex.split(command)[:5] == ["train:", "python", "train.py", "--data.path", str(out)]


def test_a_damaged_cache_is_encoded_again(tmp_path):
    written(tmp_path, {})
    prepared(tmp_path, TEXT)
    (kept,) = (tmp_path / "cache").glob("*/*.npz")
    whole = kept.read_bytes()
    for number, content in enumerate([whole[:-40], b"", npz(hashes=IDS, rows=np.full((3, 2), 9))]):
        kept.write_bytes(content)
        shop.calls.clear()
        prepared(tmp_path, [*TEXT, f"--out={tmp_path}/again{number}"])
        assert sorted(shop.calls) == ["abba", "acc", "cab"]
        read_dataset(tmp_path / f"again{number}")


def test_without_a_place_for_a_cache_the_work_goes_on(tmp_path, monkeypatch, capsys):
    written(tmp_path, {"cache": b"a file"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read_dataset(prepared(tmp_path, [*TEXT, "--cache="]))
    assert "what is encoded is not kept in a cache" in capsys.readouterr().out


def test_nobody_at_home_has_no_cache(monkeypatch):
    from mmssl_jax.prepare.cache import default_cache

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert default_cache() is None


MEMORY = """
import resource, sys
import numpy as np, polars as pl
from mmssl_jax.prepare.features import feature_content

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

rows = 30_000
ids = [f"i{k}" for k in range(rows)]
feature_content(ids[:9], sys.argv[2], "item_id")  # what polars itself takes
before = peak()
feature_content(ids, sys.argv[1], "item_id")
print((peak() - before) / (rows * 768 * 4 / 2**20))
"""


def test_vectors_of_a_parquet_table_take_three_times_their_size(tmp_path):
    import polars as pl

    for name, n in (("v.parquet", 30_000), ("small.parquet", 100)):
        rows = np.random.default_rng(0).standard_normal((n, 768), np.float32)
        lists = pl.Series(rows).cast(pl.List(pl.Float32))
        ids = [f"i{k}" for k in range(n)]
        pl.DataFrame({"item_id": ids, "v": lists}).write_parquet(tmp_path / name)
    files = [str(tmp_path / name) for name in ("v.parquet", "small.parquet")]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *files],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 3.3
