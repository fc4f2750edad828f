"""The door: one command whose subcommands are entry points, and what becomes of their errors."""

import errno
import io
import logging
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click

from amalia_edge import __version__
from amalia_edge.console import emit_failure
from amalia_edge.errors import AmaliaError, UsageError

INTERRUPTED = 130
EXTRAS = {
    "gguf": "convert",
    "sentencepiece": "convert",
    "tokenizers": "convert",
    "llguidance": "schema",
    "matplotlib": "bench",
}  # packages the base install leaves out


class Door(click.Group):
    """A group whose commands are entry points, so that no room imports another one's command line."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(point.name for point in entry_points(group="amalia.commands"))

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        for point in entry_points(group="amalia.commands"):
            if point.name == name:
                command = point.load()
                assert isinstance(command, click.Command)
                return command
        return None


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="amalia")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries say.")
def door(verbose: bool) -> None:
    """Run AMÁLIA, and models like it, on a machine you own: convert, run and measure, offline."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.CRITICAL, format="%(name)s: %(message)s")


def main() -> None:
    _mend_streams()
    sys.exit(run_door(sys.argv[1:]))


def _mend_streams() -> None:
    """Have a place for what is printed where a shell closed it, and a mark for letters a terminal has not."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115  (open as long as the process)
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def run_door(words: list[str]) -> int:
    """Run one command line; give its exit code. Only our own errors are caught: anything else is a bug."""
    try:
        return int(door.main(words, prog_name="amalia", standalone_mode=False) or 0)
    except AmaliaError as error:
        return _fail(error, words)
    except click.exceptions.NoArgsIsHelpError as asked:
        print(asked.ctx.get_help() if asked.ctx else "amalia --help")
        return UsageError.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "amalia"
        return _fail(UsageError(where.removeprefix("amalia "), error.format_message(), f"see {where} --help"), words)
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRAS:
            raise
        advice = f"pip install 'amalia-edge[{EXTRAS[missing.name]}]'"
        return _fail(UsageError("amalia", f"the package {missing.name} is not installed", advice), words)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not complain
        return _fail(AmaliaError("standard output", os.strerror(problem.errno), "make room"), words)


def _fail(error: AmaliaError, words: list[str]) -> int:
    if "--json" in words:
        named = [word for word in words if not word.startswith("-")]
        group = bool(named) and isinstance(door.get_command(click.Context(door), named[0]), click.Group)
        emit_failure(" ".join(named[: 1 + group]) or "amalia", error)
    else:
        print(f"amalia: {error}", file=sys.stderr)
    return error.exit_code
