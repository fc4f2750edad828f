"""The pairs of this project, held to their own rules; and what a file of somebody's own is told when it breaks them."""

import re
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from amalia_bench.pairs import CLASSES, REGISTERS, Pair, hash_of, read_pairs
from amalia_edge.errors import BenchError

CATEGORICAL = ("lexicon", "clitics", "progressive", "object-pronouns", "treatment", "contractions", "spelling")
GRADIENT = ("null-subject", "demonstratives", "motion", "collocations")
PAIRS = read_pairs()
GOOD = {
    "id": "lexicon-001",
    "european": "O comboio para Braga chegou.",
    "brazilian": "O trem para Braga chegou.",
    "norm": "comboio / trem",
    "register": "neutral",
    "context": "",
}
OLD = re.compile(  # what Portugal wrote before the agreement, beside which the new form would be no Brazilian one
    r"(?i)\b(a[cç]ç|direcç|selecç|colecç|correcç|protecç|recepç|adopt|óptim|baptis|actu|acto[rs]?\b|directo|projecto|objecto|aspecto"
    r"|eléctri|electri|exact|arquitect|percepç|excepç|concepç|decepç)"
)


def words(text: str) -> list[str]:
    return re.findall(r"[\w-]+", text.lower())


def agreed(word: str) -> str:
    """Write a Brazilian word as it would be if only the agreement were between it and Portugal."""
    word = re.sub(r"[cp](?=[ctç])", "", word.replace("ü", "u"))
    return word.replace("éi", "ei").replace("ói", "oi").replace("ôo", "oo").replace("êe", "ee")


def changed(pair: Pair) -> Iterator[tuple[list[str], list[str]]]:
    european, brazilian = words(pair.european), words(pair.brazilian)
    for tag, a, b, c, d in SequenceMatcher(None, european, brazilian, autojunk=False).get_opcodes():
        if tag != "equal":
            yield european[a:b], brazilian[c:d]


def write(path: Path, head: str = 'class = "lexicon"\nstrength = "categorical"\n', *pairs: dict[str, str]) -> Path:
    body = "".join("[[pair]]\n" + "".join(f'{key} = "{value}"\n' for key, value in pair.items()) for pair in pairs)
    path.write_text(head + body, "utf-8")
    return path


@pytest.mark.parametrize("name", CATEGORICAL)
def test_a_categorical_class_has_a_hundred_pairs(name: str) -> None:
    assert sum(pair.group == name and pair.strength == "categorical" for pair in PAIRS) >= 100


def test_there_are_seven_hundred_categorical_pairs() -> None:
    assert sum(pair.strength == "categorical" for pair in PAIRS) >= 700


@pytest.mark.parametrize("name", GRADIENT)
def test_a_gradient_class_holds_gradients_alone(name: str) -> None:
    assert {pair.strength for pair in PAIRS if pair.group == name} == {"gradient"}


def test_every_class_is_tested() -> None:
    assert set(CLASSES) == {*CATEGORICAL, *GRADIENT}


def test_an_id_says_its_class() -> None:
    assert [pair.id for pair in PAIRS if not re.fullmatch(re.escape(pair.group) + r"-\d{3}", pair.id)] == []


def test_no_sentence_comes_twice() -> None:
    counts = Counter(wording for pair in PAIRS for wording in (pair.european, pair.brazilian))
    assert [wording for wording, count in counts.items() if count > 1] == []


def test_a_point_comes_at_most_three_times_in_the_lexicon_and_the_spellings() -> None:
    counts = Counter((pair.group, pair.norm) for pair in PAIRS if pair.group in ("lexicon", "spelling"))
    assert [point for point, count in counts.items() if count > 3] == []


def test_a_context_is_empty_or_a_whole_sentence() -> None:
    broken = [pair.id for pair in PAIRS if pair.context and not re.fullmatch(r"[A-ZÀ-Ý].*[.!?]", pair.context)]
    assert broken == []


def test_wordings_are_whole_sentences() -> None:
    both = [(pair.id, text) for pair in PAIRS for text in (pair.european, pair.brazilian)]
    assert [name for name, text in both if not re.fullmatch(r"[A-ZÀ-Ý].*[.!?]", text) or "  " in text] == []


def test_a_norm_names_both_sides() -> None:
    assert [pair.id for pair in PAIRS if " / " not in pair.norm] == []


def test_registers_are_known() -> None:
    assert {pair.register for pair in PAIRS} <= set(REGISTERS)


def test_two_wordings_are_about_as_long() -> None:
    far = [pair.id for pair in PAIRS if abs(len(words(pair.european)) - len(words(pair.brazilian))) > 3]
    assert far == []


def test_no_pair_shows_only_the_orthographic_agreement() -> None:
    """Receção and recepção would; facto and fato do not, for Portugal says the c."""
    only = [
        pair.id
        for pair in PAIRS
        if all(ours and [agreed(word) for word in theirs] == ours for ours, theirs in changed(pair))
    ]
    assert only == []


def test_nothing_is_written_as_before_the_agreement() -> None:
    assert [pair.id for pair in PAIRS if OLD.search(f"{pair.context} {pair.european}")] == []


