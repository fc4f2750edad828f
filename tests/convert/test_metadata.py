"""A value carries the type it is written as."""

from amalia_convert.metadata import boolean, float32, int32, string, uint32


def test_each_kind_is_said_once() -> None:
    made = [uint32(1), int32(-1), float32(0.5), boolean(True), string("á")]
    assert [value.kind for value in made] == ["uint32", "int32", "float32", "bool", "string"]
