"""The files of one command: locked together, gone on with after a stop, and made final together.

A file's life: begun → noted (some of it is on the disk) → sealed (all of it is, and its hash is known) → published
(under its name) → told of by its receipt → forgotten (no journal). All files are sealed before the first is published,
and the journals go when every receipt is written: whatever the moment of a stop, the same command ends the work.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from amalia_convert.journal import Mark
from amalia_convert.receipt import Receipt, read_receipt, receipt_path, write_receipt
from amalia_convert.writer import Target, hidden
from amalia_edge import console
from amalia_edge.errors import Cancelled, ConvertError, HubError, ModelError, UsageError

STOPS = (KeyboardInterrupt, HubError)  # nothing is wrong with the work: the next run may go on with it


class Batch:
    """Targets that are entered together; of `open` ones something is left to do, `unsealed` ones want their blocks."""

    def __init__(self, targets: Sequence[Target], *, replace: bool) -> None:
        self.targets, self._replace = targets, replace
        self.open: list[Target] = []

    @property
    def unsealed(self) -> list[Target]:
        return [target for target in self.open if not target.sealed]

    def __enter__(self) -> "Batch":
        try:
            for target in self.targets:
                self.open.append(target.__enter__())
            self._sort_out()
        except BaseException:
            for target in self.open:
                target.leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = [target.place.parent for target in self.open if target.noted and isinstance(error, STOPS)]
        for target in self.open:
            if target.sealed or isinstance(error, STOPS):
                target.leave()
            else:
                target.remove()
        if stopped:
            told = f"Stopped. The same command goes on; to give up, remove the .partial and .journal files in {stopped[0]}."
            console.err.print(told, markup=False)

    def seal(self, mark: Mark, threads: int) -> None:
        """Read everything back, and note that it is whole."""
        targets, stopped, began = self.unsealed, False, time.monotonic()
        with console.progress("reading back", sum(target.nbytes for target in targets)) as bar:

            def advance(nbytes: int) -> None:
                if stopped:  # Ctrl-C is heard in the main thread alone
                    raise Cancelled("reading back", "stopped")
                bar.advance(nbytes)

            with ThreadPoolExecutor(threads) as pool:
                try:
                    digests = list(pool.map(lambda target: target.hash(advance), targets))
                except BaseException:
                    stopped = True
                    raise
        sealed = {name: digest for target in self.open for name, digest in target.mark.sealed.items()}
        sealed |= {target.path.name: digest for target, digest in zip(targets, digests, strict=True)}
        mark = replace(mark, sealed=sealed, seconds=mark.seconds + time.monotonic() - began)
        for target in targets:
            target.note(mark)

    def finish(self, receipt: Callable[[Target], Receipt]) -> None:
        """Publish every file, write its receipt, and forget the work."""
        for target in self.open:
            if not target.published:
                receipt_path(target.path).unlink(missing_ok=True)  # a receipt never speaks of another file
            target.publish()
        for target in self.open:
            write_receipt(target.path, receipt(target))
        for target in self.open:
            target.forget()

    def _sort_out(self) -> None:
        """Drop what the stopped run of this very command had ended, and refuse what is in the way."""
        sealed = {name: digest for target in self.open for name, digest in target.mark.sealed.items()}
        for target in list(self.open):
            if target.published or not target.path.exists():
                continue
            if not target.noted and _told(target.path) == sealed.get(target.path.name, ""):
                self.open.remove(target)
                target.remove()
            elif not self._replace:
                raise _in_the_way(target.path)


def refuse_early(paths: Sequence[Path], *, replace: bool) -> None:
    """Refuse what is in the way before anything is fetched; what a stopped run left is looked at under its lock."""
    stopped = any(hidden(path, "journal").exists() for path in paths)
    for path in paths:
        for place in (path, receipt_path(path)):
            if os.path.isdir(place):  # noqa: PTH112  (Path.is_dir raises where a folder may not be entered)
                raise ConvertError(str(place), "is a folder", "name another folder with --out")
        if os.path.exists(path) and not replace and not stopped:  # noqa: PTH110
            raise _in_the_way(path)


def _in_the_way(path: Path) -> UsageError:
    return UsageError(str(path), "is already there", "--force replaces it")


def _told(path: Path) -> str | None:
    """Give the hash that a file's receipt tells."""
    try:
        return read_receipt(path).sha256
    except ModelError:
        return None
