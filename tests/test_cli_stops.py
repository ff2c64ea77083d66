"""How Ctrl-C and SIGTERM end a command."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmssl_jax.cli.errors import reported
from mmssl_jax.cli.stops import stoppable
from mmssl_jax.training.errors import RunError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def ctrl_c():
    """Python's own handler, which a test's process may have been started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_with_its_status(sent, status, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def wait() -> None:
        os.kill(os.getpid(), sent)
        time.sleep(5)

    with pytest.raises(SystemExit) as end, reported("it goes on"):
        wait()
    assert end.value.code == status
    assert capsys.readouterr().err == "it goes on\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_that_python_discards_comes_again(sent, status, capsys):
    """As one that comes while the garbage collector calls back."""

    def on_collection(phase: str, info: dict) -> None:
        gc.callbacks.remove(on_collection)
        os.kill(os.getpid(), sent)
        time.sleep(0.01)

    def wait() -> None:
        gc.callbacks.append(on_collection)
        gc.collect()
        time.sleep(5)

    with pytest.raises(SystemExit) as end, reported("it goes on"):
        wait()
    assert end.value.code == status
    assert capsys.readouterr().err == "it goes on\n"


def test_what_a_user_can_mend_ends_a_command_with_2(capsys):
    with pytest.raises(SystemExit) as end, reported():
        raise RunError("mend it")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: mend it\n"


def test_a_thread_sets_no_handler():
    ran = []

    def work():
        with stoppable("stopped"):
            ran.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [True]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["train", "mmssl_jax.prepare", "mmssl_jax.study"])
def test_a_command_that_still_imports_stops_in_silence(sent, module):
    start = (
        "import os, runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy':\n"
        "            os.kill(os.getpid(), int(sys.argv[1]))\n"
        "sys.meta_path.insert(0, Stop())\n"
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", start, str(int(sent))], capture_output=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == -sent
    assert done.stderr == b""
