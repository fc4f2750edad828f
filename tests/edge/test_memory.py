"""What is predicted of a model's memory is what libllama takes, by its simulation and by its real buffers."""

import logging
import re
from pathlib import Path

import pytest

from amalia_edge import native
from amalia_edge.gguf import read_header
from amalia_edge.host import Host
from amalia_edge.load_config import LoadConfig
from amalia_edge.memory import Model, output_room
from amalia_edge.placement import place
from amalia_edge.simulate import simulate

from .architectures import write_architecture
from .plan_against_libllama import HELD, TOTAL, UNLIKE, compare
from .sparse import sparse_model, windowed_model

PRINTED = 0.011 * (1 << 20)  # bytes: libllama prints hundredths of a MiB


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ("amalia-9b", {"context": 8192}),
        ("eurollm-1.7b", {"context": 2048, "sequences": 4, "cache_keys": "q8_0", "cache_values": "q8_0"}),
        ("qwen3-0.6b", {"context": 8192}),
        ("thin", {"context": 8192, "flash_attention": "off"}),
        ("llama-3.2-1b", {"context": 300, "micro_batch": 64}),
    ],
)
def test_a_prediction_is_what_libllama_s_simulation_says(
    shape: str, settings: dict[str, object], tmp_path: Path
) -> None:
    row = compare(sparse_model(tmp_path, shape), LoadConfig(gpu_layers=0, **settings))  # type: ignore[arg-type]
    assert (abs(row.held_error) <= HELD, abs(row.total_error) <= TOTAL) == (True, True), row


def test_layers_that_see_a_window_are_predicted_too(tmp_path: Path) -> None:
    row = compare(windowed_model(tmp_path / "g.gguf"), LoadConfig(context=8192, gpu_layers=0))
    assert abs(row.held_error) <= HELD and abs(row.total_error) <= TOTAL, row


@pytest.mark.parametrize("architecture", UNLIKE)
def test_layers_that_keep_less_are_counted_as_they_are(architecture: str, tmp_path: Path) -> None:
    path = write_architecture(tmp_path / "a.gguf", architecture, UNLIKE[architecture] | {"context_length": 8192})
    config, model = LoadConfig(context=8192, sequences=2, gpu_layers=0), Model(read_header(path), ())
    counted = model.cache(range(model.shape.layers), config)
    assert counted == pytest.approx(simulate(path, config).cache, rel=HELD)


def test_an_embedding_for_each_layer_is_read_by_the_row(tmp_path: Path) -> None:
    header = read_header(write_architecture(tmp_path / "a.gguf", "gemma4"))
    rows = sum(one.nbytes for one in header.tensors if one.name.endswith("token_embd.weight"))
    host = Host(total=1 << 40, free=1 << 40, cores=1)
    config = LoadConfig(context=256)
    cpu = place(Model(header, ()), config, host).needs[0]
    assert cpu.mapped == sum(one.nbytes for one in header.tensors)
    assert cpu.looked_up == rows


def real_buffers(path: Path, caplog: pytest.LogCaptureFixture) -> dict[str, float]:
    """Load a file for real; give the bytes of each buffer that libllama speaks of."""
    with caplog.at_level(logging.DEBUG, "amalia.native"):
        pointer = native.open_model(path, LoadConfig(gpu_layers=0))
    native.library().llama_model_free(pointer)
    said = re.findall(r"(\S+) model buffer size =\s*([\d.]+) MiB", caplog.text)
    caplog.clear()
    return {name: float(size) * (1 << 20) for name, size in said}


@pytest.mark.parametrize("shape", ["tiny", "tiny-tied"])
def test_weights_that_are_copied_for_this_cpu_are_counted_to_the_byte(
    shape: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for level in (
        "F16",
        "BF16",
        "Q8_0",
        "Q6_K",
        "Q5_K_M",
        "Q5_0",
        "Q4_K_M",
        "Q4_1",
        "Q4_0",
        "IQ4_NL",
        "IQ4_XS",
        "Q2_K",
    ):
        path = sparse_model(tmp_path, shape, level)
        buffers = real_buffers(path, caplog)
        model = Model(read_header(path), native.features())
        copied, _ = model.weights(range(model.shape.layers + 1), on_gpu=False, copies=True)
        real = sum(size for name, size in buffers.items() if name != "CPU_Mapped")
        assert copied == pytest.approx(real, abs=2 * PRINTED), (level, buffers)


@pytest.mark.parametrize("sequences", [1, 4, 16, 17, 100])
def test_what_lies_behind_the_outputs_numbers_begins_a_cache_line(sequences: int) -> None:
    room = output_room(sequences)
    assert sequences <= room < sequences + 16
    assert room * 4 % 64 == 0  # int32 in lines of 64 bytes


def test_every_sequence_has_a_cache_of_its_own_in_whole_pads(tmp_path: Path) -> None:
    model = Model(read_header(sparse_model(tmp_path, "tiny")), ())
    one = model.cache(range(3), LoadConfig(context=256))
    assert model.cache(range(3), LoadConfig(context=257, sequences=3)) == 6 * one


def test_a_gpu_s_output_copy_of_a_tied_embedding_is_counted(tmp_path: Path) -> None:
    tied = Model(read_header(sparse_model(tmp_path, "tiny-tied")), ())
    whole, _ = tied.weights([3], on_gpu=True, copies=False)
    assert tied.embedding is not None and whole > tied.embedding.nbytes
