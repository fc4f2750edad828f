"""Records laid out: which tables, whose machine, which words."""

from amalia_bench import tables
from amalia_bench.tables import Table
from bench.example_records import HERE, JETSON, energy_body, everything, quality_body, row, speed_body, variety_body

ROWS = everything()


def column(table: Table, heading: str) -> list[str]:
    return [line[table.headings.index(heading)] for line in table.lines]


def test_each_machine_has_a_table_of_its_own() -> None:
    found = tables.speed_tables([row("speed", speed_body()), row("speed", speed_body(), machine=JETSON)])
    assert [HERE.cpu in found[0].place, JETSON.board in found[1].place] == [True, True]


def test_every_table_of_figures_names_machine_and_library() -> None:
    made = (
        tables.speed_tables,
        tables.kernel_tables,
        tables.quality_tables,
        tables.variety_tables,
        tables.task_tables,
        tables.energy_tables,
        tables.shape_tables,
    )
    found = [table for make in made for table in make(ROWS)] + tables.choice_tables(ROWS, None)
    assert len(found) >= 12
    assert all("llama-cpp-python 0.3.36" in table.place and "cores" in table.place for table in found)


def test_portuguese_stands_beside_english() -> None:
    table = tables.quality_tables(ROWS)[0]
    at = table.headings.index("KLD pt-PT")
    assert table.headings[at + 1] == "KLD en"
    assert table.lines[3][at] == "0.0313 [0.0304, 0.0322]"


def test_perplexity_is_shown_as_its_change() -> None:
    assert column(tables.quality_tables(ROWS)[0], "perplexity pt-PT")[0].startswith("+0.12 % [")


def test_a_users_own_text_has_a_table() -> None:
    (table,) = tables.quality_tables([row("quality", quality_body(0.02, "guia.txt"))])
    assert table.headings == ("level", "guia.txt")


def test_a_quick_measurement_is_marked() -> None:
    (table,) = tables.quality_tables([row("quality", quality_body(quick=True))])
    assert "--quick" in table.note


def test_two_bases_share_no_table() -> None:
    rows = [row("quality", quality_body(), "Q4_0"), row("quality", quality_body(against="Q8_0"), "Q2_K")]
    assert [table.title for table in tables.quality_tables(rows)] == ["Toy 9B, against BF16", "Toy 9B, against Q8_0"]


def test_gradients_are_named_as_such() -> None:
    assert "null-subject (gradient)" in column(tables.variety_tables(ROWS)[0], "class")


def test_a_column_in_which_nothing_was_measured_is_absent() -> None:
    body = speed_body(first_token_s=None, roofline_share=None)
    assert not {"first token", "of the roofline"} & set(tables.speed_tables([row("speed", body)])[0].headings)


def test_the_base_has_no_drift() -> None:
    base = variety_body(against=None)
    base["overall"] |= {"delta_margin": None, "delta_margin_ci95": None}
    assert not any(
        "change of the margin" in table.title
        for table in tables.variety_tables([row("variety", base | {"classes": {}, "gradients": {}})])
    )


def test_a_machine_that_slowed_down_says_so() -> None:
    (table,) = tables.speed_tables([row("speed", speed_body(throttled=True, drift=0.8))])
    assert column(table, "steady") == ["throttled, last −20 %"]


def test_settings_that_differ_between_a_models_rows_are_shown_and_no_others() -> None:
    rows = [
        row("speed", speed_body()),
        row("speed", speed_body(large_pages=False)),
        row("speed", speed_body(type_k="q8_0")),
        row("speed", speed_body(n_batch=64), "Q8_0"),
    ]
    (table,) = tables.speed_tables(rows)
    assert column(table, "settings") == [
        "-ctk f16, --large-pages on",
        "-ctk f16, --large-pages off",
        "-ctk q8_0, --large-pages on",
        "",
    ]
    assert table.is_text(table.headings.index("settings"))


def test_settings_that_are_the_same_throughout_have_no_column() -> None:
    rows = [row("speed", speed_body()), row("speed", speed_body(220, 512, 0)), row("speed", speed_body(n_threads=1))]
    assert "settings" not in tables.speed_tables(rows)[0].headings


def test_a_shapes_rows_with_other_threads_are_told_apart() -> None:
    rows = [row("shape", speed_body(n_threads=count) | {"shape": "amalia-9b", "synthetic": True}) for count in (1, 2)]
    assert column(tables.shape_tables(rows)[0], "settings") == ["-t 1", "-t 2"]


def test_a_rate_beside_another_programs_has_their_ratio() -> None:
    other = {"name": "llama-bench 0c1e570", "program": "llama-bench", "ratio": 1.0251, "ratio_stddev": 0.0049}
    rows = [row("speed", speed_body(against=other | {"figure": "avg_ts"})), row("speed", speed_body(220, 512, 0))]
    (table,) = tables.speed_tables(rows)
    assert column(table, "of another program") == ["1.025 ± 0.005 × llama-bench 0c1e570 (decode)", "–"]
    assert "within each pair" in table.note
    (alone,) = tables.speed_tables(rows[1:])
    assert "of another program" not in alone.headings and "another program" not in alone.note


def test_random_weights_are_marked() -> None:
    found = tables.shape_tables(ROWS)
    assert column(found[0], "shape") == ["amalia-9b Q4_K_M (random weights)", "amalia-9b Q8_0 (random weights)"]


def test_a_prediction_is_marked_and_no_measurement() -> None:
    found = {table.title: table for table in tables.shape_tables(ROWS)}
    assert "Predicted, not measured" in found["Predictions"].note
    assert column(found["Predictions"], "tokens/s, predicted") == ["≈ 9.1"]
    assert len(found["Before the download"].lines) == 2


def test_alarms_are_named_with_or_without_their_time() -> None:
    rows = [
        row("energy", energy_body(alarms=[[3.5, "over-current"]])),
        row("energy", energy_body(alarms=["hot"]), "Q8_0"),
    ]
    assert column(tables.energy_tables(rows)[0], "alarms") == ["over-current", "hot"]


def test_values_that_are_no_numbers_leave_a_dash() -> None:
    (table,) = tables.speed_tables([row("speed", speed_body(avg_ts=float("nan")))])
    assert column(table, "tokens/s, decode") == ["–"] if "tokens/s, decode" in table.headings else True
