"""The rooms keep their walls: who imports whom, one gate for each heavy dependency, and importing costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"amalia_edge": "edge", "amalia_convert": "convert", "amalia_bench": "kernels_bench"}
MAY_IMPORT = {
    "amalia_edge": set(),
    "amalia_convert": {"amalia_edge"},
    "amalia_bench": {"amalia_edge", "amalia_convert"},
}
GATES = {
    "llama_cpp": (
        "amalia_edge/native.py",
        "amalia_edge/selftest.py",
    ),  # the self-test's child dies apart from the product
    "huggingface_hub": ("amalia_edge/hub.py",),
    "llguidance": ("amalia_edge/schema.py",),
    "matplotlib": ("amalia_bench/plots.py",),
    "torch": (),
    "transformers": (),
}
HEAVY = {
    "gguf",
    "huggingface_hub",
    "jinja2",
    "llama_cpp",
    "llguidance",
    "matplotlib",
    "sentencepiece",
    "tokenizers",
    "torch",
}
SOURCES = [path for room, root in ROOMS.items() for path in sorted((ROOT / root / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def place(path: Path) -> str:
    return "/".join(path.parts[-2:])


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_imports_go_one_way_and_through_the_gates(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    room = next(name for name in ROOMS if name in path.parts)
    assert not (tops & set(ROOMS)) - MAY_IMPORT[room] - {room}
    for dependency, gates in GATES.items():
        assert dependency not in tops or place(path) in gates, f"{dependency} is imported outside its gate"
    assert "click" not in tops or path.name == "cli.py" or path.parent.name == "cli"


def test_no_room_imports_another_ones_command_line() -> None:
    for path in SOURCES:
        others = {f"{room}.cli" for room in ROOMS if room not in path.parts}
        assert not imported(path) & others


def test_importing_loads_nothing_heavy() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts[1:]).removesuffix(".__init__") for path in SOURCES]
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    if found := sorted({HEAVY!r} & set(sys.modules)):
        sys.exit(f"{{module}} loads {{found}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
