"""Every command a README shows is run, and its example prints an answer."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hub_server import HubServer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BIN = Path(sys.executable).parent
MINUTES = 10
AMALIA = "amalia-llm/AMALIA-9B-0626-DPO"


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def commands(beginning: str) -> list[str]:
    lines = [line.partition(" #")[0].strip() for block in blocks(README, "") for line in block.splitlines()]
    return [line for line in lines if line.startswith(beginning)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def hub(home: Path) -> Iterator[HubServer]:
    """A Hub with the embedded checkpoint under AMÁLIA's name: the real one weighs 18 GB."""
    shutil.copytree(ROOT / "convert" / "amalia_convert" / "fadinho", home / "repositories" / AMALIA)
    with HubServer(home / "repositories") as server:
        yield server


def run(line: str, home: Path, given: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    environment = {**given, "XDG_DATA_HOME": str(home / "data"), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    words = shlex.split(line.replace(".venv/bin/", ""))
    return subprocess.run(
        words, cwd=home, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=MINUTES * 60
    )


@pytest.mark.parametrize("line", commands(".venv/bin/amalia"))
def test_the_commands_on_the_embedded_model_work(line: str, home: Path) -> None:
    done = run(line, home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or "chat" in line


def test_the_commands_on_the_real_model_work_on_a_repository_of_its_name(home: Path, hub: HubServer) -> None:
    lines = [line for line in commands("") if "AMALIA-9B" in line]
    assert f"amalia convert {AMALIA}" in lines
    for line in lines:
        done = run(line, home, hub.environment(home / "hub"))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", commands("make"))
def test_the_two_commands_are_make_targets(line: str) -> None:
    done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["README.md", "edge/README.md"])
def test_the_examples_print_an_answer(page: str, home: Path) -> None:
    (example,) = blocks((ROOT / page).read_text("utf-8"), "python")
    environment = {**os.environ, "XDG_DATA_HOME": str(home / "data")}
    done = subprocess.run([sys.executable, "-c", example], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 10


def test_the_first_screen_has_a_sentence_a_table_two_commands_and_an_example() -> None:
    first = "\n".join(README.splitlines()[:45])
    assert "| " in first and "make demo" in first and "make test" in first and "```python" in first


def test_every_dependency_is_justified() -> None:
    listed = re.findall(r'"([a-z0-9-]+)>=', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert all(name in README for name in listed if name != "hatchling")


def test_the_links_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("convert/*/README.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
