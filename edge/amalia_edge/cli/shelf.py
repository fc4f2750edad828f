"""`amalia pull`, `amalia models` and `amalia rm`: what is on this machine, and what comes and goes."""

import dataclasses
import os
import sys
from collections.abc import Sequence

import click

from amalia_edge import store
from amalia_edge.cli.options import JSON, VERSION
from amalia_edge.console import emit, megabytes, out, plain
from amalia_edge.errors import UsageError

WHERE = {"amalia": "converted here", "hub": "Hub's cache", "ollama": "Ollama's", "lmstudio": "LM Studio's"}


def _set_offline(_context: click.Context, _option: click.Parameter, wish: bool) -> None:
    if wish:
        os.environ["HF_HUB_OFFLINE"] = "1"


OFFLINE = click.option("--offline", is_flag=True, expose_value=False, callback=_set_offline, help="Open no connection: what is not on this machine is an error. [as HF_HUB_OFFLINE=1 does]")  # fmt: skip


@click.command()
@click.argument("name")
@click.option("--revision", metavar="NAME", help="A branch, a tag or a whole commit.  [default: main]")
@OFFLINE
@JSON
@VERSION
def pull(name: str, revision: str | None, as_json: bool) -> int:
    """Bring a GGUF from the Hub into the Hub's own cache.

    NAME is user/repo[:LEVEL] (Q4_K_M by default), hf.co/user/repo:LEVEL, or the address of a repository or a file there.
    Each file is checked by its SHA-256. What was stopped goes on where it was: type the same command again.
    """
    from amalia_edge.hub_name import parse_name
    from amalia_edge.pull import pull as bring

    wish = parse_name(name)
    if wish is None:
        raise UsageError(name, "is no name of anything on the Hub", "for instance user/repo:Q4_K_M")
    pulled = bring(dataclasses.replace(wish, revision=revision or wish.revision))
    if as_json:
        emit("pull", {**dataclasses.asdict(pulled), "files": [str(path) for path in pulled.files]})
        return 0
    told = f"{megabytes(pulled.fetched)} fetched" if pulled.fetched else "it was here already"
    out.print(f"{pulled.name}: {megabytes(pulled.nbytes)}, SHA-256 as the Hub has it; {told}", markup=False)
    out.print(f'Next:\n  amalia run {pulled.name} "Olá! O que podes fazer?"', markup=False)
    return 0


@click.command()
@JSON
@VERSION
def models(as_json: bool) -> int:
    """List every model on this machine that can be run where it lies.

    Those that amalia convert made, the Hub's cache, and what Ollama and LM Studio hold: read there, and never touched.
    """
    stored, built_in = store.models(), store.sources()
    if as_json:
        emit("models", {"models": [model.as_dict() for model in stored], "sources": built_in})
        return 0
    rows = [("name", "level", "size", "where")]
    for model in sorted(stored, key=lambda model: bool(model.fault)):
        size = megabytes(model.nbytes) if model.nbytes else ""
        rows.append((model.name, model.level, size, model.fault or WHERE[model.place]))
    rows += [(name, "", "", "comes with amalia; converted when it is first run") for name in built_in]
    print(_aligned(rows))
    return 0


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Lay out rows in columns; nothing is folded or cut, for a name is there to be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(plain(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


@click.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@JSON
@VERSION
def rm(name: str, yes: bool, as_json: bool) -> int:
    """Remove a model that was converted here or lies in the Hub's cache.

    NAME is one that amalia models lists. What another commit in the cache needs too stays on the disk.
    """
    model = store.find_model(name, store.models(), whole=True)
    if not yes and model.place in ("amalia", "hub"):
        if not sys.stdin.isatty():
            raise UsageError(model.name, "nobody is there to be asked", "give --yes to remove it")
        click.confirm(f"Remove {plain(model.name)} ({megabytes(model.nbytes)})?", abort=True, err=True)
    freed = store.remove(model)
    if as_json:
        emit("rm", {"name": model.name, "freed": freed})
        return 0
    kept = "; what it held is used elsewhere too, and stays" if model.nbytes and not freed else ""
    out.print(f"{plain(model.name)}: removed, {megabytes(freed)} freed{kept}", markup=False)
    return 0
