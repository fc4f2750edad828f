"""From the Hub, kept or streamed: the same bytes, and no more of the disk than was promised."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

import amalia_edge.hub as hub
from amalia_convert.checkpoint import Stream
from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.forecast import forecast
from amalia_convert.journal import Mark
from amalia_convert.receipt import Receipt
from amalia_convert.source import RemoteFile
from amalia_convert.writer import Target
from amalia_edge.errors import AmaliaError, HubError, ModelCorrupt, UsageError
from checkpoints import Tiny, weights, write_checkpoint, write_json, write_safetensors
from hub_server import HubServer, monkeypatch_environment

NAME = "org/Azulejo-1M"
TINY = Tiny(layers=2, feed_forward=64, hidden=64, heads=2, head_dim=32)
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A repository in two shards, on a Hub of our own."""
    folder = write_checkpoint(tmp_path / "repositories" / NAME, TINY)
    (folder / "model.safetensors").unlink()
    table = weights(TINY)
    halves = dict(zip(SHARDS, (list(table)[:9], list(table)[9:]), strict=True))
    for name, tensors in halves.items():
        write_safetensors(folder / name, {tensor: table[tensor] for tensor in tensors})
    weight_map = {tensor: name for name, tensors in halves.items() for tensor in tensors}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    with HubServer(tmp_path / "repositories") as server:
        monkeypatch_environment(monkeypatch, server, tmp_path / "home")
        monkeypatch.setattr(hub, "PAUSES_S", (0.0, 0.0, 0.0))
        yield server


def run(out: Path, source: str = NAME, *, stream: bool | None = True, levels: tuple[str, ...] = ("Q8_0",)) -> Receipt:
    return convert(ConvertConfig(source, levels, out, stream=stream))[0]


def nbytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def test_streamed_kept_and_local_give_the_same_bytes(server: HubServer, tmp_path: Path) -> None:
    streamed, kept = run(tmp_path / "a"), run(tmp_path / "b", stream=False)
    local = convert(ConvertConfig(str(tmp_path / "repositories" / NAME), ("BF16",), tmp_path / "c"))[0]
    (again,) = convert(ConvertConfig(str(tmp_path / "c" / local.output), ("Q8_0",), tmp_path / "d"))
    assert streamed.sha256 == kept.sha256 and streamed.files == kept.files
    assert (tmp_path / "d" / again.output).stat().st_size == pytest.approx(
        streamed.nbytes, abs=200
    )  # no repo_url in it


def test_the_receipt_names_repository_commit_and_hashes(server: HubServer, tmp_path: Path) -> None:
    receipt = run(tmp_path / "out", f"{NAME}@main")
    assert (receipt.repository, receipt.commit) == (NAME, server.commit(NAME))
    assert receipt.files == {name: file.sha256 for name, file in server.files(NAME).items()}


def test_streaming_keeps_no_weight_and_reads_each_byte_once(server: HubServer, tmp_path: Path) -> None:
    run(tmp_path / "out")
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    assert nbytes_below(tmp_path / "home") < 200_000
    sizes = [file.nbytes for name, file in server.files(NAME).items() if name in SHARDS]
    texts = nbytes_below(tmp_path / "repositories") - sum(sizes)
    headers = 40_000
    assert server.nbytes_sent < sum(sizes) + texts + headers


def test_a_cut_connection_goes_on_at_its_byte(server: HubServer, tmp_path: Path) -> None:
    whole = run(tmp_path / "a")
    before = server.nbytes_sent
    server.cut_after, server.cuts = 50_000, 7
    assert run(tmp_path / "b").sha256 == whole.sha256
    assert server.nbytes_sent - before < before + 7 * 70_000


def test_a_wrong_byte_fails_the_conversion_and_leaves_nothing(server: HubServer, tmp_path: Path) -> None:
    server.wrong_byte = {SHARDS[1]: 70_000}
    with pytest.raises(ModelCorrupt, match=r"00002-of-00002\.safetensors: its SHA-256 is .*, and must be"):
        run(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_kept_file_is_checked_too_when_it_is_read(server: HubServer, tmp_path: Path) -> None:
    """A kill between download and check leaves a file that counts as cached."""
    run(tmp_path / "a", stream=False)
    (blob,) = [path.resolve() for path in (tmp_path / "home").rglob(SHARDS[1]) if path.is_symlink()]
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ModelCorrupt, match=r"its SHA-256 is .* it was removed from the Hub's cache"):
        run(tmp_path / "b", stream=False)
    assert run(tmp_path / "b", stream=False).files == run(tmp_path / "c").files  # fetched anew


