"""States on disk: restored they change no token, and a file that is not exactly right is never loaded."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from amalia_edge import native
from amalia_edge import state_key as key_module
from amalia_edge.adapter import Adapter
from amalia_edge.chat import Message
from amalia_edge.errors import ModelCorrupt, ModelUnsupported
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.state import LEAST_TOKENS, StateStore, Warmth, common_prefix
from amalia_edge.state_file import file_nbytes, hidden, matching, read_state, write_state
from amalia_edge.state_key import state_key
from models import tiny_model

from .architectures import write_architecture
from .state_child import DAMAGES, SETTINGS

KEY, IDS, MEMORY = b'{"model": 1}', [1, 5, 9, 70_000], np.arange(50, dtype=np.uint8)
QUIET = ("other text",)  # a whole state, for all that can be seen
GREEDY = SamplingConfig(temperature=0, limit=8)


def in_child(what: str, *paths: Path) -> dict[str, Any]:
    child = Path(__file__).with_name("state_child.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, child, what, *paths], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Give a folder that nobody, whom the children become where root runs the tests, may enter, with a model in it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        tiny_model(Path(folder) / "tiny.gguf", kind="Q8_0").chmod(0o644)
        yield Path(folder)


@pytest.fixture(scope="module")
def answers(place: Path) -> list[dict[str, Any]]:
    """Give the answers of a process that saved its states, and of one that restored them."""
    return [in_child("answers", place / "tiny.gguf", place / "answers") for _ in range(2)]


@pytest.fixture(scope="module")
def damaged(place: Path) -> dict[str, Any]:
    return in_child("damages", place / "tiny.gguf", place / "damages")


@pytest.fixture
def small(place: Path) -> Iterator[Model]:
    """Give a model that holds nothing yet."""
    with Model.open(place / "tiny.gguf", LoadConfig(context=512, threads=1)) as opened:
        yield opened


@pytest.mark.parametrize("name", SETTINGS)
def test_a_state_restored_in_another_process_changes_no_token(answers: list[dict[str, Any]], name: str) -> None:
    cold, warm = answers[0][name], answers[1][name]
    assert (cold["restored"], cold["saved"]) == (0, cold["read"])
    assert (warm["restored"], warm["read"]) == (cold["saved"], 0)
    assert warm["ids"] == cold["ids"]


def test_a_state_goes_into_another_slot_than_the_one_it_came_from(answers: list[dict[str, Any]]) -> None:
    assert [answers[turn]["four sequences"]["slot"] for turn in range(2)] == [0, 1]


def test_a_sound_state_is_restored_in_a_fork(damaged: dict[str, Any]) -> None:
    assert damaged["none"]["restored"] == damaged["cold"]["saved"]
    assert damaged["none"]["ids"] == damaged["cold"]["ids"]


@pytest.mark.parametrize("name", DAMAGES)
def test_after_any_damage_the_text_is_read_anew(damaged: dict[str, Any], name: str) -> None:
    result = damaged[name]
    assert result["exit"] == 0
    assert (result["restored"], result["ids"]) == (0, damaged["cold"]["ids"])
    assert bool(result["warnings"]) == (name not in QUIET)
    assert all("\n" not in warning for warning in result["warnings"])


def test_a_full_disk_keeps_no_part_of_a_state(damaged: dict[str, Any]) -> None:
    assert damaged["a full disk"]["names"] == []


def test_a_killed_writer_leaves_no_state_that_is_not_whole(place: Path) -> None:
    result = in_child("kills", place, place / "kills")
    assert result["whole"] > 0
    assert result["partial"] > 0
    assert result["wrong"] == 0
    assert result["written"]  # over what the killed ones left
    assert result["left"] == []


def written(folder: Path) -> Path:
    path = folder / "one.state"
    assert write_state(path, KEY, IDS, MEMORY)
    return path


def test_a_state_reads_as_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert (read_state(path, KEY, IDS) == MEMORY).all()
    assert path.stat().st_size == file_nbytes(KEY, IDS, MEMORY)
    assert [entry.name for entry in tmp_path.iterdir()] == ["one.state"]


def test_a_longer_one_left_by_a_killed_writer_is_written_over(tmp_path: Path) -> None:
    hidden(tmp_path / "one.state").write_bytes(bytes(10_000))
    assert (read_state(written(tmp_path), KEY, IDS) == MEMORY).all()


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << place % 8]) + sound[place + 1 :])
        with pytest.raises((ModelCorrupt, ModelUnsupported)):
            read_state(path, KEY, IDS)


def test_any_other_length_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    sound = path.read_bytes()
    for content in [*(sound[:length] for length in range(len(sound))), sound + b"\0", sound * 2]:
        path.write_bytes(content)
        with pytest.raises((ModelCorrupt, ModelUnsupported)):
            read_state(path, KEY, IDS)


@pytest.mark.parametrize(("ids", "count"), [(IDS, 4), ([*IDS, 3], 4), (IDS[:3], 0), ([1, 5, 9, 70_001, 2], 0), ([], 0)])
def test_a_state_matches_ids_that_begin_with_its_own(tmp_path: Path, ids: list[int], count: int) -> None:
    assert matching(written(tmp_path), KEY, ids) == count


def test_a_state_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(ModelUnsupported):
        read_state(path, KEY, IDS)


def test_only_one_process_writes_a_state(tmp_path: Path) -> None:
    code = f"""if True:
        import fcntl, sys
        file = open({str(hidden(tmp_path / "one.state"))!r}, "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        print(flush=True)
        sys.stdin.read()"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        assert not write_state(tmp_path / "one.state", KEY, IDS, MEMORY)
        assert StateStore(tmp_path).clear() == 0
        assert hidden(tmp_path / "one.state").exists()
        other.communicate()
    assert write_state(tmp_path / "one.state", KEY, IDS, MEMORY)


def test_a_state_is_for_its_users_eyes_only(small: Model, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "states")
    store.warm(small, range(5, 105))
    (kept,) = store.states()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (kept.path, store.folder)] == [0o600, 0o700]