@pytest.mark.parametrize(("ours", "theirs"), [("receção", "recepção"), ("ideia", "idéia"), ("linguiça", "lingüiça")])
def test_what_only_the_agreement_changed_is_recognised(ours: str, theirs: str) -> None:
    assert agreed(theirs) == ours


@pytest.mark.parametrize(("ours", "theirs"), [("facto", "fato"), ("académico", "acadêmico"), ("secção", "seção")])
def test_what_the_agreement_left_apart_is_not_taken_for_it(ours: str, theirs: str) -> None:
    assert agreed(theirs) != ours


def test_the_european_side_holds_no_word_that_other_pairs_call_brazilian() -> None:
    """A pair about clitics must not say ônibus on its European side."""
    brazilian = {
        theirs[0]
        for pair in PAIRS
        if pair.group in ("lexicon", "spelling") and pair.strength == "categorical"
        for ours, theirs in changed(pair)
        if len(ours) == len(theirs) == 1 and len(theirs[0]) > 3
    }
    homographs = {"carteira", "diretor", "jogar", "cara", "motorista", "fato", "preta"}  # Brazilian in one sense only
    found = [
        (pair.id, word)
        for pair in PAIRS
        for word in words(f"{pair.context} {pair.european}")
        if word in brazilian - homographs
    ]
    assert found == []


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    (pair,) = read_pairs(write(tmp_path / "own.toml", 'class = "lexicon"\nstrength = "gradient"\n', GOOD))
    assert (pair.group, pair.strength, pair.european) == ("lexicon", "gradient", GOOD["european"])


def test_a_pair_overrides_the_strength_of_its_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.toml", 'class = "lexicon"\nstrength = "categorical"\n', {**GOOD, "strength": "gradient"}
    )
    assert read_pairs(path)[0].strength == "gradient"


@pytest.mark.parametrize("key", ["id", "european", "brazilian", "norm", "register"])
def test_a_missing_key_is_named_with_its_file_and_pair(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "own.toml", 'class = "lexicon"\nstrength = "gradient"\n', {k: v for k, v in GOOD.items() if k != key})  # fmt: skip
    with pytest.raises(BenchError, match=rf"own.toml: (lexicon-001|pair 1): no {key}; add {key}"):
        read_pairs(path)


BAD = {
    "both wordings are the same": {"brazilian": GOOD["european"]},
    "register 'posh'; one of neutral": {"register": "posh"},
    "strength 'strong'; one of categorical": {"strength": "strong"},
    "an unknown key 'brasilian'": {"brasilian": "x"},
    "european is no text": {"european": "  "},
}


@pytest.mark.parametrize(("told", "change"), BAD.items(), ids=BAD)
def test_a_bad_pair_is_named_with_what_is_wrong(tmp_path: Path, told: str, change: dict[str, str]) -> None:
    path = write(tmp_path / "own.toml", 'class = "lexicon"\nstrength = "gradient"\n', {**GOOD, **change})
    with pytest.raises(BenchError, match=re.escape(f"own.toml: lexicon-001: {told}")):
        read_pairs(path)


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"own.toml: lexicon-001: class 'lexis'; one of lexicon"):
        read_pairs(write(tmp_path / "own.toml", 'class = "lexis"\nstrength = "gradient"\n', GOOD))


def test_a_file_without_a_class_is_told_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no class; .* above the first pair"):
        read_pairs(write(tmp_path / "own.toml", 'strength = "gradient"\n', GOOD))


def test_an_id_that_comes_twice_is_named_with_the_other_file(tmp_path: Path) -> None:
    head = 'class = "lexicon"\nstrength = "gradient"\n'
    write(tmp_path / "a.toml", head, GOOD)
    write(tmp_path / "b.toml", head, {**GOOD, "european": "Outra."})
    with pytest.raises(BenchError, match=r"b.toml: lexicon-001: the id of another pair too, in a.toml"):
        read_pairs(tmp_path)


def test_what_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"own.toml: no TOML: .*line 2"):
        read_pairs(write(tmp_path / "own.toml", 'class = "lexicon"\nstrength = \n'))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no pairs in it"):
        read_pairs(tmp_path)


def test_a_reviewers_name_does_not_change_the_hash(tmp_path: Path) -> None:
    head = 'class = "lexicon"\nstrength = "gradient"\n'
    plain = read_pairs(write(tmp_path / "a.toml", head, GOOD))
    reviewed = read_pairs(write(tmp_path / "b.toml", head + 'reviewed_by = "A. Linguista"\n', GOOD))
    assert hash_of(plain) == hash_of(reviewed)


def test_another_wording_changes_the_hash(tmp_path: Path) -> None:
    head = 'class = "lexicon"\nstrength = "gradient"\n'
    plain = read_pairs(write(tmp_path / "a.toml", head, GOOD))
    other = read_pairs(write(tmp_path / "b.toml", head, {**GOOD, "european": "O comboio para Beja chegou."}))
    assert hash_of(plain) != hash_of(other)
