"""Shapes of published models: their configurations alone, planned, have the sizes of the files people can download."""

from pathlib import Path

import pytest

from amalia_convert.conversion import ConvertConfig, prepare
from amalia_convert.plan import OutputPlan
from amalia_convert.shape import SHAPES, headers, shape_names
from amalia_edge.errors import ModelNotFound
from amalia_edge.gguf import read_header

# Gigabytes as the Hub's file listings round them; what is under a gigabyte there is in megabytes.
SIZES: dict[str, dict[str, float]] = {
    # Files of this geometry are EuroLLM-9B's; BF16 is the size of AMÁLIA's own four shards.
    "amalia-9b": {"BF16": 18.3, "Q8_0": 9.73, "Q6_K": 7.51, "Q4_K_M": 5.58, "Q4_0": 5.29},
    # QuantFactory/EuroLLM-9B-GGUF; F16 and Q4_K_S: bartowski/EuroLLM-9B-Instruct-GGUF.
    "eurollm-9b": {
        "F16": 18.31, "Q8_0": 9.73, "Q6_K": 7.51, "Q5_K_M": 6.52, "Q5_K_S": 6.37, "Q5_0": 6.37, "Q4_K_M": 5.58,
        "Q4_K_S": 5.32, "Q4_1": 5.83, "Q4_0": 5.29,
    },
    # mradermacher/EuroLLM-1.7B-GGUF; Q4_0 and Q4_1: mav23/EuroLLM-1.7B-GGUF.
    "eurollm-1.7b": {
        "F16": 3.32, "Q8_0": 1.76, "Q6_K": 1.36, "Q5_K_M": 1.20, "Q5_K_S": 1.18, "Q4_K_M": 1.05, "Q4_K_S": 1.01,
        "Q4_1": 1.09, "Q4_0": 1.00, "Q3_K_L": 0.928, "Q3_K_M": 0.877, "Q3_K_S": 0.818, "Q2_K": 0.720,
    },
    # bartowski/Qwen_Qwen3-8B-GGUF; Q4_K_M: Qwen/Qwen3-8B-GGUF.
    "qwen3-8b": {"BF16": 16.39, "Q8_0": 8.71, "Q6_K": 6.73, "Q4_K_M": 5.03},
    # bartowski/Mistral-7B-Instruct-v0.3-GGUF; Q6_K and Q8_0: the same of v0.2, whose vocabulary is 32,000.
    "mistral-7b": {"Q8_0": 7.70, "Q6_K": 5.94, "Q5_K_S": 5.00, "Q4_K_M": 4.37, "Q3_K_S": 3.17, "Q2_K": 2.72},
    # mav23/leo-hessianai-7b-GGUF; Q5_K_S, Q6_K and Q8_0: mradermacher/leo-hessianai-7b-AEG-GGUF.
    "leolm-7b": {
        "Q8_0": 7.16, "Q6_K": 5.53, "Q5_K_S": 4.65, "Q4_K_M": 4.08, "Q4_K_S": 3.86, "Q4_1": 4.24, "Q4_0": 3.83,
        "Q3_K_L": 3.60, "Q3_K_M": 3.30, "Q3_K_S": 2.95, "Q2_K": 2.53,
    },
    # sapienzanlp/Minerva-7B-instruct-v1.0-GGUF
    "minerva-7b": {"F32": 29.6, "F16": 14.8, "Q8_0": 7.86, "Q6_K": 6.07, "Q4_K_M": 4.48, "Q4_0": 4.22},
}  # fmt: skip


def plan_shape(name: str, levels: tuple[str, ...], folder: Path) -> list[OutputPlan]:
    """Plan from a configuration alone, as `amalia convert NAME/config.json --dry-run` does."""
    (folder / name).mkdir()
    (folder / name / "config.json").write_bytes((SHAPES / f"{name}.json").read_bytes())
    return list(prepare(ConvertConfig(str(folder / name / "config.json"), levels)).outputs)


@pytest.mark.parametrize("name", SIZES)
def test_a_configuration_alone_gives_the_published_sizes(name: str, tmp_path: Path) -> None:
    planned = plan_shape(name, tuple(SIZES[name]), tmp_path)
    gigabytes = {output.level.name: output.nbytes / 1e9 for output in planned}
    assert gigabytes == pytest.approx(SIZES[name], rel=0.01)


def test_amalia_s_parameters_are_counted_to_the_last(tmp_path: Path) -> None:
    assert plan_shape("amalia-9b", ("Q4_K_M",), tmp_path)[0].parameters == 9_152_319_488


def test_the_largest_of_the_family_is_planned_too(tmp_path: Path) -> None:
    attention, feed_forward = 2 * 6144 * 6144 + 2 * 1024 * 6144, 3 * 6144 * 16384
    layers = 54 * (attention + feed_forward + 2 * 6144)
    (planned,) = plan_shape("eurollm-22b", ("Q4_K_M",), tmp_path)  # no published GGUF of it was found
    assert planned.parameters == 2 * 128_000 * 6144 + layers + 6144


def test_every_shape_has_headers_of_every_level_from_the_largest_down() -> None:
    assert shape_names() == ["amalia-9b", "eurollm-1.7b", "eurollm-22b", "eurollm-9b", "leolm-7b", "minerva-7b",
                             "mistral-7b", "qwen3-8b"]  # fmt: skip
    sizes = [header.weight_bytes for header in headers("eurollm-1.7b").values()]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) > 20


def test_a_shape_s_header_is_what_its_file_would_begin_with(tmp_path: Path) -> None:
    (planned,) = plan_shape("eurollm-1.7b", ("Q4_K_M",), tmp_path)
    file = tmp_path / "sparse.gguf"
    with file.open("wb") as out:
        out.write(planned.header)
        out.truncate(planned.nbytes)
    written, header = read_header(file, model=False), headers(str(tmp_path / "eurollm-1.7b" / "config.json"))["Q4_K_M"]
    assert header.tensors == written.tensors
    own = [key for key in written.metadata if not key.startswith("general.")]
    for key in own:
        assert header.metadata[key] == pytest.approx(written.metadata[key]), key
    assert (header.level, header.file_size, header.data_offset) == ("Q4_K_M", planned.nbytes, written.data_offset)


def test_a_name_that_is_no_shape_is_refused() -> None:
    with pytest.raises(ModelNotFound):
        headers("amalia-10b")