def test_the_longest_stored_beginning_is_restored_and_the_rest_read(place: Path, tmp_path: Path) -> None:
    store, ids = StateStore(tmp_path), [*range(5, 205), *range(5, 105)]
    for length in (100, 200):
        with Model.open(place / "tiny.gguf", LoadConfig(context=512, threads=1)) as model:
            store.warm(model, ids[:length])
    with Model.open(place / "tiny.gguf", LoadConfig(context=512, threads=1)) as model:
        warmth = store.warm(model, ids)
        assert (warmth.held, warmth.restored, warmth.read, warmth.saved) == (0, 200, 100, 300)
        assert model.engine.holds([*ids, 5]) == 300


def test_what_the_engine_holds_is_not_restored(small: Model, tmp_path: Path) -> None:
    store, ids = StateStore(tmp_path), list(range(5, 105))
    store.warm(small, ids)
    again = store.warm(small, ids)
    assert (again.held, again.restored, again.read, again.saved) == (99, 0, 0, 0)


def test_a_short_text_is_not_saved(small: Model, tmp_path: Path) -> None:
    warmth = StateStore(tmp_path).warm(small, range(5, 5 + LEAST_TOKENS - 1))
    assert (warmth.read, warmth.saved, list(tmp_path.iterdir())) == (LEAST_TOKENS - 1, 0, [])


def test_nothing_to_warm_is_no_trouble(small: Model, tmp_path: Path) -> None:
    assert StateStore(tmp_path).warm(small, []) == Warmth()


def aged(folder: Path, names: Sequence[str]) -> None:
    """Write states that were last used in this order."""
    for age, name in enumerate(names):
        path = folder / f"{name}.state"
        write_state(path, KEY, IDS, MEMORY)
        os.utime(path, (1e9 + age, 1e9 + age))


def test_the_state_unused_for_longest_makes_room(small: Model, tmp_path: Path) -> None:
    aged(tmp_path, ("b", "a", "c"))
    store = StateStore(tmp_path / "measure")
    store.warm(small, range(5, 105))
    (measured,) = store.states()
    room = measured.nbytes + file_nbytes(KEY, IDS, MEMORY)
    StateStore(tmp_path, most_bytes=room).warm(small, [7, *range(5, 104)])
    assert {path.stem for path in tmp_path.glob("?.state")} == {"c"}
    assert sum(kept.nbytes for kept in StateStore(tmp_path).states()) == room


def test_a_state_that_is_used_is_no_longer_the_oldest(place: Path, tmp_path: Path) -> None:
    store, ids = StateStore(tmp_path), range(5, 105)
    for turn in range(2):
        with Model.open(place / "tiny.gguf", LoadConfig(context=256, threads=1)) as model:
            assert store.warm(model, ids).restored == (100 if turn else 0)
        (path,) = (kept.path for kept in store.states() if kept.path.stem != "b")
        if not turn:
            os.utime(path, (1e8, 1e8))
            aged(tmp_path, ("b",))
    assert [kept.path for kept in store.states()] == [tmp_path / "b.state", path]


