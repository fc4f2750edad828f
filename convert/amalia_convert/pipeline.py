"""One pass over the weights: reading, quantizing and writing at once, with a mark in the journals now and then."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from amalia_convert.checkpoint import Piece, Reader
from amalia_convert.journal import Faults, Mark
from amalia_convert.plan import Draft, OutputPlan
from amalia_convert.quantize import Quantizer, Settings, Tally, rows_per_piece, run_all
from amalia_convert.writer import Target
from amalia_edge import console

JOURNAL_SECONDS = 2.0  # between two marks: what a kill costs at most, and how often the disk is asked to sync

Pair = tuple[OutputPlan, Target]


def write_header(pair: Pair) -> None:
    """Write what depends on no weight: the header, and tensors made from the configuration."""
    output, target = pair
    target.write(0, output.header)
    for tensor in output.tensors:
        if tensor.source.stored is None:
            target.write(tensor.offset, tensor.source.made)


def write_blocks(draft: Draft, pairs: Sequence[Pair], settings: Settings, began: float) -> Mark:
    """Write every block that a former run has not written; give the mark of a pass that is at its end.

    `began` is when the command did, by time.monotonic.
    """
    former = min((target.mark for _, target in pairs), key=lambda mark: mark.done)
    rows = {one.stored.name: rows_per_piece(one) for one in draft.tensors if one.stored is not None}
    reader = Reader(draft.shards, rows, former.done, former.hashes)
    tally = Tally(allow=settings.allow_nonfinite)
    tally.faults |= former.faults
    names = ", ".join(output.level.name for output, _ in pairs)
    with (
        console.progress(names, draft.nbytes) as bar,
        _Marker([target for _, target in pairs], former, began) as marker,
    ):
        bar.advance(reader.skipped)

        def settled(piece: Piece, faults: Faults) -> None:
            tally.add(piece, faults)
            bar.advance(len(piece.content))
            marker.settled(piece, reader.hashes, tally.faults)

        run_all(reader.pieces(), Quantizer(pairs, settings), settings.threads, settled)
        tally.check()
        return marker.mark(reader.hashes, tally.faults)


class _Marker:
    """Note now and then how far the work has come, on a thread of its own: a sync may take as long as it likes."""

    def __init__(self, targets: Sequence[Target], former: Mark, began: float) -> None:
        self._targets, self._former, self._began = targets, former, began
        self._noted = time.monotonic()
        self._last: Piece | None = None
        self._noting: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> "_Marker":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def settled(self, piece: Piece, hashes: dict[str, str], faults: dict[str, Faults]) -> None:
        self._last = piece
        if time.monotonic() - self._noted < JOURNAL_SECONDS or (self._noting and not self._noting.done()):
            return
        if self._noting:
            self._noting.result()  # a full disk is heard of here
        self._noting = self._thread.submit(self._note, self.mark(hashes, faults))
        self._noted = time.monotonic()

    def mark(self, hashes: dict[str, str], faults: dict[str, Faults]) -> Mark:
        seconds = self._former.seconds + time.monotonic() - self._began
        done = replace(self._former, hashes=dict(hashes), seconds=seconds, faults=dict(faults), sealed={})
        if self._last is None or self._last.end <= self._former.done:
            return done
        return replace(done, done=self._last.end, prefix=self._last.digest.hexdigest())

    def _note(self, mark: Mark) -> None:
        for target in self._targets:
            if target.mark.done <= mark.done:
                target.note(mark)
