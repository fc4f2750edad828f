"""`amalia profiles`: what there is, and one printed whole."""

import sys
from pathlib import Path
from typing import Any

import click

from amalia_edge.cli.options import JSON, VERSION
from amalia_edge.console import as_text, emit, plain
from amalia_edge.errors import UsageError
from amalia_edge.profile import Profile, find_profile, list_profiles, read_profile, read_text
from amalia_edge.screen import harmless


@click.command()
@click.argument("name", required=False)
@JSON
@VERSION
def profiles(name: str | None, as_json: bool) -> int:
    """List the profiles of use, or print one whole.

    To make your own: `amalia profiles museu > meu.toml`, change it, and use it with `--profile ./meu.toml`. One in
    ~/.config/amalia/profiles goes by its name, before one of that name in /etc/amalia/profiles or a built-in one.
    """
    if name is not None:
        path = find_profile(name)
        profile = read_profile(path)
        text = read_text(path)
        if as_json:
            emit("profiles", _described(profile))
        else:
            print(harmless(text) if sys.stdout.isatty() else text, end="" if text.endswith("\n") else "\n")
        return 0
    listed = [_listed(name, origin, path) for name, (origin, path) in list_profiles().items()]
    if as_json:
        emit("profiles", listed)
    else:
        print(as_text({entry["name"]: f"{_summary(entry)} ({entry['origin']})" for entry in listed}))
    return 0


def _listed(name: str, origin: str, path: Path) -> dict[str, Any]:
    """Describe one; a broken file is shown with what is wrong in it, and hides no other."""
    entry = {"name": name, "origin": origin, "path": str(path), "description": "", "error": None}
    try:
        return {**entry, "description": read_profile(path).description}
    except UsageError as wrong:
        return {**entry, "error": str(wrong)}


def _summary(entry: dict[str, Any]) -> str:
    return f"! {entry['error']}" if entry["error"] else plain(entry["description"])


def _described(profile: Profile) -> dict[str, Any]:
    return {**vars(profile), "path": str(profile.path), "sampling": dict(profile.sampling)}
