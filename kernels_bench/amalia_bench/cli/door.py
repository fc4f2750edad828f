"""`amalia bench`: its subcommands, each loaded when it is asked for."""

import importlib

import click

from amalia_edge import __version__

COMMANDS = {
    "advise": "amalia_bench.cli.advise:advise",
    "all": "amalia_bench.cli.everything:everything",
    "card": "amalia_bench.cli.card:card",
    "compare": "amalia_bench.cli.compare:compare",
    "energy": "amalia_bench.cli.energy:energy",
    "kernels": "amalia_bench.cli.kernels:kernels",
    "quality": "amalia_bench.cli.quality:quality",
    "report": "amalia_bench.cli.report:report",
    "shape": "amalia_bench.cli.shape:shape",
    "speed": "amalia_bench.cli.speed:speed",
    "tasks": "amalia_bench.cli.tasks:tasks",
    "variety": "amalia_bench.cli.variety:variety",
}


class Bench(click.Group):
    """A group whose commands cost nothing until they are run."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Bench)
@click.version_option(__version__, prog_name="amalia")
def bench() -> None:
    """Measure what this machine gives, what a quantization cost, and whether Portuguese survives it."""
