"""`general.*` follows the conventions, from the model card first and the source's name where the card is silent."""

import json
from pathlib import Path

import pytest

from amalia_convert.card import LONGEST_CARD, describe_source
from amalia_convert.checkpoint import open_checkpoint
from amalia_convert.source import Source
from amalia_edge.errors import ModelCorrupt


def describe(folder: Path, name: str = "Azulejo-1M", **marks: bool | str) -> dict[str, object]:
    source = Source(name, folder, **marks)  # type: ignore[arg-type]
    entries = describe_source(source, open_checkpoint(folder), "llama", 9_152_319_488)
    return {key.removeprefix("general."): value.content for key, value in entries.items()}


def test_the_card_is_believed(checkpoint: Path) -> None:
    entries = describe(checkpoint)
    assert entries["name"] == "Azulejo" and entries["license"] == "apache-2.0"
    assert entries["version"] == "1.0"  # a number in YAML; gguf's own converter stumbles over it


def test_a_regional_language_becomes_a_tag(checkpoint: Path) -> None:
    entries = describe(checkpoint)
    assert entries["languages"] == ("pt",) and entries["tags"] == ("toy", "pt-PT")


def test_amalia_is_recognised_by_its_name(checkpoint: Path) -> None:
    (checkpoint / "README.md").unlink()
    entries = describe(checkpoint, "AMALIA-9B-0626-DPO", repository="amalia-llm/AMALIA-9B-0626-DPO")
    assert entries["name"] == "AMALIA 9B 0626 DPO" and entries["basename"] == "AMALIA"
    assert (entries["size_label"], entries["finetune"], entries["version"]) == ("9B", "DPO", "0626")
    assert entries["source.repo_url"] == "https://huggingface.co/amalia-llm/AMALIA-9B-0626-DPO"


@pytest.mark.parametrize(("told", "expected"), [
    ({"repetition_penalty": 1.5}, 1.5), ({"repetition_penalty": 1.5, "penalty_repeat": 1.25}, 1.25), ({}, None),
])  # fmt: skip
def test_transformers_repetition_penalty_is_kept(
    checkpoint: Path, told: dict[str, float], expected: float | None
) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps(told), "utf-8")
    assert describe(checkpoint).get("sampling.penalty_repeat") == expected


def test_the_embedded_checkpoint_is_called_fadinho(checkpoint: Path) -> None:
    entries = describe(checkpoint, "fadinho", embedded=True)
    assert entries["name"] == entries["basename"] == "fadinho"


@pytest.mark.parametrize("text", ["---\na: [\n---\n", "---\nlicense: !!python/object:os.system {}\n---\n"])
def test_a_card_that_cannot_be_read_is_named(checkpoint: Path, text: str) -> None:
    (checkpoint / "README.md").write_text(text, "utf-8")
    with pytest.raises(ModelCorrupt, match=r"README\.md"):
        describe(checkpoint)


def explosion(levels: int) -> str:
    """Write lists of lists of lists: a few hundred bytes that stand for 9 to the power of `levels`."""
    lists = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(["---", "a0: &a0 [x]", *lists, f"tags: *a{levels - 1}", "---", ""])


def test_aliases_are_not_followed(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text(explosion(3), "utf-8")
    with pytest.raises(ModelCorrupt, match=r"README\.md: a YAML alias \(\*a0\)"):
        describe(checkpoint)


@pytest.mark.parametrize("text", ["license: '*mit*'", "tags: [a & b, 'x * y']", "name: &a Azulejo", "- no\t"])
def test_stars_that_are_no_aliases_are_text(checkpoint: Path, text: str) -> None:
    (checkpoint / "README.md").write_text(f"---\n{text}\n---\n*emphasis* and - *a list*\n", "utf-8")
    assert describe(checkpoint)["name"]


def test_long_front_matter_is_not_parsed(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text("---\ntags:\n" + "- x\n" * (LONGEST_CARD // 4), "utf-8")
    with pytest.raises(ModelCorrupt, match=r"README\.md: 30\d+ characters between the --- lines; 300000 are read"):
        describe(checkpoint)


def test_the_text_below_the_front_matter_may_be_long(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text("---\nname: Azulejo\n---\n" + "x\n" * LONGEST_CARD, "utf-8")
    assert describe(checkpoint)["name"] == "Azulejo"


@pytest.mark.parametrize("nest", ["a: " + "[" * 5000, "- " * 5000, "? " * 5000])
def test_deep_front_matter_is_refused(checkpoint: Path, nest: str) -> None:
    (checkpoint / "README.md").write_text(f"---\n{nest}\n---\n", "utf-8")
    with pytest.raises(ModelCorrupt, match="more than 32 lists or tables"):
        describe(checkpoint)


@pytest.mark.parametrize(
    "text", ["", "no front matter", "---\n- a\n- b\n---\n", "---\nlanguage: {a: 1}\ntags: 3\n---\n"]
)
def test_an_odd_card_is_borne(checkpoint: Path, text: str) -> None:
    (checkpoint / "README.md").write_text(text, "utf-8")
    assert describe(checkpoint)["name"]
