"""A level is a rule for each tensor's block type; that the rules are llama.cpp's is shown in test_recipe.py."""

import re

import gguf
import pytest

from amalia_convert.level_table import find_level, level_table
from amalia_convert.levels import LEVELS
from amalia_edge.errors import UsageError
from amalia_edge.gguf import FILE_TYPES

DEMANDING = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"}


def test_file_types_are_llama_cpp_s() -> None:
    newer = {"Q2_0": 41}  # than the gguf package
    for level in LEVELS.values():
        assert FILE_TYPES[level.file_type] == level.name
        if level.name not in newer:
            assert gguf.LlamaFileType(level.file_type).name in (f"MOSTLY_{level.name}", f"ALL_{level.name}")


def test_the_table_marks_the_levels_that_need_importance_data() -> None:
    assert {row.name for row in level_table() if row.needs_importance} == DEMANDING


def test_the_table_goes_from_most_bits_to_fewest_and_leaves_no_level_out() -> None:
    bits = [row.bits_per_weight for row in level_table()]
    assert bits == sorted(bits, reverse=True)
    assert {row.name for row in level_table()} == set(LEVELS)


def test_bits_per_weight_are_amalia_9b_s() -> None:
    bits = {row.name: row.bits_per_weight for row in level_table()}
    # Sizes in GB of published files of this geometry, which hold a vocabulary too.
    published = {"Q4_0": 5.29, "Q4_K_M": 5.58, "Q6_K": 7.51, "Q8_0": 9.73}
    assert {name: bits[name] * 9.152 / 8 for name in published} == pytest.approx(published, abs=0.011)


def test_a_level_may_be_written_in_small_letters() -> None:
    assert find_level("q4_k_m").name == "Q4_K_M"


def test_a_level_s_short_name_means_the_middle_size() -> None:
    assert [find_level(name).name for name in ("Q3_K", "q4_k", "Q5_K")] == ["Q3_K_M", "Q4_K_M", "Q5_K_M"]


def test_an_unknown_level_lists_the_known_ones_with_their_bits() -> None:
    with pytest.raises(
        UsageError, match=r"Q5_K_X.*bits per weight: F32 32\.00, .*Q4_K_M 4\.88, .*Q1_0 1\.44"
    ) as caught:
        find_level("Q5_K_X")
    assert len(re.findall(r"\w+ \d+\.\d\d", caught.value.advice)) == len(LEVELS)
