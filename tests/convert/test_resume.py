"""What was stopped goes on where it was, and ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import amalia_convert.batch as batch
import amalia_convert.conversion as conversion
from amalia_convert.checkpoint import Piece
from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.journal import Mark, first_line, last_mark, mark_line
from amalia_convert.quantize import Quantizer
from amalia_convert.receipt import read_receipt, receipt_path
from amalia_convert.writer import Target, hash_file
from amalia_edge.errors import ConvertError, ModelCorrupt, UsageError
from checkpoints import write_json

LEVELS = ("Q8_0", "Q4_K_M")


@pytest.fixture(autouse=True)
def fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, and a mark after each: every place to stop at is met."""
    monkeypatch.setattr("amalia_convert.pipeline.JOURNAL_SECONDS", 0)
    monkeypatch.setattr("amalia_convert.quantize.PIECE_WEIGHTS", 2000)


class Stopped(BaseException):
    """As sudden as a kill, and yet in this process."""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def hashes(folder: Path) -> dict[str, str]:
    """Give what the receipts tell, after checking it."""
    told = {path.name: read_receipt(path).sha256 for path in folder.glob("*.gguf") if receipt_path(path).exists()}
    assert told == {name: hash_file(folder / name) for name in told}
    return told


def convert_all(checkpoint: Path, out: Path) -> dict[str, str]:
    convert(ConvertConfig(str(checkpoint), LEVELS, out, threads=2))
    return hashes(out)


def stop_after(monkeypatch: pytest.MonkeyPatch, pieces: int) -> list[str]:
    """Stop the pass after some pieces, as a kill would: with everything left as it lies."""
    worked: list[str] = []
    work = Quantizer.__call__

    def count(self: Quantizer, piece: Piece) -> tuple[int, int]:
        if len(worked) >= pieces:
            raise Stopped
        worked.append(piece.tensor.name)
        return work(self, piece)

    monkeypatch.setattr(Quantizer, "__call__", count)
    monkeypatch.setattr(Target, "remove", Target._close)
    return worked


@pytest.mark.parametrize("pieces", [0, 1, 7, 30])
def test_a_stopped_pass_goes_on_and_gives_the_same_bytes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    whole = convert_all(checkpoint, tmp_path / "whole")
    with monkeypatch.context() as stopping:
        stop_after(stopping, pieces)
        with pytest.raises(Stopped):
            convert_all(checkpoint, tmp_path / "out")
    assert {name[0] for name in names(tmp_path / "out")} == {"."}
    assert convert_all(checkpoint, tmp_path / "out") == whole
    assert names(tmp_path / "out") == names(tmp_path / "whole")


