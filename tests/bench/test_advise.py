"""Which level for a device."""

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from amalia_bench import records
from amalia_bench.advise import Device, Wish, advise, find_headers, find_names, model_named
from amalia_bench.cli.advise import _sentence
from amalia_bench.cli.door import bench
from amalia_bench.place import machine
from amalia_edge.errors import BenchError, DoesNotFit
from amalia_edge.host import Host
from amalia_edge.outlook import find_headers as of_shape
from amalia_edge.store import find
from bench.example_records import LEVELS, everything, quality_body, row, speed_body
from models import tiny_model

ROWS = everything()
HOST = Host(total=16_000_000_000, free=14_000_000_000, cores=2)
HERE = machine(row("speed", speed_body()))
SHAPE = {level: header for level, header in (of_shape("amalia-9b") or {}).items() if level in LEVELS}
DEVICE = Device(HOST, HERE, SHAPE, "r.jsonl")


def small(gigabytes: float) -> Device:
    """Give a machine with so much free memory."""
    return dataclasses.replace(DEVICE, host=dataclasses.replace(HOST, free=int(gigabytes * 1e9)))


def test_the_least_loss_that_fits_is_advised() -> None:
    assert advise("Toy 9B", ROWS, Wish(), DEVICE).choice.level == "Q8_0"


def test_less_memory_means_another_level() -> None:
    found = advise("Toy 9B", ROWS, Wish(), small(7.8))
    assert found.choice.level == "Q4_K_M"
    assert {one.level for one in found.candidates if not one.fits} == {"Q8_0", "Q6_K", "Q5_K_M"}


def test_a_longer_context_means_another_level() -> None:
    few, many = (advise("Toy 9B", ROWS, Wish(context), small(9.5)).choice.nbytes for context in (2048, 16384))
    assert many < few


def test_a_wanted_speed_means_another_level() -> None:
    assert advise("Toy 9B", ROWS, Wish(speed=18.0), DEVICE).choice.level == "Q4_K_M"


def test_what_no_level_writes_is_refused_with_the_fastest() -> None:
    with pytest.raises(DoesNotFit, match=r"the fastest measured, Q2_K, writes 22\.4"):
        advise("Toy 9B", ROWS, Wish(speed=50.0), DEVICE)


def test_a_machine_where_nothing_fits_is_told_what_the_least_needs() -> None:
    with pytest.raises(DoesNotFit, match="no level fits with 4096 tokens: Q2_K needs"):
        advise("Toy 9B", ROWS, Wish(), small(2.0))


def test_a_wanted_speed_that_nobody_measured_asks_for_a_measurement() -> None:
    rows = [row("quality", quality_body())]
    with pytest.raises(BenchError, match=r"amalia bench speed Toy-9B-Q4_K_M\.gguf --records r\.jsonl"):
        advise("Toy 9B", rows, Wish(speed=5.0), dataclasses.replace(DEVICE, headers={"Q4_K_M": SHAPE["Q4_K_M"]}))


def test_missing_losses_come_with_the_command_that_measures_them() -> None:
    rows = [row("speed", speed_body(), "Q8_0"), row("quality", quality_body(), "Q4_K_M")]
    device = dataclasses.replace(DEVICE, headers={level: SHAPE[level] for level in ("Q8_0", "Q4_K_M")})
    found = advise("Toy 9B", rows, Wish(), device)
    assert found.choice.level == "Q4_K_M"
    assert found.missing[0] == "loss of Q8_0: amalia bench quality BASE Toy-9B-Q8_0.gguf --records r.jsonl"


def test_without_any_loss_the_largest_that_fits_is_taken() -> None:
    rows = [row("speed", speed_body(), level) for level in ("Q8_0", "Q4_0")]
    assert (
        advise(
            "Toy 9B",
            rows,
            Wish(),
            dataclasses.replace(DEVICE, headers={level: SHAPE[level] for level in ("Q8_0", "Q4_0")}),
        ).choice.level
        == "Q8_0"
    )


def test_speeds_of_another_machine_do_not_count() -> None:
    found = advise("Toy 9B", ROWS, Wish(), dataclasses.replace(DEVICE, machine="elsewhere"))
    assert {one.speed for one in found.candidates} == {None}


def test_random_weights_stand_in_for_a_files_speed_and_are_marked() -> None:
    rows = [one for one in ROWS if one["kind"] in ("quality", "shape")]
    found = {one.level: one for one in advise("Toy 9B", rows, Wish(), DEVICE).candidates}
    assert (found["Q4_K_M"].speed, found["Q4_K_M"].predicted) == (pytest.approx(4.6 * 0.98), True)


