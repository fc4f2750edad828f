"""What test_state.py runs in processes of its own: answers after a restart, damaged states, writers that are killed."""

import itertools
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.state import StateStore
from amalia_edge.state_file import HEAD, read_state, write_state

PLAIN = LoadConfig(context=256, threads=1)
SETTINGS = {
    "f16": PLAIN,
    "q8_0": replace(PLAIN, cache_keys="q8_0", cache_values="q8_0"),
    "q4_0 keys, flash attention off": replace(PLAIN, cache_keys="q4_0", flash_attention="off"),
    "f32, values turned over": replace(PLAIN, cache_keys="f32", cache_values="f32", flash_attention="off"),
    "four sequences": replace(PLAIN, sequences=4),
    "small chunks": replace(PLAIN, micro_batch=32),
}
BEGINNING = "era uma vez um barco que ia para o mar; o mar era grande, e o barco pequeno. nunca mais voltou a terra"
REST = ", e depois"
GREEDY = SamplingConfig(temperature=0, limit=12)


def answer(model: Model, store: StateStore) -> dict[str, Any]:
    """Give the greedy ids after a beginning that a store was asked to warm, and what that took."""
    warmth = store.warm(model, model.prompt(BEGINNING))
    sequence = model.engine.submit(model.prompt(BEGINNING + REST), GREEDY)
    ids = [piece.token for piece in model.engine.stream(sequence)]
    assert sequence._slot is not None
    return {
        "ids": ids, "restored": warmth.restored, "read": warmth.read, "saved": warmth.saved, "reused": sequence.reused,
        "slot": sequence._slot.index,
    }  # fmt: skip


def answers(model_path: Path, folder: Path) -> dict[str, Any]:
    """Answer once under each of the settings; where there are several slots, the first is taken the second time."""
    made = {}
    for name, config in SETTINGS.items():
        with Model.open(model_path, config) as model:
            store = StateStore(folder / name.replace(" ", "_"))
            if store.states() and config.sequences > 1:
                list(model.complete(model.prompt("outra conversa"), GREEDY))
            made[name] = answer(model, store)
    return made


def flip(place: int) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        content = bytearray(state.read_bytes())
        content[place] ^= 1
        state.write_bytes(content)

    return damage


def cut(share: float) -> Callable[[Path], None]:
    return lambda state: os.truncate(state, int(state.stat().st_size * share))


def instead(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Put something else in a state's place."""

    def damage(state: Path) -> None:
        state.rename(state.with_suffix(".kept"))
        make(state)

    return damage


def another(key: bytes, ids: Sequence[int]) -> Callable[[Path], None]:
    """Put a whole state of another text, or made under other settings, in its place."""

    def damage(state: Path) -> None:
        content = state.read_bytes()
        _, _, key_nbytes, count, nbytes, _ = HEAD.unpack(content[: HEAD.size])
        old_key = content[HEAD.size :][:key_nbytes]
        old_ids = np.frombuffer(content, "<i4", count, HEAD.size + key_nbytes).tolist()
        write_state(state, key or old_key, ids or old_ids, np.frombuffer(content[-nbytes:], np.uint8))

    return damage


def closed(mode: int) -> Callable[[Path], None]:
    def damage(state: Path) -> None:
        state.parent.chmod(mode)
        if os.geteuid() == 0:  # whom no mode stops
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)

    return damage


def read_only(state: Path) -> None:
    state.unlink()
    closed(0o555)(state)


def full(state: Path) -> None:
    """Let no file grow beyond some bytes."""
    state.unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def folder_is_a_file(state: Path) -> None:
    state.unlink()
    state.parent.rmdir()
    state.parent.write_bytes(b"")


