"""`amalia bench kernels`."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amalia_bench import kernels, records
from amalia_bench.bandwidth import Bandwidth
from amalia_bench.cli.door import bench
from amalia_bench.matrices import Matrix
from amalia_edge.backend import read
from amalia_edge.errors import BenchError, UsageError

FEW = ("--type", "Q8_0", "--op", "mat_vec,quantize", "-t", "1", "-r", "1")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LEAST", 1 << 18)
    monkeypatch.setattr(kernels, "last_level_caches", lambda: 1 << 16)
    monkeypatch.setattr(kernels, "PEAK", Matrix(("peak",), 64, 64))
    monkeypatch.setattr(kernels, "measure_bandwidth", lambda threads: Bandwidth(threads, 20.0, (19.0, 20.0)))


def run(tiny: Path, *words: str) -> Result:
    return CliRunner().invoke(
        bench, ["kernels", "--shape", str(tiny), *words], catch_exceptions=False, standalone_mode=False
    )


def result(tiny: Path, *words: str) -> Any:
    return json.loads(run(tiny, *words, "--json").stdout)["result"]


def test_a_row_says_what_was_measured_where(tiny: Path) -> None:
    rows = result(tiny, *FEW)["rows"]
    assert {row["kind"] for row in rows} == {"kernels"}
    assert {(row["operation"], row["rows"], row["columns"]) for row in rows} == {
        ("mat_vec", 256, 256), ("mat_vec", 128, 256), ("mat_vec", 512, 256), ("mat_vec", 256, 512),
        ("quantize", 512, 256), ("quantize", 256, 512),
    }  # fmt: skip
    assert {row["read_gbps"] for row in rows} == {20.0}
    assert all(row["machine"]["cpu"] and row["library"]["version"] and row["threads"] == 1 for row in rows)
    assert all(0 < row["error"] < row["error_limit"] for row in rows)


def test_a_models_own_types_are_measured(tiny: Path) -> None:
    assert {row["type"] for row in result(tiny, "--op", "mat_vec", "-r", "1", "-t", "1")["rows"]} == {"Q8_0"}


def test_a_person_reads_a_table_and_a_sentence(tiny: Path) -> None:
    text = run(tiny, *FEW).stdout
    assert "matrix × vector: what writing a token does" in text
    assert text.rstrip().endswith(".")
    assert max(map(len, text.splitlines())) <= 80


def test_measurements_are_kept_as_they_are_made_and_not_made_again(tiny: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kernels.jsonl"
    run(tiny, *FEW, "--records", str(keep))
    kept = records.read(keep)
    assert [row["kind"] for row in kept] == ["bandwidth", *["kernels"] * 6]
    again = result(tiny, *FEW, "--records", str(keep), "--resume")
    assert records.read(keep) == kept
    assert again["rows"] == kept[1:]


def test_what_a_file_lacks_is_measured(tiny: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kernels.jsonl"
    run(tiny, *FEW, "--records", str(keep))
    lines = keep.read_text().splitlines(keepends=True)
    keep.write_text("".join(lines[:4]))
    run(tiny, *FEW, "--records", str(keep), "--resume")
    assert len([row for row in records.read(keep) if row["kind"] == "kernels"]) == 6


def test_what_a_file_holds_beside_what_is_wanted_is_not_shown(tiny: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kernels.jsonl"
    run(tiny, *FEW, "--records", str(keep))
    again = result(tiny, "--type", "Q8_0", "--op", "quantize", "-t", "1", "--records", str(keep), "--resume")
    assert {row["operation"] for row in again["rows"]} == {"quantize"}


def test_figures_of_other_threads_are_no_reason_to_leave_out(tiny: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kernels.jsonl"
    run(tiny, *FEW, "--records", str(keep))
    run(tiny, *FEW[:-4], "-t", "2", "-r", "1", "--records", str(keep), "--resume")
    assert len([row for row in records.read(keep) if row["kind"] == "kernels"]) == 12


def test_an_interruption_keeps_what_was_measured(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: kernels.Bench, task: kernels.Task) -> kernels.Kernel | None:
        if task.operation == "quantize":
            raise KeyboardInterrupt
        return measure(self, task)

    measure = kernels.Bench.measure
    monkeypatch.setattr(kernels.Bench, "measure", interrupted)
    done = CliRunner().invoke(bench, ["kernels", "--shape", str(tiny), *FEW, "--json"])
    assert done.exit_code != 0
    assert len(json.loads(done.stdout.partition("\n")[0])["result"]["rows"]) == 4


def test_a_wrong_kernel_fails_the_command_after_it_was_shown(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "read", lambda tensor: 2 * read(tensor))
    done = CliRunner().invoke(bench, ["kernels", "--shape", str(tiny), *FEW], standalone_mode=False)
    assert isinstance(done.exception, BenchError)
    assert "Q8_0 mat_vec in" in str(done.exception)
    assert "an error of 1.0e+00, where 5.0e-04 is allowed" in str(done.exception)
    assert "WRONG" in done.stdout


def test_a_machine_is_told_of_a_wrong_kernel_in_one_object(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "read", lambda tensor: 2 * read(tensor))
    told = json.loads(run(tiny, *FEW, "--json").stdout)
    assert told["error"]["code"] == "bench-error"
    assert len(told["result"]["rows"]) == 6


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--type", "Q9_X"), "block type 'Q9_X'"),
        (("--op", "mat_max"), "--op 'mat_max': there is no such operation; of: quantize"),
        (("--resume",), "--resume: no --records"),
        (("--plot", "roof.pdf"), "--plot roof.pdf: neither .svg nor .png"),
        (("--plot", "gone/roof.svg"), "--plot gone/roof.svg: no folder one can write to"),
        (("--plot", "roof.svg", "--op", "quantize"), "--plot: nothing to draw; measure one of mat_vec, mat_mat too"),
        (("--device", "TPU9"), "device 'TPU9'"),
    ],
)
def test_what_it_cannot_use_is_said_before_anything_is_measured(
    tiny: Path, words: tuple[str, ...], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(kernels.Bench, "measure")
    with pytest.raises(UsageError) as told:
        run(tiny, *words)
    assert found in str(told.value)


@pytest.mark.parametrize(("name", "begins"), [("roof.svg", b"<svg"), ("roof.png", b"\x89PNG")])
def test_the_roofline_is_drawn(tiny: Path, tmp_path: Path, name: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib")
    run(tiny, *FEW, "--plot", str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


def test_a_drawing_that_fails_leaves_the_one_that_was_there(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "roof.svg").write_text("before")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        run(tiny, *FEW, "--plot", str(tmp_path / "roof.svg"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("roof.svg", "before")]
