"""Every failure has a line for people, a slug for machines and an exit code for shells."""

import pytest

from amalia_edge import errors
from amalia_edge.errors import AmaliaError, DoesNotFit, ModelCorrupt


def test_an_error_reads_where_found_and_what_would_do() -> None:
    error = ModelCorrupt("a.gguf: byte 4182", "wanted 91 more, 12 left", "download it again")
    assert str(error) == "a.gguf: byte 4182: wanted 91 more, 12 left; download it again"


def test_an_error_is_one_line_whatever_a_file_calls_its_tensors() -> None:
    assert "\n" not in str(ModelCorrupt("a\nb", "\x1b[2J", "c\r\nd")) and "\x1b" not in str(
        ModelCorrupt("a", "\x1b[2J")
    )


def test_the_slug_is_the_name_in_small_letters_with_hyphens() -> None:
    assert DoesNotFit("x", "y").code == "does-not-fit"


@pytest.mark.parametrize(("name", "exit_code"), [
    ("UsageError", 2), ("ModelNotFound", 3), ("ModelUntrusted", 3), ("ContextFull", 4), ("LibraryMissing", 5),
    ("Unquantizable", 6), ("HubError", 7), ("NotComparable", 8), ("DoesNotFit", 9), ("BundleError", 10),
])  # fmt: skip
def test_the_exit_codes_are_the_documented_ones(name: str, exit_code: int) -> None:
    assert getattr(errors, name).exit_code == exit_code


def test_the_docstring_draws_every_error() -> None:
    names = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, AmaliaError)]
    assert errors.__doc__ and all(name in errors.__doc__ for name in names)