def test_a_state_larger_than_all_may_be_is_not_kept(small: Model, tmp_path: Path) -> None:
    warnings: list[str] = []
    aged(tmp_path, ("a",))
    assert StateStore(tmp_path, 1000, warnings.append).warm(small, range(5, 105)).saved == 0
    assert len(warnings) == 1
    assert [kept.path.stem for kept in StateStore(tmp_path).states()] == ["a"]


def test_a_state_larger_than_all_may_be_is_not_read(place: Path, tmp_path: Path) -> None:
    for most_bytes, restored in ((1 << 20, 0), (1 << 20, 100), (1000, 0)):
        with Model.open(place / "tiny.gguf", LoadConfig(context=256, threads=1)) as model:
            assert StateStore(tmp_path, most_bytes).warm(model, range(5, 105)).restored == restored


def test_clearing_gives_the_bytes_it_freed(tmp_path: Path) -> None:
    aged(tmp_path, ("a", "b"))
    hidden(tmp_path / "c.state").write_bytes(b"left by a killed writer")
    (tmp_path / "unknown").write_bytes(b"")
    assert StateStore(tmp_path).clear() == 2 * file_nbytes(KEY, IDS, MEMORY)
    assert [path.name for path in tmp_path.iterdir()] == ["unknown"]


def test_a_folder_that_is_not_there_holds_no_states(tmp_path: Path) -> None:
    assert (StateStore(tmp_path / "none").states(), StateStore(tmp_path / "none").clear()) == ([], 0)


def test_states_lie_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert StateStore().folder == tmp_path / "amalia" / "states"


def test_a_sliding_window_is_read_anew(tmp_path: Path) -> None:
    path = write_architecture(tmp_path / "gemma3.gguf", "gemma3")
    with Model.open(path, LoadConfig(context=256, threads=1)) as model:
        warmth = StateStore(tmp_path / "states").warm(model, range(5, 105))
        assert (warmth.read, warmth.saved) == (100, 0)


def test_a_memory_that_cannot_be_cut_is_restored_whole(tmp_path: Path) -> None:
    path, store, ids = (
        write_architecture(tmp_path / "lfm2.gguf", "lfm2"),
        StateStore(tmp_path / "states"),
        range(5, 105),
    )
    told = []
    for _ in range(2):
        with Model.open(path, LoadConfig(context=256, threads=1)) as model:
            warmth = store.warm(model, ids)
            sequence = model.engine.submit([*ids, 9, 8, 7], GREEDY)
            told.append([piece.token for piece in model.engine.stream(sequence)])
            assert sequence.reused == 100
    assert warmth.restored == 100
    assert told[0] == told[1]


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    return [tiny_model(tmp_path / f"{name}.gguf", name=name) for name in ("one", "two")]


def changed(model: Model, **changes: Any) -> Any:
    """Give a model that differs in a few things, for its key."""
    parts = {name: getattr(model, name) for name in ("header", "config", "pointer", "context")}
    return SimpleNamespace(**{**parts, **changes})


CHANGES: dict[str, Callable[[Model, list[Path]], dict[str, Any]]] = {
    "keys": lambda model, _: {"config": replace(model.config, cache_keys="q8_0")},
    "values": lambda model, _: {"config": replace(model.config, cache_values="q8_0")},
    "flash attention": lambda model, _: {"config": replace(model.config, flash_attention="on")},
    "sequences": lambda model, _: {"config": replace(model.config, sequences=2)},
    "chunks": lambda model, _: {"config": replace(model.config, micro_batch=64)},
    "layers on the GPU": lambda model, _: {"config": replace(model.config, gpu_layers=1)},
    "context": lambda model, _: {"context": model.context + 256},
    "rope": lambda model, _: {
        "header": replace(model.header, metadata=model.header.metadata | {"llama.rope.freq_base": 5e5})
    },
    "another model": lambda model, paths: {"header": replace(model.header, parts=(paths[0],))},
    "an adapter": lambda model, paths: {"config": replace(model.config, adapters=(Adapter(paths[0], 1.0),))},
    "its scale": lambda model, paths: {"config": replace(model.config, adapters=(Adapter(paths[0], 0.5),))},
    "another adapter": lambda model, paths: {"config": replace(model.config, adapters=(Adapter(paths[1], 1.0),))},
}


