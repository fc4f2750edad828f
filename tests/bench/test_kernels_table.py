"""Kernels' figures as a person reads them."""

import io
from dataclasses import replace

from rich.console import Console

from amalia_bench.kernels import Kernel, Limits
from amalia_bench.kernels_table import advice, table
from amalia_bench.machine import Machine

VECTOR = Kernel(
    device="CPU",
    buffer="AMX",
    type="Q4_K",
    operation="mat_vec",
    rows=1024,
    columns=4096,
    batch=1,
    ns=100_000.0,
    samples_ns=(90_000.0, 100_000.0, 110_000.0),
    gbps=24.0,
    gflops=83.9,
    bandwidth_share=0.8,
    peak_share=0.1,
    error=1e-5,
    error_limit=5e-4,
    matrices=("attn_k", "attn_v"),
    threads=2,
    working_set=2 << 30,
    read_gbps=30.0,
    peak_gflops=839.0,
    peak_type="BF16",
)
MATRIX = replace(VECTOR, operation="mat_mat", batch=512, gflops=1258.0, peak_share=1.5, ns=3_420_000.0)
LIMITS = Limits(30.0, 839.0, "BF16")


def shown(*kernels: Kernel, limits: Limits = LIMITS, machine: Machine) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table(kernels, limits, machine))
    return console.export_text()


def test_a_vector_is_held_against_memory_and_a_matrix_against_arithmetic(machine: Machine) -> None:
    lines = shown(VECTOR, MATRIX, machine=machine).splitlines()
    figures = [line.split() for line in lines if line.startswith("Q4_K ")]
    assert figures == [
        ["Q4_K", "attn_k", "1024×4096", "AMX", "100.0", "µs", "24", "80%", "1e-05"],
        ["Q4_K", "attn_k", "1024×4096", "AMX", "3.42", "ms", "1258", "150%", "1e-05"],
    ]


def test_the_machine_and_its_limits_stand_above(machine: Machine) -> None:
    text = shown(VECTOR, machine=machine)
    assert text.startswith("A CPU, 2 cores")
    assert "memory read at 30.0 GB/s, measured in the same run" in text
    assert "each matrix × vector reads 2.15 GB of copies before it reads one again" in text
    assert "best matrix × matrix with BF16 weights: 839 GFLOP/s" in text


def test_a_limit_that_was_not_found_is_not_shown(machine: Machine) -> None:
    text = shown(replace(VECTOR, bandwidth_share=None), limits=Limits(), machine=machine)
    assert "read at" not in text
    assert "None" not in text


def test_a_wrong_result_is_marked(machine: Machine) -> None:
    assert "7e-01 WRONG" in shown(replace(VECTOR, error=0.7), machine=machine)


def test_nothing_measured_is_said(machine: Machine) -> None:
    assert "Nothing was measured" in shown(machine=machine)


def test_where_memory_is_the_limit_only_a_smaller_level_helps() -> None:
    assert "Memory is the limit (Q8_0 reads at 95% of its rate)" in advice(
        [VECTOR, replace(VECTOR, type="Q8_0", bandwidth_share=0.95)]
    )


def test_the_slowest_type_is_named_with_a_better_one() -> None:
    text = advice([replace(VECTOR, bandwidth_share=0.4), replace(VECTOR, type="Q8_0", bandwidth_share=0.95)])
    assert text.startswith("Q4_K reads at only 40% of memory's rate")
    assert text.endswith("or choose Q8_0 (95%).")


def test_a_slow_type_alone_is_not_advised_against_itself() -> None:
    assert advice([replace(VECTOR, bandwidth_share=0.4)]).endswith("ask amalia doctor about the build.")


def test_a_wrong_result_comes_before_all_advice() -> None:
    text = advice([VECTOR, replace(VECTOR, type="Q6_K", error=float("nan"))])
    assert text.startswith("Wrong results from Q6_K mat_vec (AMX): run amalia setup --rebuild")


def test_without_vectors_the_best_reader_of_prompts_is_named() -> None:
    assert "Q8_0 reads prompts fastest, 2000 GFLOP/s" in advice([MATRIX, replace(MATRIX, type="Q8_0", gflops=2000.0)])
