"""The embedded checkpoint is what its card says, converts to llama.cpp's own bytes, and answers in European Portuguese."""

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_convert.conversion import ConvertConfig, convert
from amalia_edge.gguf import read_header
from amalia_edge.model import Model
from amalia_edge.sampler import SamplingConfig
from convert.oracle import quantize_file

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "convert" / "amalia_convert" / "fadinho"
RECIPE = ROOT / "convert" / "fadinho"
TEXTS = sorted(RECIPE.glob("texts/*.txt"))
DIALOGUES = sorted(RECIPE.glob("dialogues/*.jsonl"))
BRAZILIAN = re.compile(
    r"\b(você|ônibus|celular|usuári[oa]s?|arquivos?|acadêmic[oa]|bebê|planejamento|gerenciar|deletar|banheiro|"
    r"café da manhã|geladeira|açougue|sorvete|xícara|equipe|esporte|pedestre|registro|contato|econômic[oa]|"
    r"(está|estou|estão|estamos|estava|estavam) \w+[aei]ndo)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("fadinho")
    receipts = convert(ConvertConfig("fadinho", ("BF16", "Q8_0", "Q4_K_M"), out))
    return {receipt.level: out / receipt.output for receipt in receipts}


@pytest.fixture(scope="module")
def model(made: dict[str, Path]) -> Iterator[Model]:
    with Model.open(made["Q8_0"]) as opened:
        yield opened


def ask(model: Model, question: str) -> str:
    greedy = SamplingConfig(temperature=0, limit=64)
    return "".join(piece.text for piece in model.chat([{"role": "user", "content": question}], greedy))


def test_the_weights_take_at_most_sixteen_megabytes() -> None:
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 16_000_000


def test_the_checkpoint_has_every_file_of_a_hub_repository() -> None:
    wanted = {"config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
              "chat_template.jinja", "model.safetensors", "README.md", "training.json", "training.svg"}  # fmt: skip
    assert {path.name for path in CHECKPOINT.iterdir()} == wanted


@pytest.mark.parametrize(("level", "file_type"), [("Q8_0", 7), ("Q4_K_M", 15)])
def test_each_level_has_the_bytes_llama_cpp_gives_it(
    made: dict[str, Path], level: str, file_type: int, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.gguf"
    quantize_file(made["BF16"], theirs, file_type)
    ours, oracle = read_header(made[level]), read_header(theirs)
    assert [tensor.name for tensor in ours.tensors] == [tensor.name for tensor in oracle.tensors]
    one, other = made[level].read_bytes(), theirs.read_bytes()
    for mine, his in zip(ours.tensors, oracle.tensors, strict=True):
        assert mine.kind == his.kind
        assert one[mine.offset : mine.offset + mine.nbytes] == other[his.offset : his.offset + his.nbytes], mine.name


def test_no_tensor_of_the_mixture_had_to_fall_back(made: dict[str, Path]) -> None:
    assert {tensor.kind for tensor in read_header(made["Q4_K_M"]).tensors} == {"F32", "Q4_K", "Q6_K"}


def test_the_first_five_tokens_are_amalias(model: Model) -> None:
    assert model.vocabulary.control == {"<unk>": 0, "<s>": 1, "</s>": 2, "<|im_start|>": 3, "<|im_end|>": 4}
    assert (model.vocabulary.begin, model.vocabulary.end, model.vocabulary.adds_begin) == (1, 4, True)


@pytest.mark.parametrize(("question", "wanted"), [
    ("Quem és tu?", "fadinho"), ("Qual é a capital de Portugal?", "Lisboa"), ("O que é um azulejo?", "barro"),
    ("Precisas de Internet?", "Internet"), ("A que horas abre o museu?", "10"), ("Quanto é sete vezes oito?", "56|cinquenta e seis"),
])  # fmt: skip
def test_it_answers_what_it_was_taught(model: Model, question: str, wanted: str) -> None:
    assert re.search(wanted, ask(model, question))


def test_it_greets_back_and_stops(model: Model) -> None:
    sequence = model.engine.submit(
        model.conversation([{"role": "user", "content": "Olá!"}]), SamplingConfig(temperature=0, limit=64)
    )
    said = "".join(piece.text for piece in model.engine.stream(sequence))
    assert sequence.finish == "stop"
    assert re.match(r"Olá|Viva|Bom dia|Boa", said)


def test_the_texts_are_enough_and_all_in_composed_unicode() -> None:
    texts = [path.read_text("utf-8") for path in (*TEXTS, *DIALOGUES)]
    assert sum(path.stat().st_size for path in TEXTS) >= 60_000
    assert all(unicodedata.is_normalized("NFC", text) for text in texts)


def test_there_are_enough_dialogues_and_each_has_one_of_two_shapes() -> None:
    entries = [json.loads(line) for path in DIALOGUES for line in path.read_text("utf-8").splitlines()]
    assert len(entries) >= 250
    for entry in entries:
        turns = entry.get("turns") or [[question, entry["answer"]] for question in entry["ask"]]
        assert turns and all(len(turn) == 2 and all(turn) for turn in turns)


@pytest.mark.parametrize(
    "path", [*TEXTS, *DIALOGUES, RECIPE / "README.md", CHECKPOINT / "README.md"], ids=lambda path: path.name
)
def test_nothing_we_wrote_in_portuguese_is_brazilian(path: Path) -> None:
    text = path.read_text("utf-8").split("Ten continuations")[0]  # what the model made up is its own
    assert not [found[0] for found in BRAZILIAN.finditer(text)]