def test_what_is_done_is_not_done_again(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized: list[int] = []
    real = conversion.write_blocks
    monkeypatch.setattr(
        conversion, "write_blocks", lambda *given: quantized.append(given[1][0][1].mark.done) or real(*given)
    )
    with monkeypatch.context() as stopping:
        stop_after(stopping, 40)
        with pytest.raises(Stopped):
            convert_all(checkpoint, tmp_path / "out")
    convert_all(checkpoint, tmp_path / "out")
    first, second = quantized
    assert first == 0 < second


def test_another_level_beside_does_not_disturb_a_stopped_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert_all(checkpoint, tmp_path / "whole")
    with monkeypatch.context() as stopping:
        stop_after(stopping, 20)
        with pytest.raises(Stopped):
            convert_all(checkpoint, tmp_path / "out")
    convert(ConvertConfig(str(checkpoint), ("Q8_0", "F16"), tmp_path / "out"))
    convert(ConvertConfig(str(checkpoint), ("Q4_K_M",), tmp_path / "out"))
    assert whole.items() <= hashes(tmp_path / "out").items()
    assert {name[0] for name in names(tmp_path / "out")} == {"A"}


@pytest.mark.parametrize("change", ["weights", "level", "journal"])
def test_what_was_made_of_something_else_is_begun_anew(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with monkeypatch.context() as stopping:
        stop_after(stopping, 20)
        with pytest.raises(Stopped):
            convert_all(checkpoint, tmp_path / "out")
    if change == "weights":
        path = checkpoint / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1000:] = bytes(1000)
        path.write_bytes(content)
    elif change == "level":
        monkeypatch.setattr("amalia_convert.conversion.versions", lambda: {"amalia-edge": "another"})
    else:
        (tmp_path / "out" / ".Azulejo-1M-Q8_0.gguf.journal").write_bytes(b"\xff{]\n" * 3)
    assert convert_all(checkpoint, tmp_path / "out") == convert_all(checkpoint, tmp_path / "whole")


def test_bytes_that_changed_under_a_stopped_conversion_are_noticed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where size and time of the file are the same."""
    path = checkpoint / "model.safetensors"
    before, stamp = path.read_bytes(), path.stat()
    with monkeypatch.context() as stopping:
        stop_after(stopping, 20)
        with pytest.raises(Stopped):
            convert_all(checkpoint, tmp_path / "out")
    content = bytearray(before)
    content[len(before) - stamp.st_size + 3000] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(ModelCorrupt, match=r"not the one that the interrupted|header"):
        convert_all(checkpoint, tmp_path / "out")
    assert names(tmp_path / "out") == set()


@pytest.mark.parametrize("moment", ["note", "publish", "write_receipt", "forget"])
@pytest.mark.parametrize("times", [0, 1])
def test_a_stop_among_the_last_steps_is_gone_on_with(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, times: int
) -> None:
    """Between the two files of one command, before and after each step that makes them final."""
    whole = convert_all(checkpoint, tmp_path / "whole")
    monkeypatch.setattr("amalia_convert.pipeline.JOURNAL_SECONDS", 1000)
    place = batch if moment == "write_receipt" else Target
    step, calls = getattr(place, moment), []

    def stop(*given: object) -> None:
        if len(calls) == times:
            raise Stopped
        calls.append(1)
        step(*given)

    with monkeypatch.context() as stopping:
        stopping.setattr(place, moment, stop)
        stopping.setattr(Target, "remove", Target._close)
        with pytest.raises(Stopped):
            convert_all(checkpoint, tmp_path / "out")
    assert convert_all(checkpoint, tmp_path / "out") == whole
    assert names(tmp_path / "out") == names(tmp_path / "whole")


def stop_at(monkeypatch: pytest.MonkeyPatch, place: object, step: str, calls: int, kind: type[BaseException]) -> None:
    """Let a step be called some times, and stop instead of the next."""
    real, left = getattr(place, step), [calls]

    def stop(*given: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise kind
        return real(*given)

    monkeypatch.setattr(place, step, stop)


def run(checkpoint: Path, out: Path, *levels: str, force: bool = False) -> dict[str, str]:
    convert(ConvertConfig(str(checkpoint), levels or LEVELS, out, replace=force, threads=2))
    return hashes(out)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mark before the last one."""
    monkeypatch.setattr("amalia_convert.pipeline.JOURNAL_SECONDS", 1000)


@pytest.mark.usefixtures("late")
def test_an_older_file_is_not_taken_for_this_command_s(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two files is sealed and the other not, and both names held files of another model."""
    out = tmp_path / "out"
    old = run(checkpoint, out)
    config = json.loads((checkpoint / "config.json").read_text())
    write_json(checkpoint / "config.json", config | {"rope_theta": 5000.0})
    new = run(checkpoint, tmp_path / "whole")
    with monkeypatch.context() as stopping:
        stop_at(stopping, Target, "note", 1, Stopped)
        stopping.setattr(Target, "remove", Target._close)
        with pytest.raises(Stopped):
            run(checkpoint, out, force=True)
    assert hashes(out) == old
    assert run(checkpoint, out, force=True) == new and names(out) == names(tmp_path / "whole")


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("moment", ["publish", "write_receipt", "forget"])
@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_ctrl_c_and_errors_at_the_end_lose_no_work(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    calls: int,
    kind: type[BaseException],
) -> None:
    whole = run(checkpoint, tmp_path / "whole")
    with monkeypatch.context() as stopping:
        stop_at(stopping, batch if moment == "write_receipt" else Target, moment, calls, kind)
        with pytest.raises(kind):
            run(checkpoint, tmp_path / "out")
    monkeypatch.setattr(conversion, "write_blocks", lambda *_: pytest.fail("the work was done already"))
    assert run(checkpoint, tmp_path / "out") == whole and names(tmp_path / "out") == names(tmp_path / "whole")


@pytest.mark.usefixtures("late")
def test_a_published_file_can_be_gone_on_with_beside_another_level(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as stopping:
        stop_at(stopping, batch, "write_receipt", 0, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, out, "Q8_0", "F16")
    run(checkpoint, out, "Q8_0", "Q4_0")
    run(checkpoint, out, "F16")
    assert hashes(out) == run(checkpoint, tmp_path / "whole", "Q8_0", "F16", "Q4_0")
    assert {name[0] for name in names(out)} == {"A"}


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("moment", ["publish", "write_receipt"])
def test_a_file_somebody_put_in_the_place_is_not_ours(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Neither told of by our receipt, nor replaced without --force."""
    out = tmp_path / "out"
    with monkeypatch.context() as stopping:
        stop_at(stopping, batch if moment == "write_receipt" else Target, moment, 0, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, out, "Q8_0")
    (out / "Azulejo-1M-Q8_0.gguf").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match="already there"):
        run(checkpoint, out, "Q8_0")
    assert (out / "Azulejo-1M-Q8_0.gguf").read_bytes() == b"somebody's"
    assert run(checkpoint, out, "Q8_0", force=True) == run(checkpoint, tmp_path / "whole", "Q8_0")


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "Azulejo-1M-Q8_0.gguf"

    def make(folder: Path) -> None:
        folder.mkdir()
        path.write_bytes(b"somebody's")

    monkeypatch.setattr(conversion, "make_folder", make)
    with pytest.raises(UsageError, match="already there"):
        run(checkpoint, path.parent, "Q8_0")
    assert path.read_bytes() == b"somebody's" and names(path.parent) == {path.name}


def test_a_target_that_is_locked_costs_no_other_one_s_progress(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as stopping:
        stop_after(stopping, 30)
        with pytest.raises(Stopped):
            run(checkpoint, out)
    before = (out / ".Azulejo-1M-Q8_0.gguf.journal").read_bytes()
    with Target(out / "Azulejo-1M-Q4_K_M.gguf", 10), pytest.raises(ConvertError, match="another conversion"):
        run(checkpoint, out)
    assert (out / ".Azulejo-1M-Q8_0.gguf.journal").read_bytes() == before
    assert run(checkpoint, out) == run(checkpoint, tmp_path / "whole")


def test_a_source_that_changes_while_it_is_read_is_noticed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the download still goes on."""
    path, work = checkpoint / "model.safetensors", Quantizer.__call__

    def touch(self: Quantizer, piece: Piece) -> tuple[int, int]:
        os.utime(path, ns=(1, 1))
        return work(self, piece)

    monkeypatch.setattr(Quantizer, "__call__", touch)
    with pytest.raises(ModelCorrupt, match="changed while it was read"):
        run(checkpoint, tmp_path / "out")
    assert names(tmp_path / "out") == set()


def test_ctrl_c_while_reading_back_does_not_wait_for_the_end(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(target: Target, advance: Callable[[int], None]) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        while True:  # until `advance` says that nobody waits any more
            time.sleep(0.01)
            advance(1)

    monkeypatch.setattr(Target, "hash", endless)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs are born deaf to it
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, tmp_path / "out", "Q8_0")


def test_ctrl_c_says_that_the_same_command_goes_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as stopping:
        stop_at(stopping, Target, "hash", 0, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, tmp_path / "out", "Q8_0")
    assert "The same command goes on" in capsys.readouterr().err
    assert {name[0] for name in names(tmp_path / "out")} == {"."}


def test_a_mark_cut_short_is_as_if_it_were_not_there() -> None:
    marks = [Mark(done=5, hashes={"a": "b"}), Mark(done=9, prefix="c", faults={"t": (1, 2)})]
    content = first_line("key") + b"".join(map(mark_line, marks))
    assert last_mark(content, "key") == marks[1]
    assert last_mark(content[:-1], "key") == marks[0]
    assert last_mark(first_line("key"), "key") == Mark()
    assert last_mark(content, "another") is None and last_mark(b"", "key") is None


@pytest.mark.parametrize("line", [b"[]\n", b'{"done": 1}\n', b"[" * 9000 + b"\n", b'{"faults": {"a": 3}}\n', b"\xff\n"])
def test_a_line_that_is_no_mark_is_passed_over(line: bytes) -> None:
    good = mark_line(Mark(done=5))
    assert last_mark(first_line("key") + good + line, "key") == Mark(done=5)


CHILD = """
import os, pathlib, signal, sys
import amalia_convert.pipeline as pipeline, amalia_convert.quantize as quantize
from amalia_convert.conversion import ConvertConfig, convert

pipeline.JOURNAL_SECONDS, quantize.PIECE_WEIGHTS, left = 0, 4000, int(sys.argv[3])

def counted(real):
    def step(*given, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    return step

os.pwrite, os.write, os.fsync = counted(os.pwrite), counted(os.write), counted(os.fsync)
pathlib.Path.replace, pathlib.Path.unlink = counted(pathlib.Path.replace), counted(pathlib.Path.unlink)
convert(ConvertConfig(sys.argv[1], ("Q8_0", "Q4_K_M"), pathlib.Path(sys.argv[2])))
"""


def test_a_real_kill_before_any_step_is_gone_on_with(checkpoint: Path, tmp_path: Path) -> None:
    """Killed before its nth write, sync, rename or removal; tests/convert/kills.py strikes at fifty random moments."""
    whole, out = convert_all(checkpoint, tmp_path / "whole"), tmp_path / "out"
    paths = os.pathsep.join(path for path in sys.path if path)
    for step in (1, 2, 40, 20):
        command = [sys.executable, "-c", CHILD, str(checkpoint), str(out), str(step)]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, timeout=60)
        assert done.returncode == -signal.SIGKILL
    assert convert_all(checkpoint, out) == whole and names(out) == names(tmp_path / "whole")
    assert all(json.loads(path.read_text())["seconds"] > 0 for path in out.glob("*.json"))
