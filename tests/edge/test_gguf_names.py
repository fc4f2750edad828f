"""The names people give GGUF files, and what each says."""

import pytest

from amalia_edge.gguf_names import ModelFiles, group, level_of, split_level


@pytest.mark.parametrize(("stem", "level"), [
    ("AMALIA-9B-0626-DPO-Q4_K_M", "Q4_K_M"), ("llama-2-7b.q4_k_m", "Q4_K_M"), ("Qwen3-8B-UD-Q4_K_XL", "UD-Q4_K_XL"),
    ("ggml-model-f16", "F16"), ("phi-2.fp16", "F16"), ("m-BF16", "BF16"), ("m.i1-IQ2_XXS", "IQ2_XXS"), ("m_Q8_0", "Q8_0"),
    ("gpt-oss-20b-mxfp4", "MXFP4"), ("gpt-oss-20b-MXFP4_MOE", "MXFP4_MOE"), ("F16-to-Q6_K", "Q6_K"), ("Q4_0_4_4", "Q4_0_4_4"),
    ("Qwen3-8B", ""), ("Q4ever", ""), ("model", ""), ("", ""),
])  # fmt: skip
def test_the_level_stands_in_the_files_name(stem: str, level: str) -> None:
    assert level_of(stem) == level


@pytest.mark.parametrize(("stem", "parts"), [
    ("AMALIA-9B-Q4_K_M", ("AMALIA-9B", "Q4_K_M")), ("m.q8_0", ("m", "Q8_0")), ("Q8_0", ("Q8_0", "")),
    ("m-Q8_0-v2", ("m-Q8_0-v2", "")), ("fadinho", ("fadinho", "")),
])  # fmt: skip
def test_a_name_is_parted_from_the_level_at_its_end(stem: str, parts: tuple[str, str]) -> None:
    assert split_level(stem) == parts


def test_parts_of_one_model_are_gathered_in_order() -> None:
    names = ["Q8_0/m-00002-of-00003.gguf", "Q8_0/m-00001-of-00003.gguf", "Q8_0/m-00003-of-00003.gguf", "m-Q4_K_M.gguf"]
    whole = ModelFiles("Q8_0/m", (names[1], names[0], names[2]), 3)
    assert group(names) == [whole, ModelFiles("m-Q4_K_M", ("m-Q4_K_M.gguf",), 1)]
    assert (whole.level, whole.is_whole) == ("Q8_0", True)


def test_a_missing_part_is_noticed() -> None:
    (model,) = group(["m-00002-of-00003.gguf", "m-00003-of-00003.gguf"])
    assert not model.is_whole


@pytest.mark.parametrize("name", [
    "mmproj-F16.gguf", "m-mmproj-f16.gguf", "imatrix.gguf", "m.imatrix.gguf", "imatrix_unsloth.gguf_file", "mtp-m.gguf",
    "config.json", "m.safetensors", "README.md", "m.gguf.receipt.json", ".m.gguf.partial",
])  # fmt: skip
def test_what_is_no_model_is_left_out(name: str) -> None:
    assert group([name]) == []


def test_a_model_made_with_importance_data_is_one() -> None:
    assert [model.level for model in group(["m-imatrix-Q4_K_M.gguf"])] == ["Q4_K_M"]


def test_fp16_is_f16_in_a_file_and_where_it_is_asked_for() -> None:
    assert ModelFiles("x-fp16", ("x-fp16.gguf",), 1).is_at("FP16")


def test_unsloths_levels_may_be_asked_for_without_their_prefix() -> None:
    model = ModelFiles("m-UD-Q4_K_XL", ("m-UD-Q4_K_XL.gguf",), 1)
    assert model.is_at("q4_k_xl") and model.is_at("ud-q4_k_xl") and not model.is_at("Q4_K_M")
