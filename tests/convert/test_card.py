"""`general.*` follows the conventions, from the model card first and the source's name where the card is silent."""

from pathlib import Path

import pytest

from amalia_convert.card import describe_source
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


def test_the_embedded_checkpoint_is_called_fadinho(checkpoint: Path) -> None:
    entries = describe(checkpoint, "fadinho", embedded=True)
    assert entries["name"] == entries["basename"] == "fadinho"


@pytest.mark.parametrize("text", ["---\na: [\n---\n", "---\nlicense: !!python/object:os.system {}\n---\n"])
def test_a_card_that_cannot_be_read_is_named(checkpoint: Path, text: str) -> None:
    (checkpoint / "README.md").write_text(text, "utf-8")
    with pytest.raises(ModelCorrupt, match=r"README\.md"):
        describe(checkpoint)


@pytest.mark.parametrize(
    "text", ["", "no front matter", "---\n- a\n- b\n---\n", "---\nlanguage: {a: 1}\ntags: 3\n---\n"]
)
def test_an_odd_card_is_borne(checkpoint: Path, text: str) -> None:
    (checkpoint / "README.md").write_text(text, "utf-8")
    assert describe(checkpoint)["name"]
