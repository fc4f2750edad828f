"""The marker counter finds what is Brazilian and leaves European homographs alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from amalia_bench.markers import KINDS, RULES, Marker, count, read_rules
from amalia_edge.errors import BenchError

CLASSES = """
[classes]
fruit = '(pera|figo)'

[clauses]
subordinators = 'que'
attractors = 'não'
prepositions = 'de'
coordinators = 'e'
verbs = 'é'
openers = 'o'
past = 'foi'
"""


def found(text: str) -> list[tuple[str, str]]:
    return [(marker.kind, marker.text) for marker in count(text)]


@pytest.mark.parametrize(
    "text, kind, marker",
    [
        ("O ônibus atrasou-se.", "lexicon", "ônibus"),
        ("Guarde o arquivo numa pasta do computador.", "lexicon", "arquivo"),
        ("A senha do e-mail é fácil de adivinhar.", "lexicon", "senha"),
        ("O guia nos mostrou a cela.", "clitics", "nos mostrou"),
        ("A palavra se escreve com acento.", "clitics", "se escreve"),
        ("Vou te mostrar a casa.", "clitics", "Vou te mostrar"),
        ("Me diga onde mora.", "clitics", "Me diga"),
        ("Se prepare para uma subida longa.", "clitics", "Se prepare"),
        ("Se trata de uma capela, com um teto de madeira.", "clitics", "Se trata"),
        ("Há uma regra: se fala baixo na sala.", "clitics", "se fala"),
        ("A aldeia onde a história se passa é pequena e o rio se divide nela.", "clitics", "se divide"),
        ("O bebé está sempre chorando.", "progressive", "está sempre chorando"),
        ("O vizinho vive se queixando.", "progressive", "vive se queixando"),
        ("O pastor perdeu a ovelha e encontrou ela no vale.", "object-pronouns", "encontrou ela"),
        ("Retire as peças e monte elas pela ordem.", "object-pronouns", "monte elas"),
        ("Se você quiser, venha cedo.", "treatment", "você"),
        ("Mora em uma casa pequena.", "contractions", "em uma"),
        ("O ano acadêmico começa em setembro.", "spelling", "acadêmico"),
        ("O Antônio mora perto do rio.", "spelling", "Antônio"),
        ("A Ópera de Moscou abriu a temporada.", "spelling", "Moscou"),
        ("É um fato histórico.", "spelling", "fato"),
    ],
)
def test_a_brazilian_marker_is_found_whole_and_in_its_kind(text: str, kind: str, marker: str) -> None:
    assert found(text) == [(kind, marker)]


@pytest.mark.parametrize(
    "text",
    [
        "É um óleo sobre tela do século XIX.",
        "Vestiu o fato de banho e mergulhou.",
        "O documento está no Arquivo Nacional.",
        "Basta tirar uma senha no balcão.",
        "O trem de aterragem não abriu.",
        "O barco vai andando devagar.",
        "Vocês chegam no comboio das oito.",
        "O rio que se divide em dois é este.",
        "Diz-me se chove amanhã.",
        "Todos me garantiram que era verdade.",
        "Nos jardins do palácio há pavões.",
        "Perguntou ela se havia lugar.",
        "Ficou em um ou dois por cento.",
        "A fêmea tem o estômago vazio.",
        "Sendo assim, ficamos em casa.",
        "Se trata de um caso urgente, ligue já.",
        "Quer se levante cedo, quer se deite tarde, anda cansado.",
        "Talvez compre ela o bilhete.",
        "O banheiro içou a bandeira na praia.",
        "Pendure três quadrinhos na parede.",
    ],
)
def test_a_european_homograph_is_no_marker(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize("words", ["«ônibus»", '"celular"', "“café da manhã”", "«Trem das Onze»"])
def test_a_word_spoken_of_is_no_marker(words: str) -> None:
    assert found(f"A expressão {words} é do Brasil.") == []


def test_what_somebody_says_in_quotes_is_judged() -> None:
    assert found("«Me diga a verdade», pediu ele.") == [("clitics", "Me diga")]
    assert found("O aviso dizia: «O trem das nove para o Porto não parte.»") == [("lexicon", "trem")]


@pytest.mark.parametrize(
    "name", ["Antônio Carlos Jobim", "José Antônio da Silva", "a Companhia Brasileira de Trens Urbanos", "o Boteco"]
)
def test_a_word_of_a_name_is_no_marker(name: str) -> None:
    assert found(f"Chegou {name}.") == []


def test_a_name_may_begin_the_sentence() -> None:
    assert found("Antônio Houaiss fez um dicionário.") == []


def test_a_capital_that_begins_a_sentence_makes_no_name() -> None:
    assert found("Trem que parte tarde chega tarde.") == [("lexicon", "Trem")]


def test_a_marker_knows_its_place_in_the_text() -> None:
    text = "Bom dia!\nO trem partiu."
    assert count(text) == [Marker(11, 15, "trem", "lexicon")]


def test_a_letter_that_grows_when_lowered_moves_no_place() -> None:
    text = "İİİ: o trem partiu."
    assert [text[marker.start : marker.end] for marker in count(text)] == ["trem"]


def test_markers_lie_apart_and_the_longer_one_stays() -> None:
    assert found("Falou de histórias em quadrinhos.") == [("lexicon", "histórias em quadrinhos")]


def test_what_clears_a_word_must_stand_in_its_own_sentence() -> None:
    assert found("Vi um quadro no museu. A tela do computador avariou.") == [("lexicon", "tela")]


def test_a_pronoun_after_a_finished_relative_clause_is_not_drawn_by_it() -> None:
    assert found("O vizinho que chegou ontem me chamou.") == [("clitics", "me chamou")]


def test_a_pronoun_coordinated_inside_a_relative_clause_is_drawn() -> None:
    assert found("O vizinho que chegou e se sentou é médico.") == []


def test_a_text_without_words_has_no_markers() -> None:
    assert count("") == count(" \n…") == []


def test_every_kind_has_a_rule() -> None:
    rules = [pair for pairs in read_rules(RULES.read_text("utf-8"), "here").by_letters.values() for pair in pairs]
    rules += read_rules(RULES.read_text("utf-8"), "here").anywhere
    assert {rule.kind for _, rule in rules} == set(KINDS)


def test_a_class_stands_for_its_pattern_in_a_rule() -> None:
    rules = read_rules(CLASSES + "[[rule]]\nkind = 'lexicon'\nfind = ['uma {fruit}']\n", "here")
    assert [(start, end) for start, end, _ in rules.candidates("uma pera", "uma pera")] == [(0, 8)]


@pytest.mark.parametrize(
    "rule, wrong",
    [
        ("kind = 'lexico'\nfind = ['x']", "kind 'lexico'"),
        ("kind = 'lexicon'", "find None"),
        ("kind = 'lexicon'\nfind = ['x']\nunles = ['y']", "key 'unles'"),
        ("kind = 'lexicon'\nfind = ['{berry}']", "no class 'berry'"),
        ("kind = 'lexicon'\nfind = ['(x']", "(?:(x)"),
        ("kind = 'clitics'\nfind = ['x']\nclause = 'any'", "clause 'any'"),
    ],
)
def test_a_rule_that_cannot_be_read_is_named(rule: str, wrong: str) -> None:
    with pytest.raises(BenchError, match=r"rules\.toml, rule 1") as problem:
        read_rules(f"{CLASSES}[[rule]]\n{rule}\n", "rules.toml")
    assert wrong in str(problem.value)


def test_a_file_that_is_not_toml_is_named() -> None:
    with pytest.raises(BenchError, match=r"rules\.toml: is not TOML"):
        read_rules("[[rule", "rules.toml")


def test_a_file_without_word_classes_of_clauses_is_named() -> None:
    with pytest.raises(BenchError, match="clauses"):
        read_rules("[clauses]\nverbs = 'é'\n", "rules.toml")


ROOM = Path(__file__).resolve().parents[2] / "kernels_bench"


@pytest.mark.parametrize("sentences", ["built-on", "held-out"])
def test_the_counter_keeps_its_promise_on_labelled_sentences(sentences: str) -> None:
    labelled = ROOM / "amalia_bench" / "portuguese" / "sentences" / f"{sentences}.toml"
    judge = [sys.executable, str(ROOM / "checks" / "marker_counter.py"), str(labelled)]
    done = subprocess.run(judge, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-500:]