def test_memory_comes_from_shape_records_where_no_file_is_at_hand() -> None:
    found = {
        one.level: one for one in advise("Toy 9B", ROWS, Wish(), dataclasses.replace(DEVICE, headers={})).candidates
    }
    assert (found["Q4_K_M"].needed, found["Q4_K_M"].fits, found["Q6_K"].fits) == (7_300_000_000, True, None)


def test_a_shape_takes_the_losses_of_the_model_of_its_size() -> None:
    found = advise("amalia-9b", ROWS, Wish(), dataclasses.replace(DEVICE, shape="amalia-9b"))
    assert found.choice.loss == 0.0011


def test_a_model_nobody_measured_says_how_to() -> None:
    with pytest.raises(BenchError, match="amalia bench all"):
        advise("other", ROWS, Wish(), dataclasses.replace(DEVICE, headers={}))


def test_the_only_model_in_the_records_need_not_be_named() -> None:
    assert model_named(None, [row("quality", quality_body())]) == "Toy 9B"


def test_of_several_models_one_must_be_named() -> None:
    with pytest.raises(BenchError, match="2 models in the records; name one: Toy 9B, Other"):
        model_named(None, [row("quality", quality_body()), row("quality", quality_body(), name="Other")])


def test_a_file_names_its_model() -> None:
    assert model_named("models/Toy-9B-Q4_K_M.gguf", ROWS) == "Toy 9B"


def test_headers_are_found_beside_the_file_that_is_named(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny-Q8_0.gguf", kind="Q8_0")
    assert list(find_headers(str(path), ["tiny-Q8_0.gguf", "gone.gguf"])) == ["tiny-Q8_0.gguf"]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep one model in the folder of converted ones, and be elsewhere."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tiny_model(tmp_path / "amalia/models/Toy-9B-Q8_0.gguf", kind="Q8_0")


def advised(model: str, level: str = "Q8_0", *files: str) -> tuple[str, str]:
    """Give the sentence for a level of which all is known but the speed, and the command that measures that."""
    rows = [row("quality", quality_body(), level)]
    names = find_names(model, [f"Toy-9B-{level}.gguf", *files])
    found = advise("Toy 9B", rows, Wish(), dataclasses.replace(DEVICE, headers={level: SHAPE[level]}, names=names))
    return _sentence(found), found.missing[0]


def test_the_sentence_names_a_stored_model_as_amalia_run_finds_it(stored: Path) -> None:
    sentence, command = advised("Toy 9B")
    assert sentence.endswith("; amalia run Toy-9B:Q8_0 starts it.")
    assert "amalia bench speed Toy-9B:Q8_0 --records" in command
    assert find("Toy-9B:Q8_0") == stored


def test_a_file_beside_the_named_one_is_told_with_its_folder(stored: Path) -> None:
    name = find_names(str(stored), ["Toy-9B-Q8_0.gguf", "gone.gguf"])["Toy-9B-Q8_0.gguf"]
    assert find(name) == stored
    assert find_names(str(stored.parent), ["Toy-9B-Q8_0.gguf"]) == {"Toy-9B-Q8_0.gguf": name}


def test_what_comes_with_the_product_is_named_as_its_source() -> None:
    assert find_names("fadinho", ["fadinho-Q2_K.gguf"]) == {"fadinho-Q2_K.gguf": "fadinho:Q2_K"}


def test_of_a_file_that_is_not_here_the_sentence_says_where_to_be(stored: Path) -> None:
    assert advised("Toy 9B", "Q6_K")[0].endswith("; where its file is, amalia run Toy-9B-Q6_K.gguf starts it.")


def test_a_level_that_nobody_made_is_converted_first() -> None:
    device = dataclasses.replace(DEVICE, headers={"Q8_0": SHAPE["Q8_0"]}, shape="amalia-9b")
    rows = [one for one in ROWS if one["kind"] == "shape"]
    sentence = _sentence(advise("amalia-9b", rows, Wish(), device))
    assert sentence.endswith("; amalia convert MODEL16 --to Q8_0 makes it, where the trained weights are.")


def test_a_name_with_a_space_is_one_word_of_a_command(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "my models/Toy-9B-Q8_0.gguf", kind="Q8_0")
    assert find_names(str(path), [path.name]) == {path.name: f"'{path}'"}


def test_the_command_says_how_what_it_advises_is_run(stored: Path, tmp_path: Path) -> None:
    records.append(tmp_path / "r.jsonl", row("quality", quality_body(), "Q8_0"))
    words = ["advise", "--records", str(tmp_path / "r.jsonl"), "-c", "512"]
    told = CliRunner().invoke(bench, words, catch_exceptions=False, standalone_mode=False).stdout
    assert told.endswith("; amalia run Toy-9B:Q8_0 starts it.\n")
