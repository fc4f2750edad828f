"""A level is a rule for each tensor's block type; that the rules are llama.cpp's is shown in test_conversion.py."""

import gguf
import pytest

from amalia_convert.levels import LEVELS, BlockType, Place, choose_block, find_level
from amalia_edge.errors import UsageError


def block_of(level: str, name: str, columns: int = 256, layer: int = 0, layers: int = 42, *, groups: int = 4) -> str:
    place = Place(layer, layers, groups)
    return choose_block(LEVELS[level], name, (64, columns), place, tied=False).name


def test_block_sizes_are_ggml_s() -> None:
    for block in BlockType:
        assert (block.weights, block.nbytes(block.weights)) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(block)]


def test_file_types_are_llama_cpp_s() -> None:
    for level in LEVELS.values():
        assert gguf.LlamaFileType(level.file_type).name in (f"MOSTLY_{level.name}", f"ALL_{level.name}")


def test_amalia_at_q4_k_m_takes_more_bits_in_these_layers() -> None:
    more = [i for i in range(42) if block_of("Q4_K_M", f"blk.{i}.ffn_down.weight", layer=i) == "Q6_K"]
    assert more == [0, 1, 2, 3, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, 36, 37, 38, 39, 40, 41]


@pytest.mark.parametrize(
    ("level", "columns", "block"),
    [("Q4_K_M", 256, "Q4_K"), ("Q4_K_M", 96, "Q5_0"), ("Q5_K_S", 96, "Q5_1"), ("Q6_K", 96, "Q8_0"),
     ("Q3_K_S", 96, "Q4_0"), ("IQ4_XS", 96, "IQ4_NL"), ("Q4_K_M", 80, "F16"), ("Q8_0", 80, "F16"), ("BF16", 80, "BF16")],
)  # fmt: skip
def test_rows_that_are_not_whole_blocks_fall_back(level: str, columns: int, block: str) -> None:
    assert block_of(level, "blk.5.ffn_up.weight", columns) == block


def test_norms_and_biases_stay_f32() -> None:
    assert block_of("Q4_K_M", "blk.0.attn_norm.weight") == "F32"
    assert choose_block(LEVELS["F16"], "blk.0.attn_q.bias", (64,), Place(0, 2, 1), tied=False) is BlockType.F32


def test_a_tied_embedding_is_kept_as_the_output_would_be() -> None:
    place = Place(-1, 2, 1)
    chosen = [choose_block(LEVELS["Q4_0"], "token_embd.weight", (9, 256), place, tied=tied) for tied in (False, True)]
    assert chosen == [BlockType.Q4_0, BlockType.Q6_K]


def test_value_heads_of_a_70b_take_more_bits() -> None:
    assert block_of("Q4_K_S", "blk.9.attn_v.weight", layer=9, layers=80, groups=8) == "Q5_K"
    assert block_of("Q4_K_S", "blk.9.attn_v.weight", layer=9, layers=80, groups=1) == "Q4_K"


def test_a_level_may_be_written_in_small_letters() -> None:
    assert find_level("q4_k_m").name == "Q4_K_M"


def test_an_unknown_level_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"Q5_K_X.*levels: F32, BF16, .*Q4_K_M"):
        find_level("Q5_K_X")
