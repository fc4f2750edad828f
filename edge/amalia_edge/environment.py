"""A virtual environment and a pip on whatever Python there is: Debian splits ensurepip off, uv leaves pip out.

Standard library only: `build.py` needs both before anything is installed.
"""

import hashlib
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

from amalia_edge.errors import LibraryMissing

VIRTUALENV = "virtualenv==21.15.7"
# pip runs from its wheel as it is: `python pip.whl/pip install ...`. Pinned by its bytes: pip cannot check itself.
PIP, PIP_SHA256 = "pip-26.3-py3-none-any.whl", "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"


def make_environment(folder: Path, cache: Path) -> Path:
    """Make a virtual environment in `folder`, or keep a working one, and give its Python."""
    python = folder / "bin" / "python"
    if _runs([str(python), "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]):
        return python
    if _runs([sys.executable, "-m", "venv", "--clear", str(folder)]) and _runs([str(python), "-m", "pip", "--version"]):
        return python
    tool = cache / "build" / VIRTUALENV.replace("==", "-")
    if not tool.is_dir():
        install_into(tool, [VIRTUALENV], find_pip(cache))
    command = [sys.executable, "-m", "virtualenv", "--clear", "--quiet", "--no-periodic-update", str(folder)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tool)}, stdin=subprocess.DEVNULL)
    if done.returncode != 0 or not python.exists():
        raise LibraryMissing(
            str(folder), "neither venv nor virtualenv could make an environment here", "see the lines above"
        )
    return python


def find_pip(cache: Path, python: str = sys.executable) -> list[str]:
    """Give the words that start pip for `python`: its own, the wheel ensurepip carries, or one fetched."""
    if _runs([python, "-m", "pip", "--version"]):
        return [python, "-m", "pip"]
    bundled = subprocess.run(
        [python, "-c", "import ensurepip, pathlib; print(pathlib.Path(ensurepip.__file__).parent)"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    wheels = sorted((Path(bundled) / "_bundled").glob("pip-*.whl")) if bundled else []
    wheel = wheels[-1] if wheels else _fetch_pip(cache)
    return [python, f"{wheel}/pip"]


def install_into(folder: Path, requirements: list[str], pip: list[str]) -> None:
    """Install packages into a folder of their own, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    neighbour = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        command = [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-warn-script-location"]
        done = subprocess.run(
            [*command, "--target", str(neighbour), *requirements], stdin=subprocess.DEVNULL, capture_output=True
        )
        if done.returncode != 0:
            raise LibraryMissing("pip", last_line(done.stderr), OFFLINE)
        if not folder.is_dir():  # another setup may have been quicker
            neighbour.rename(folder)
    finally:
        shutil.rmtree(neighbour, ignore_errors=True)


OFFLINE = (
    "setup needs a Python package index once: check the network or pip's settings (PIP_INDEX_URL, PIP_PROXY), or take "
    "a --wheelhouse folder filled by `amalia setup --wheelhouse DIR` on a machine of the same kind"
)


def last_line(output: bytes) -> str:
    """Give the last line that says something: pip ends with the error, after its retries."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines()]
    said = [line for line in lines if line.startswith("ERROR:") and line != "ERROR: Exception:"]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    anything = [line for line in lines if line]
    return (said or raised or anything or ["it failed without a word"])[-1].removeprefix("ERROR:").strip()


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def _fetch_pip(cache: Path) -> Path:
    """Download pip's wheel, the one thing pip cannot fetch for us, from the index that PIP_INDEX_URL names."""
    wheel = cache / "build" / PIP
    if wheel.is_file() and hashlib.sha256(wheel.read_bytes()).hexdigest() == PIP_SHA256:
        return wheel
    index = os.environ.get("PIP_INDEX_URL", "").rstrip("/")
    if not index:
        advice = "install it (Debian, Ubuntu: apt install python3-venv), or name an index in PIP_INDEX_URL"
        raise LibraryMissing("pip", "this Python has neither pip nor ensurepip", advice)
    trust = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    try:
        with urllib.request.urlopen(f"{index}/pip/", timeout=60, context=trust) as page:
            link = re.search(rf'href="([^"]*{re.escape(PIP)}[^"]*)"', page.read().decode("utf-8", "replace"))
            if not link:
                raise LibraryMissing(index, f"{PIP} is not there", "install pip for this Python, then again")
            address = urllib.parse.urljoin(page.url, link.group(1))
        with urllib.request.urlopen(address, timeout=60, context=trust) as file:
            data = file.read(1 << 25)
    except OSError as error:
        raise LibraryMissing(index, f"this Python has no pip, and none could be fetched: {error}", OFFLINE) from error
    if hashlib.sha256(data).hexdigest() != PIP_SHA256:
        raise LibraryMissing(index, f"{PIP} is not the file it should be", "install pip for this Python, then again")
    wheel.parent.mkdir(parents=True, exist_ok=True)
    neighbour = wheel.with_name(f".{wheel.name}.{os.getpid()}")
    neighbour.write_bytes(data)
    neighbour.replace(wheel)
    return wheel
