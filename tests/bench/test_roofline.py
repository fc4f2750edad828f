"""Bytes a token needs."""

from dataclasses import replace

import pytest

from amalia_bench.roofline import bytes_per_token, cache_bytes, share, weights_read
from amalia_convert.shape import headers
from amalia_edge.gguf import Header, TensorInfo

from .conftest import header


def with_tensor(name: str, nbytes: int, **metadata: int) -> Header:
    found = header()
    more = {f"llama.{key}": value for key, value in metadata.items()}
    return replace(
        found,
        tensors=(*found.tensors, TensorInfo(name, (32, 50), "Q8_0", 0, nbytes)),
        metadata=found.metadata | more,
    )


def test_an_embedding_beside_an_output_is_only_looked_up() -> None:
    assert weights_read(header()) == 2000 + 4000


def test_a_tied_embedding_is_read_whole() -> None:
    found = header()
    tied = replace(found, tensors=tuple(tensor for tensor in found.tensors if tensor.name != "output.weight"))
    assert weights_read(tied) == 2000 + 4000


def test_of_the_experts_only_those_in_use_are_read() -> None:
    found = with_tensor("blk.0.ffn_up_exps.weight", 8000, expert_count=8, expert_used_count=2)
    assert weights_read(found) == 6000 + 2000


def test_what_all_experts_share_is_read_whole() -> None:
    found = with_tensor("blk.0.ffn_up_shexp.weight", 8000, expert_count=8, expert_used_count=2)
    assert weights_read(found) == 6000 + 8000


def test_an_embedding_for_each_layer_is_only_looked_up() -> None:
    assert weights_read(with_tensor("per_layer_token_embd.weight", 9999)) == 6000


def test_the_cache_is_read_at_the_middle_of_what_is_written() -> None:
    assert cache_bytes(header(), "f16", "q8_0") == 32 * 2 + 32 * 34 / 32
    assert bytes_per_token(header(), 100.5) == 6000 + int(100.5 * 128)


def test_amalias_cache_takes_172032_bytes_a_token() -> None:
    assert cache_bytes(headers("amalia-9b")["Q4_K_M"], "f16", "f16") == 172_032


def test_amalia_at_q4_k_m_reads_about_5_3_gigabytes_a_token() -> None:
    assert weights_read(headers("amalia-9b")["Q4_K_M"]) == pytest.approx(5.28e9, rel=0.01)


def test_a_share_of_one_is_the_whole_bandwidth() -> None:
    assert share(5_000_000_000, 4.0, 20.0) == 1