def test_each_thing_a_state_depends_on_gives_another_key(small: Model, adapters: list[Path]) -> None:
    keys = [state_key(small), *(state_key(changed(small, **make(small, adapters))) for make in CHANGES.values())]
    assert len(set(keys)) == 1 + len(CHANGES)


@pytest.mark.parametrize(
    ("name", "other"), [("VERSION", "0.0.1"), ("installed_build", lambda: {"key": "other"})], ids=["version", "build"]
)
def test_another_library_gives_another_key(
    small: Model, monkeypatch: pytest.MonkeyPatch, name: str, other: Any
) -> None:
    before = state_key(small)
    monkeypatch.setattr(key_module, name, other)
    assert state_key(small) != before


def test_other_kernels_give_another_key(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state_key(small)
    monkeypatch.setattr(native, "features", lambda: ("CPU", "NEON"))
    assert state_key(small) != before


@pytest.mark.parametrize(
    "setting", [{"threads": 3}, {"mapped": False}, {"locked": True}, {"fit": True}, {"chat_template": "chatml"}]
)
def test_what_changes_no_value_gives_the_same_key(small: Model, setting: dict[str, Any]) -> None:
    assert state_key(changed(small, config=replace(small.config, **setting))) == state_key(small)


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Iterator[Model]:
    """Give a model in a file of its own."""
    path = tmp_path / "model.gguf"
    path.write_bytes((place / "tiny.gguf").read_bytes())
    with Model.open(path, LoadConfig(context=256, threads=1)) as opened:
        yield opened


def note(model: Model, **changes: Any) -> Path:
    """Write a receipt beside a model."""
    receipt = model.header.path.with_name("model.gguf.receipt.json")
    receipt.write_text(json.dumps({"sha256": "abc", "nbytes": model.header.file_size} | changes))
    return receipt


def test_without_a_receipt_a_file_written_again_is_another_model(copied: Model) -> None:
    before = state_key(copied)
    os.utime(copied.header.path, (1e9, 1e9))
    assert state_key(copied) != before


def test_with_a_receipt_a_model_may_be_moved(copied: Model) -> None:
    note(copied)
    before = state_key(copied)
    os.utime(copied.header.path, (1e9, 1e9))
    assert state_key(copied) == before


def test_another_receipt_is_another_model(copied: Model) -> None:
    note(copied)
    before = state_key(copied)
    note(copied, sha256="def")
    assert state_key(copied) != before


def test_a_receipt_older_than_its_file_is_not_believed(copied: Model) -> None:
    before = state_key(copied)
    os.utime(note(copied), (1e9, 1e9))
    assert state_key(copied) == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": "a", "nbytes": 1}', "[" * 100_000, "\udcff"])
def test_a_receipt_that_says_something_else_is_passed_over(copied: Model, content: str) -> None:
    before = state_key(copied)
    note(copied).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert state_key(copied) == before


def test_a_model_that_is_gone_is_no_failure(copied: Model, tmp_path: Path) -> None:
    warnings: list[str] = []
    copied.header.path.unlink()
    warmth = StateStore(tmp_path / "states", warn=warnings.append).warm(copied, range(5, 105))
    assert (warmth.read, warmth.saved, len(warnings)) == (100, 0, 1)


@pytest.mark.parametrize("text", ["olá", "a", "\n\nx", "7", "Évora", "  x", "«a»", ""])
def test_the_common_prefix_begins_any_conversation(small: Model, text: str) -> None:
    messages: list[Message] = [{"role": "system", "content": "és um guia."}]
    prefix = common_prefix(small.conversation, messages)
    whole = small.conversation([*messages, {"role": "user", "content": text}])
    assert whole[: len(prefix)] == prefix
    assert len(prefix) > len("és um guia.")


def test_a_template_that_puts_the_user_first_has_a_short_prefix() -> None:
    def backwards(messages: Sequence[Message]) -> list[int]:
        return [1, *(ord(letter) for message in reversed(messages) for letter in message["content"])]

    assert common_prefix(backwards, [{"role": "system", "content": "és um guia."}]) == [1]


def test_two_answers_that_are_alike_have_all_in_common() -> None:
    assert common_prefix(lambda _: [1, 2, 3], []) == [1, 2, 3]
