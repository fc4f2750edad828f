"""Profiles of use: where they are found, what they may say, and one clear line for each way to be wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalia_edge.errors import UsageError
from amalia_edge.profile import Folder, find_profile, list_profiles, profile_folders, read_profile
from amalia_edge.schema import JsonSchema

BUILT_IN = profile_folders()[-1]


def written(folder: Path, text: str | bytes, name: str = "um.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_profile(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["museu", "escola", "balcao", "campo", "campo-ficha"])
def test_a_built_in_profile_has_a_short_system_prompt_and_sampling(name: str) -> None:
    profile = read_profile(find_profile(name, [BUILT_IN]))
    assert profile.description and profile.system is not None and profile.sampling
    assert len(profile.system.split()) <= 200


def test_only_the_form_has_a_schema_and_it_asks_for_all_its_parts() -> None:
    schemas = {name: read_profile(path).schema for name, (_, path) in list_profiles([BUILT_IN]).items()}
    form = schemas.pop("campo-ficha")
    assert form is not None and set(form["required"]) == set(form["properties"])
    assert JsonSchema(dict(form))  # one that answers can be held to
    assert set(schemas.values()) == {None}


def test_the_users_profile_goes_before_the_machines_and_both_before_the_built_in(tmp_path: Path) -> None:
    mine, ours = Folder("yours", tmp_path / "mine"), Folder("this machine's", tmp_path / "etc")
    folders = [mine, ours, BUILT_IN]
    assert find_profile("museu", folders).parent == BUILT_IN.path
    written(ours.path, "format = 1", "museu.toml")
    assert find_profile("museu", folders).parent == ours.path
    written(mine.path, "format = 1", "museu.toml")
    assert list_profiles(folders)["museu"] == ("yours", mine.path / "museu.toml")


def test_the_users_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert profile_folders()[0].path == tmp_path / "amalia" / "profiles"


@pytest.mark.parametrize("name", ["../segredo", "a/b", "..", "", "/etc/passwd", "Museu", "a\0b", ".museu", "m" * 65])
def test_a_name_never_leads_out_of_the_folders(name: str, tmp_path: Path) -> None:
    written(tmp_path, "format = 1", "segredo.toml")
    with pytest.raises(UsageError, match="not a profile's name"):
        find_profile(name, [Folder("yours", tmp_path / "profiles")])


def test_a_path_that_ends_in_toml_is_a_file() -> None:
    assert find_profile("./perto/um.toml") == Path("perto/um.toml")


def test_a_misspelt_name_is_guessed() -> None:
    with pytest.raises(UsageError, match="did you mean museu"):
        find_profile("museo", [BUILT_IN])


def test_all_a_profile_may_say_is_read(tmp_path: Path) -> None:
    text = """
format = 1
description = "um"
system = "És um teste.\\n"
context = 512
schema = '{"type": "object"}'
[sampling]
temperature = 0
top_k = 7
limit = 32
"""
    profile = read_profile(written(tmp_path, text))
    assert (profile.name, profile.description, profile.system, profile.context) == ("um", "um", "És um teste.", 512)
    assert profile.sampling == {"temperature": 0, "top_k": 7, "limit": 32}
    assert profile.schema == {"type": "object"}


def test_a_schema_may_be_a_table(tmp_path: Path) -> None:
    profile = read_profile(
        written(tmp_path, 'format = 1\n[schema]\ntype = "object"\n[schema.properties.a]\nconst = 1\n')
    )
    assert profile.schema == {"type": "object", "properties": {"a": {"const": 1}}}


def test_tables_of_later_versions_are_left_alone_and_told(tmp_path: Path) -> None:
    profile = read_profile(written(tmp_path, "format = 1\n[knowledge]\nfolder = 'x'\nany = [1]\n[page]\n"))
    assert profile.reserved == ("knowledge", "page")


def test_an_editors_byte_order_mark_and_line_ends_are_no_matter(tmp_path: Path) -> None:
    assert read_profile(written(tmp_path, b"\xef\xbb\xbfformat = 1\r\ncontext = 64\r\n")).context == 64


@pytest.mark.parametrize("text, said", [
    ("", "no format; begin it with: format = 1"),
    ("format = 2\nnovo = 1", "format 2, and this version reads 1; take a newer amalia"),
    ("format = 0", "write format = 1"),
    ("format = '1'", "format is '1'; it must be a whole number"),
    ("format = true", "format is True; it must be a whole number"),
    ("format = 1\nsistem = 'x'", "unknown key 'sistem'; did you mean system?"),
    ("format = 1\nzzz = 'x'", "known are format, description"),
    ("format = 1\nsystem = 3", "system is 3; it must be a text"),
    ("format = 1\ncontext = '4k'", "context is '4k'; it must be a whole number"),
    ("format = 1\ncontext = 0", "context: 0; give a number above zero"),
    ("format = 1\nsampling = 1", "sampling is 1; it must be a table"),
    ("format = 1\nknowledge = 1", "knowledge is 1; it must be a table"),
    ("format = 1\n[sampling]\ntemperatura = 1", "unknown key 'temperatura' in [sampling]; did you mean temperature?"),
    ("format = 1\n[sampling]\ntemperature = 'x'", "sampling.temperature is 'x'; it must be a number"),
    ("format = 1\n[sampling]\ntemperature = true", "sampling.temperature is True; it must be a number"),
    ("format = 1\n[sampling]\ntemperature = nan", "temperature: nan is out of range"),
    ("format = 1\n[sampling]\ntop_k = 1.5", "sampling.top_k is 1.5; it must be a whole number"),
    ("format = 1\n[sampling]\ntop_p = 7", "top_p: 7 is out of range"),
    ("format = 1\n[sampling]\nignore_end = true", "unknown key 'ignore_end'"),
    ("format = 1\nschema = '['", "it must be a JSON schema"),
    ("format = 1\nschema = '[]'", "it must be a JSON object"),
    ("format = 1\n[schema]\nconst = 2026-11-21", "it must be a JSON schema"),
    ("format = ", "Invalid value"),
    ("format = 1\nformat = 1", "Cannot overwrite"),
    ("format = " + "9" * 5000, "digits"),
    ("format = 1\nx = " + "[" * 20_000, "nested too deep"),
    (b"format = 1\n# n\xe3o", "byte 14 is not UTF-8"),
    (b"format = 1\n#" + b"a" * (64 << 10), "more than 65,536 bytes"),
])  # fmt: skip
def test_what_is_wrong_is_named(text: str | bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal(written(tmp_path, text))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nada.toml")
    assert "not a plain file" in refusal(tmp_path)
    assert "not a plain file" in refusal(Path("/dev/zero"))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_get_past_but_as_a_profile_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = written(tmp_path_factory.getbasetemp() / "any", b"format = 1\n" + raw)
    try:
        read_profile(path)
    except UsageError as refused:
        assert "\n" not in str(refused)


@pytest.mark.parametrize(("line", "said"), [
    ("context = 0x" + "f" * 9000, "a number beyond 64 bits"),
    ("page = {a = [0x" + "f" * 9000 + "]}", "a number beyond 64 bits"),
    ("[sampling]\ndry_breakers = []", r"write \['none'\]"),
    ("schema = '{\"minLenght\": 3}'", "um.toml: schema: the keyword 'minLenght'"),
])  # fmt: skip
def test_what_would_fail_later_is_refused_by_the_profiles_name(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_profile(written(tmp_path, f"format = 1\n{line}"))
