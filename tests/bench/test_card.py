"""The model card."""

import dataclasses
import re

import pytest
import yaml

from amalia_bench.card import Provenance, missing, model_card, recommended
from amalia_bench.choices import choices
from amalia_edge.errors import BenchError
from bench.example_records import everything, identity, quality_body, row, speed_body

ROWS = everything()
WHOLE = Provenance("apache-2.0", "amalia-llm/AMALIA-9B-0626-DPO", "somebody/AMALIA-GGUF", "a text")


def front(card: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(card.split("---")[1])
    return found


def lines_of(card: str) -> list[list[str]]:
    """Give the cells of the table of files."""
    rows = [line for line in card.partition("## Which file")[2].splitlines() if line.startswith("| Toy")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


def test_the_front_matter_is_yaml_with_licence_base_and_language() -> None:
    told = front(model_card(ROWS, WHOLE))
    assert (told["license"], told["base_model"], told["language"]) == (
        "apache-2.0",
        "amalia-llm/AMALIA-9B-0626-DPO",
        ["pt"],
    )
    assert "gguf" in told["tags"]  # type: ignore[operator]


def test_a_hostile_licence_stays_one_value() -> None:
    assert front(model_card(ROWS, Provenance('x"\ntags: [a]')))["license"] == 'x"\ntags: [a]'


def test_what_was_not_told_is_left_out_and_named() -> None:
    assert "license" not in front(model_card(ROWS, Provenance()))
    assert missing(Provenance()) == ["--license", "--base-model", "--repository"]


def test_every_file_has_a_line_with_size_loss_and_speed() -> None:
    line = next(one for one in lines_of(model_card(ROWS, WHOLE)) if one[0] == "Toy-9B-Q4_K_M.gguf")
    assert line[1:7] == [
        "5.61 GB",
        "0.0313 [0.0304, 0.0322]",
        "93.8 %",
        "+3.44 % [+3.35, +3.54]",
        "+2.41 % [+2.34, +2.48]",
        "18.42 ± 0.19",
    ]


def test_the_smallest_file_with_a_small_loss_is_where_to_start() -> None:
    best = recommended([one for one in choices(ROWS) if one.quality])
    assert best is not None and best.level == "Q4_K_M"
    assert [one[-1] for one in lines_of(model_card(ROWS, WHOLE))].count(
        "start here: the smallest file with a small loss"
    ) == 1


def test_a_file_that_another_beats_in_both_says_so() -> None:
    rows = [
        row("quality", quality_body(kld), level) for level, kld in (("Q4_0", 0.2), ("Q3_K_M", 0.1), ("Q8_0", 0.001))
    ]
    assert "Q3_K_M is no larger and loses less" in [one[-1] for one in lines_of(model_card(rows, WHOLE))]


def test_without_speeds_there_is_no_column_for_them() -> None:
    assert "tokens/s |" not in model_card([row("quality", quality_body())], WHOLE)


def test_the_card_names_machine_texts_and_hashes() -> None:
    card = model_card(ROWS, WHOLE)
    assert "A CPU @ 2.0 GHz, 2 cores, 16.00 GB; llama-cpp-python 0.3.36 built by zig 0.16.0" in card
    assert "pt-PT (`70742d505400`, context 512, 10240 tokens)" in card
    assert identity("Q4_K_M").sha256 in card


def test_fadinhos_card_says_what_its_figures_are_for() -> None:
    assert "nothing about AMÁLIA's quality" in model_card([row("quality", quality_body(), name="fadinho")], WHOLE)


def test_two_models_need_a_name() -> None:
    rows = [row("speed", speed_body(), name=name) for name in ("A", "B")]
    with pytest.raises(BenchError, match="name one with --model: A, B"):
        model_card(rows, WHOLE)
    assert "# B, quantized" in model_card(rows, WHOLE, "B")


def test_records_of_no_file_are_refused() -> None:
    with pytest.raises(BenchError, match="no file was measured"):
        model_card([row("bandwidth", {"threads": 2, "read_gbps": 28.0}, None)], WHOLE)


def commands(card: str) -> list[str]:
    return [line for block in re.findall(r"```\n(.*?)```", card, re.DOTALL) for line in block.splitlines()]


def test_the_commands_are_those_a_reader_of_the_hub_can_type() -> None:
    name = "somebody/AMALIA-GGUF:Q4_K_M"
    assert commands(model_card(ROWS, WHOLE)) == [
        f'llama-cli -hf {name} -p "Explica o que é a maré."',
        f"amalia pull {name}",
        f"amalia doctor {name}   # whether it fits this machine",
        f'amalia run {name} "Explica o que é a maré."',
    ]


def test_without_a_repository_the_commands_name_the_file() -> None:
    found = commands(model_card(ROWS, Provenance()))
    assert found[0].startswith("llama-cli -m Toy-9B-Q4_K_M.gguf -p") and "amalia pull" not in " ".join(found)
    assert found[-1].startswith("amalia run Toy-9B-Q4_K_M.gguf ")


def test_the_card_promises_no_release_and_no_file_that_a_reader_lacks() -> None:
    card = model_card(ROWS, WHOLE)
    assert "pip install" not in card and "FILE" not in card and "`make setup`" in card


def test_only_bases_and_texts_of_the_losses_shown_are_named() -> None:
    base = dataclasses.asdict(identity("Q8_0"))
    other = row("quality", quality_body(0.5, base=base, against="Q8_0", quick=True, context=2048))
    card = model_card([*ROWS, other], WHOLE)
    assert "Loss is measured against BF16;" in card
    assert "--quick" not in card and "context 2048" not in card
