"""The decode loop: what goes in, what comes out, where it ends."""

from pathlib import Path

import numpy as np
import pytest

from amalia_edge import native
from amalia_edge.context import Context
from amalia_edge.engine import Engine
from amalia_edge.errors import Busy, ContextFull, UsageError
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig

GREEDY = SamplingConfig(temperature=0, limit=16)


def plain_greedy(model: Model, ids: list[int], count: int) -> list[int]:
    """Decode with libllama's own functions and numpy's argmax: the oracle."""
    library = native.library()
    context = Context(model.pointer, 256, 2, model.config)
    made: list[int] = []
    context.decode(ids, 0)
    for place in range(len(ids), len(ids) + count):
        logits = library.llama_get_logits_ith(context.pointer, -1)
        made.append(int(np.argmax(np.ctypeslib.as_array(logits, (model.vocabulary.size,)))))
        if model.vocabulary.ends(made[-1]):
            break
        context.decode(made[-1:], place)
    context.close()
    return made


@pytest.mark.parametrize("text", ["o mar", "era uma vez um barco", "1974"])
def test_greedy_ids_are_those_of_a_plain_loop(model: Model, text: str) -> None:
    ids = model.prompt(text)
    assert [piece.token for piece in model.complete(ids, GREEDY)] == plain_greedy(model, ids, 16)


def test_reusing_the_beginning_changes_no_id(model: Model) -> None:
    ids = model.prompt("o rio corre para o mar e o mar")
    first = [piece.token for piece in model.complete(ids, GREEDY)]
    sequence = model.engine.submit(ids, GREEDY)
    again = [piece.token for piece in model.engine.stream(sequence)]
    assert sequence.reused == len(ids) - 1
    assert again == first


def test_the_last_token_is_not_fed_back(model: Model) -> None:
    sequence = model.engine.submit(model.prompt("o mar"), GREEDY)
    list(model.engine.stream(sequence))
    assert sequence.decoded == len(sequence.ids) - 1


def test_the_limit_ends_with_length_on_the_last_piece_only(model: Model) -> None:
    pieces = list(model.complete(model.prompt("o mar"), SamplingConfig(temperature=0, limit=5)))
    assert [piece.finish for piece in pieces] == [None] * 4 + ["length"]


def test_a_limit_of_zero_gives_no_token(model: Model) -> None:
    (piece,) = model.complete(model.prompt("o mar"), SamplingConfig(limit=0))
    assert (piece.token, piece.text, piece.finish) == (None, "", "length")


def test_an_answer_stops_where_the_context_ends(model: Model) -> None:
    ids = model.prompt("a" * 250)
    sequence = model.engine.submit(ids, SamplingConfig(temperature=0))
    list(model.engine.stream(sequence))
    assert len(sequence.ids) <= 256
    assert sequence.finish in ("length", "stop")


def test_a_prompt_longer_than_the_context_is_refused_with_both_counts(model: Model) -> None:
    with pytest.raises(ContextFull, match=r"301 tokens of prompt, 256 of context"):
        list(model.complete(model.prompt("a" * 300)))


def test_an_empty_prompt_is_refused(model: Model) -> None:
    with pytest.raises(UsageError):
        list(model.complete([]))


def test_a_second_request_finds_the_engine_busy(model: Model) -> None:
    sequence = model.engine.submit(model.prompt("o mar"), GREEDY)
    with pytest.raises(Busy):
        model.engine.submit(model.prompt("a terra"), GREEDY)
    model.engine.cancel(sequence)
    assert sequence.finish == "cancelled"
    model.engine.cancel(model.engine.submit(model.prompt("a terra"), GREEDY))


def test_an_answer_never_begun_leaves_the_engine_free(model: Model) -> None:
    model.complete(model.prompt("o mar"), GREEDY)
    assert len(list(model.complete(model.prompt("a terra"), GREEDY))) > 0


def test_an_interrupted_chunk_keeps_what_was_read_before_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Model.open(tiny, LoadConfig(context=128, threads=2, micro_batch=8)) as small:
        ids, calls = small.prompt("a" * 40), 0
        plain = [piece.token for piece in small.complete(ids, GREEDY)]
        small.engine._rewind(small.engine._slots[0], 0)
        decode = Context._decode

        def interrupted(state: Context) -> None:
            nonlocal calls
            calls += 1
            decode(state)
            if calls == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(Context, "_decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(small.complete(ids, GREEDY))
        sequence = small.engine.submit(ids, GREEDY)
        assert sequence.reused == 16  # two whole chunks
        assert [piece.token for piece in small.engine.stream(sequence)] == plain


def test_leaving_a_stream_early_frees_the_engine(model: Model) -> None:
    for _ in model.complete(model.prompt("o mar"), GREEDY):
        break
    assert len(list(model.complete(model.prompt("o mar"), GREEDY))) > 0


def test_prompt_chunks_smaller_than_the_prompt_read_all_of_it(tiny: Path) -> None:
    with Model.open(tiny, LoadConfig(context=128, threads=2, batch=8, micro_batch=8)) as small:
        sequence = small.engine.submit(small.prompt("a" * 50), GREEDY)
        assert [small.engine.step() for _ in range(6)] == [[]] * 6
        assert len(small.engine.step()) == 1
        assert sequence.decoded == 51
        small.engine.cancel(sequence)


def test_a_closed_engine_can_be_followed_by_another(tiny: Path) -> None:
    with Model.open(tiny, LoadConfig(context=64, threads=2)) as small:
        for _ in range(3):
            engine = Engine(small)
            assert list(engine.stream(engine.submit(small.prompt("o mar"), GREEDY)))
            engine.close()
