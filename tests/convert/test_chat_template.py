"""Chat templates lie in files of a few names, and are found in all of them."""

from pathlib import Path

import pytest

from amalia_convert.chat_template import MOST_TEMPLATES, describe_templates, find_templates, is_template
from amalia_edge.errors import ModelCorrupt


def entries(folder: Path, config: dict[str, object] | None = None) -> dict[str, object]:
    found = describe_templates(folder, config or {})
    return {key.removeprefix("tokenizer."): value.content for key, value in found.items()}


def add(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chat_template.jinja", True),
        ("chat_template.json", True),
        ("additional_chat_templates/tool_use.jinja", True),
        ("additional_chat_templates/deeper/tool_use.jinja", False),
        ("additional_chat_templates/tool_use.txt", False),
        ("additional_chat_templates/", False),
        ("original/chat_template.jinja", False),
        ("chat_template.jinja.bak", False),
        ("tool_use.jinja", False),
    ],
)
def test_a_template_file_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_template(name) is expected


def test_every_file_that_is_read_is_a_template_file(tmp_path: Path) -> None:
    add(tmp_path, "chat_template.jinja", "default")
    add(tmp_path, "additional_chat_templates/tool_use.jinja", "tools")
    add(tmp_path, "additional_chat_templates/notes.txt", "no template")
    (tmp_path / "additional_chat_templates" / "folder.jinja").mkdir()
    assert entries(tmp_path) == {
        "chat_template.tool_use": "tools",
        "chat_templates": ("tool_use",),
        "chat_template": "default",
    }


def test_the_old_json_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    add(tmp_path, "chat_template.json", '{"chat_template": "old"}')
    assert entries(tmp_path) == {"chat_template": "old"}
    assert entries(tmp_path, {"chat_template": "own"}) == {"chat_template": "own"}


def test_as_many_templates_as_are_taken_are_found() -> None:
    names = [f"additional_chat_templates/{n:02}.jinja" for n in range(MOST_TEMPLATES)]
    assert find_templates(["config.json", "chat_template.jinja", *names]) == [*names, "chat_template.jinja"]


def test_too_many_template_files_are_refused(tmp_path: Path) -> None:
    add(tmp_path, "chat_template.jinja", "default")
    for number in range(MOST_TEMPLATES + 1):
        add(tmp_path, f"additional_chat_templates/{number}.jinja", "more")
    with pytest.raises(ModelCorrupt, match="chat templates: 65 of them beside the default one, at most 64"):
        describe_templates(tmp_path, {})


def test_too_many_named_templates_are_refused(tmp_path: Path) -> None:
    named = [{"name": f"t{number}", "template": "x"} for number in range(MOST_TEMPLATES + 2)]
    with pytest.raises(ModelCorrupt, match="chat templates: 65 of them"):
        describe_templates(tmp_path, {"chat_template": named})