def test_a_gated_repository_says_what_to_accept(server: HubServer, tmp_path: Path) -> None:
    server.gated = {NAME}
    with pytest.raises(HubError, match="HF_TOKEN"):
        run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_revision_is_named(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="nightly"):
        run(tmp_path / "out", f"{NAME}@nightly")


def test_a_slow_link_is_only_slow(server: HubServer, tmp_path: Path) -> None:
    whole = run(tmp_path / "a")
    server.bytes_per_second = 1_000_000
    assert run(tmp_path / "b").sha256 == whole.sha256


def test_a_link_that_is_gone_leaves_what_can_be_gone_on_with(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "a")
    monkeypatch.setattr("amalia_convert.pipeline.JOURNAL_SECONDS", 0)
    monkeypatch.setattr("amalia_convert.quantize.PIECE_WEIGHTS", 1000)
    noted, note, opened = Event(), Target.note, RemoteFile.open

    def tell(target: Target, mark: Mark) -> None:
        note(target, mark)
        noted.set()

    def lose(file: RemoteFile) -> Stream:
        if file.file.name == SHARDS[1]:  # the link is gone between two shards, when the journal knows of the first
            assert noted.wait(60)
            server.cut_after = 0
        return opened(file)

    with monkeypatch.context() as lost, pytest.raises(HubError):
        lost.setattr(Target, "note", tell)
        lost.setattr(RemoteFile, "open", lose)
        run(tmp_path / "b")
    server.cut_after = None
    left = {path.name for path in (tmp_path / "b").iterdir()}
    assert left == {".Azulejo-1M-Q8_0.gguf.partial", ".Azulejo-1M-Q8_0.gguf.journal"}
    assert run(tmp_path / "b").sha256 == whole.sha256
    assert {path.name[0] for path in (tmp_path / "b").iterdir()} == {"A"}


def test_without_room_for_the_weights_they_are_streamed(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", stream=None)
    assert "downloaded and kept" in capsys.readouterr().err
    run(tmp_path / "b", stream=None)
    assert "in the Hub's cache already" in capsys.readouterr().err
    for blob in (tmp_path / "home").rglob("*.safetensors"):
        blob.unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=250_000))
    run(tmp_path / "c", stream=None)  # 200 kB of weights, 120 kB of output on the same disk
    assert "streamed, and not kept" in capsys.readouterr().err


def test_offline_converts_from_the_cache_alone(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "a", stream=False)
    asked = len(server.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(tmp_path / "b", stream=None).sha256 == whole.sha256
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    "wrong", [{"levels": ("Q9",)}, {"importance": Path("nowhere.gguf")}, {"tensor_types": ("(=q4_0",)}]
)
def test_what_is_refused_is_refused_before_the_weights_are_fetched(
    server: HubServer, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(AmaliaError):
        convert(ConvertConfig(NAME, out=tmp_path / "out", stream=False, **wrong))
    assert server.nbytes_sent < 100_000 and not list((tmp_path / "home").rglob("*.safetensors"))


def test_a_file_in_the_way_is_named_before_the_weights_are_fetched(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "Azulejo-1M-Q8_0.gguf").write_bytes(b"mine")
    with pytest.raises(UsageError, match="already there"):
        run(tmp_path, stream=False)
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_offline_a_dry_run_plans_from_the_cache(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "a", stream=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert forecast(ConvertConfig(NAME, ("Q8_0",), tmp_path / "out")).to_fetch == 0


def test_without_a_hash_to_check_it_by_a_file_is_not_streamed(server: HubServer, tmp_path: Path) -> None:
    def without_hashes(info: dict[str, Any]) -> dict[str, Any]:
        for entry in info["siblings"]:
            entry.pop("lfs", None)
        return info

    server.edit_info = without_hashes
    with pytest.raises(HubError, match="no SHA-256 to check it by"):
        run(tmp_path / "out")


def test_a_dry_run_fetches_headers_and_no_weights(server: HubServer, tmp_path: Path) -> None:
    found = forecast(ConvertConfig(NAME, ("Q8_0",), tmp_path / "out"))
    sent = server.nbytes_sent
    assert found.outputs[0].nbytes == run(tmp_path / "out").nbytes and found.commit == server.commit(NAME)
    assert sent < 100_000 < json.loads((tmp_path / "out" / "Azulejo-1M-Q8_0.gguf.receipt.json").read_text())["nbytes"]