def huge(state: Path) -> None:
    """Let it claim, in a file with a hole, more than all states may take."""
    content = bytearray(state.read_bytes())
    nbytes = HEAD.unpack(content[: HEAD.size])[4]
    content[24:32] = struct.pack("<Q", nbytes + (1 << 40))
    size = len(content) + (1 << 40)
    state.write_bytes(content)
    os.truncate(state, size)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "magic": flip(0),
    "format": flip(8),
    "count of the key's bytes": flip(12),
    "count of ids": flip(16),
    "count of the memory's bytes": flip(24),
    "checksum": flip(40),
    "key": flip(70),
    "first byte of libllama's": flip(-40_000),
    "last byte": flip(-1),
    "empty": cut(0),
    "cut in the head": cut(0.0003),
    "cut in half": cut(0.5),
    "cut by a little": cut(0.9999),
    "longer": lambda state: state.write_bytes(state.read_bytes() + bytes(100)),
    "huge": huge,
    "other text": another(b"", range(5, 85)),
    "other settings": another(b"{}", ()),
    "a folder in its place": instead(Path.mkdir),
    "a FIFO in its place": instead(os.mkfifo),
    "a link in its place": instead(lambda state: state.symlink_to(state.with_suffix(".kept"))),
    "no text file of ours": lambda state: state.write_text("olá" * 100),
    "a folder that may not be read": closed(0o000),
    "a folder that may not be written": read_only,
    "a full disk": full,
    "a file for a folder": folder_is_a_file,
}


def damages(model_path: Path, folder: Path) -> dict[str, Any]:
    """Answer after each kind of damage, in a fork each: an abort would be seen, and the engine has read nothing before."""
    made = {}
    with Model.open(model_path, PLAIN) as model:
        assert model.engine.active == 0
        made["cold"] = in_fork(lambda: answer(model, StateStore(folder / "sound")))
        (sound,) = (folder / "sound").glob("*.state")
        for name, damage in {"none": lambda _: None, **DAMAGES}.items():
            place = folder / name.replace(" ", "_").replace("'", "")
            shutil.copytree(folder / "sound", place)
            made[name] = in_fork(lambda: damaged(model, place / sound.name, damage))  # noqa: B023  (called at once)
    return made


def damaged(model: Model, state: Path, damage: Callable[[Path], Any]) -> dict[str, Any]:
    damage(state)
    warnings: list[str] = []
    result = answer(model, StateStore(state.parent, warn=warnings.append))
    names = [path.name for path in state.parent.iterdir()] if os.access(state.parent, os.R_OK | os.X_OK) else None
    return {**result, "warnings": warnings, "names": names}


def in_fork(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Give what an action gave in a process of its own, and how that ended: below zero, a signal's number."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, json.dumps(action()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    return {"exit": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), **json.loads(content or "{}")}


def kills(_: Path, folder: Path) -> dict[str, Any]:
    """Kill writers at random moments, until some have left a whole state and some a part of one."""
    folder.mkdir()
    draw, longest_s, whole, wrong, partial = random.Random(0), 0.01, 0, 0, 0
    for _round in range(200):
        child = os.fork()
        if child == 0:
            write_for_ever(folder)
        time.sleep(draw.uniform(0, longest_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        partial += any(folder.glob(".*.partial"))
        states = list(folder.glob("*.state"))
        for state in states:
            number = int(state.stem)
            whole += 1
            wrong += not (read_state(state, KEY, [number] * 50) == number).all()
            state.unlink()
        if whole > 3 and partial > 3:
            break
        longest_s *= 1.0 if states else 1.2  # a busy machine
    written = all(write_state(folder / f"{number}.state", KEY, [number] * 50, memory(number)) for number in range(4))
    StateStore(folder).clear()
    return {
        "whole": whole,
        "wrong": wrong,
        "partial": partial,
        "written": written,
        "left": [path.name for path in folder.iterdir()],
    }


KEY = b"{}"


def memory(number: int) -> NDArray[np.uint8]:
    return np.full(3_000_000, number, np.uint8)


def write_for_ever(folder: Path) -> None:
    for number in itertools.cycle(range(4)):
        write_state(folder / f"{number}.state", KEY, [number] * 50, memory(number))


if __name__ == "__main__":
    print(json.dumps({"answers": answers, "damages": damages, "kills": kills}[sys.argv[1]](*map(Path, sys.argv[2:]))))
