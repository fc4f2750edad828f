"""`pip install` and `amalia setup` give what a checkout gives: the same library, and a line that works."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from amalia_edge.build import installed_build
from amalia_edge.decision import Wish, decide
from amalia_edge.machine import look

ROOT = Path(__file__).parents[1]
NOT_SHARED = ("llama_cpp", "amalia", "_amalia", "__editable__", "_virtualenv")


def run(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with this one's packages, but for the project and the library, and then the project's wheel."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    venv.create(folder / "venv", symlinks=True)
    (theirs,) = (folder / "venv").glob("lib/python*/site-packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith(NOT_SHARED):
            (theirs / package.name).symlink_to(package)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", *folder.glob("*.whl"))
    return folder / "venv" / "bin" / "amalia"


def test_setup_after_pip_install_gives_the_library_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    assert json.loads(run(installed, "setup", "--json"))["result"]["key"] == decide(look(), Wish()).key
    if (ours := installed_build()) is not None:  # made by `make setup`
        told = json.loads(run(installed, "doctor", "--json"))["result"]
        assert told["library"]["build"]["flags"] == ours["flags"]
        assert told["self_test"]["ok"] is True
    answer = run(installed, "run", "fadinho", "Quem és tu?", "--temp", "0", XDG_DATA_HOME=str(tmp_path))
    assert "fadinho" in answer
