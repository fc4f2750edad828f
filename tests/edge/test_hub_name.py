"""The ways people write a model on the Hub."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from amalia_edge.hub import Repository
from amalia_edge.hub_name import HubName, parse_name


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.mark.parametrize(("text", "name"), [
    ("user/repo", HubName("user/repo")),
    ("user/repo:q4_k_m", HubName("user/repo", level="Q4_K_M")),
    ("user/repo:latest", HubName("user/repo")),
    ("user/repo:fp16", HubName("user/repo", level="F16")),
    ("user/repo@v1.0:Q8_0", HubName("user/repo", "v1.0", "Q8_0")),
    ("user/repo@refs/pr/1", HubName("user/repo", "refs/pr/1")),
    ("user/repo:m-Q4_K_M.gguf", HubName("user/repo", file="m-Q4_K_M.gguf")),
    ("user/repo:Q8_0/m.gguf", HubName("user/repo", file="Q8_0/m.gguf")),
    ("hf.co/user/repo:Q4_K_M", HubName("user/repo", level="Q4_K_M")),
    ("huggingface.co/user/repo", HubName("user/repo")),
    ("hf.co/user/repo/m.gguf", HubName("user/repo", file="m.gguf")),
    ("https://huggingface.co/user/repo", HubName("user/repo")),
    ("https://huggingface.co/user/repo/", HubName("user/repo")),
    ("https://hf.co/user/repo:Q8_0", HubName("user/repo", level="Q8_0")),
    ("https://huggingface.co/user/repo/tree/main", HubName("user/repo", "main")),
    ("https://huggingface.co/user/repo/tree/main/Q8_0", HubName("user/repo", "main")),
    ("https://huggingface.co/user/repo/blob/main/Q8_0/m.gguf", HubName("user/repo", "main", file="Q8_0/m.gguf")),
    ("https://huggingface.co/user/repo/resolve/refs%2Fpr%2F1/m.gguf?download=true#x",
     HubName("user/repo", "refs/pr/1", file="m.gguf")),
    (" user/repo\n", HubName("user/repo")),
])  # fmt: skip
def test_a_name_is_understood(text: str, name: HubName) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize("text", [
    "repo", "user/repo/more", "./user/repo", "/user/repo", "~/repo", "../repo", "user/m.gguf", "models/Q8_0/m.gguf", "",
    "https://example.org/user/repo", "ftp://hf.co/user/repo", "https://huggingface.co/user",
    "https://huggingface.co/datasets/user/repo", "https://huggingface.co/user/repo/discussions/1", "user/ré", "a b/c",
    "user/repo:", "user/repo@",
])  # fmt: skip
def test_what_is_no_name_on_the_hub_is_left_alone(text: str) -> None:
    assert parse_name(text) is None


def test_the_hubs_own_address_may_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:8080")
    assert parse_name("http://127.0.0.1:8080/user/repo:q8_0") == HubName("user/repo", level="Q8_0")


@pytest.mark.parametrize("text", ["user/repo", "user/repo:Q8_0", "user/repo@v1:Q8_0", "user/repo:Q8_0/m.gguf"])
def test_a_name_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_name(text)) == text


@given(some.lists(some.sampled_from(["user", "repo", "m.gguf", "hf.co", "https:", "main", "tree", "..", "%2F", "%00", "é", "Q8_0",
                                 "/", "/", "/", "//", ":", "@", "?", "#", " ", "--"]), max_size=14))  # fmt: skip
def test_whatever_is_typed_is_a_name_or_none(pieces: list[str]) -> None:
    found = parse_name("".join(pieces))
    if found and "--" not in found.repository and ".." not in found.repository:  # which the Hub's gate refuses
        assert Repository(found.repository, "0" * 40, {}).name == found.repository
