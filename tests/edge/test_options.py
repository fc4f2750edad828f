"""What the shared options become: each a field of a config, refused by name when it makes no sense."""

import math
from pathlib import Path
from typing import Any

import click
import pytest

from amalia_edge.adapter import Adapter
from amalia_edge.cli.options import LOADING, PARALLEL, SAMPLING, Command, sampling_for, with_options
from amalia_edge.errors import UsageError
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.schema import JsonSchema, Regex

GRAMMARS = {"json_schema", "json_schema_file", "regex"}


@click.command(cls=Command)
@with_options(*LOADING, PARALLEL, *SAMPLING)
def command(**settings: Any) -> dict[str, Any]:
    return settings


def settings(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = command.main(list(words), standalone_mode=False)
    return found


def sampling(model: Model, *words: str) -> SamplingConfig:
    return sampling_for(model, settings(*words))


def test_every_option_is_a_field_of_a_config() -> None:
    fields = {*LoadConfig.__dataclass_fields__, *SamplingConfig.__dataclass_fields__}
    assert {str(option.name) for option in command.params} - fields == GRAMMARS


def test_nothing_asked_is_what_the_model_recommends(model: Model) -> None:
    assert sampling(model) == model.sampling


@pytest.mark.parametrize(("words", "name", "value"), [
    (["--repeat-penalty", "1.2"], "repeat_penalty", 1.2),
    (["--repeat-last-n", "0"], "repeat_last", 0),
    (["--presence-penalty", "0.5"], "presence_penalty", 0.5),
    (["--frequency-penalty", "-0.5"], "frequency_penalty", -0.5),
    (["--dry-multiplier", "0.8"], "dry_multiplier", 0.8),
    (["--dry-base", "2"], "dry_base", 2),
    (["--dry-allowed-length", "3"], "dry_allowed_length", 3),
    (["--dry-penalty-last-n", "128"], "dry_last", 128),
    (["--dry-sequence-breaker", r"\n", "--dry-sequence-breaker", ";"], "dry_breakers", ("\n", ";")),
    (["--dry-sequence-breaker", "none"], "dry_breakers", ()),
    (["-l", "5+1", "--logit-bias", "7-2.5", "-l", "9-inf"], "logit_bias", ((5, 1), (7, -2.5), (9, -math.inf))),
    (["-r", r"\nUser:", "--stop", r"a\\n", "--reverse-prompt", r"\d"], "stop", ("\nUser:", r"a\n", r"\d")),
    (["--time-limit", "2.5"], "deadline_s", 2.5),
    (["--overflow", "shift"], "overflow", "shift"),
    (["--keep", "-1"], "keep", -1),
    (["-n", "-1"], "limit", None),
    (["--seed", "-1"], "seed", None),
    (["--temp", "0"], "temperature", 0),
    (["--regex", "a+"], "grammar", Regex("a+")),
    (["-j", "{}"], "grammar", JsonSchema("{}")),
])  # fmt: skip
def test_an_option_sets_its_field(model: Model, words: list[str], name: str, value: Any) -> None:
    assert getattr(sampling(model, *words), name) == value


def test_a_schema_comes_from_a_file(model: Model, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "integer"}')
    found = sampling(model, "-jf", str(tmp_path / "schema.json"))
    assert found.grammar == JsonSchema('{"type": "integer"}')


@pytest.mark.parametrize("words", [
    ["-l", "5"], ["-l", "+1"], ["-l", "5+x"], ["-l", "-5+1"], ["-l", "5+inf"], ["-l", "5+nan"], ["--stop", ""],
    ["--time-limit", "-1"], ["--top-p", "nan"], ["-j", "{}", "--regex", "a"], ["-jf", "none/such.json"],
])  # fmt: skip
def test_what_makes_no_sense_is_refused(model: Model, words: list[str]) -> None:
    with pytest.raises(UsageError):
        sampling(model, *words)


def test_adapters_are_files_with_their_scales() -> None:
    found = settings("--lora", "a.gguf", "--lora", "b.gguf:0.5")["adapters"]
    assert found == (Adapter(Path("a.gguf")), Adapter(Path("b.gguf"), 0.5))


@pytest.mark.parametrize(("word", "layers"), [("auto", -1), ("all", 999), ("ALL", 999), ("-1", -1), ("7", 7)])
def test_layers_may_be_told_in_llama_cpp_s_words(word: str, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings("-ngl", word)["gpu_layers"] == layers
    monkeypatch.setenv("LLAMA_ARG_N_GPU_LAYERS", word)
    assert settings()["gpu_layers"] == layers


def test_what_does_not_fit_may_be_loaded_all_the_same() -> None:
    assert settings("--no-plan")["forced"] and not settings()["forced"]


def test_options_are_listed_by_their_headings() -> None:
    text = command.get_help(click.Context(command))
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options:", "Loading:", "Sampling:", "Constraints:", "Limits:"]


@pytest.mark.parametrize("words", [("-j", ""), ("--regex", ""), ("-jf", "/dev/zero"), ("-jf", "")])
def test_a_constraint_that_is_none_is_refused(model: Model, words: tuple[str, str]) -> None:
    with pytest.raises(UsageError):
        sampling(model, *words)
