"""The decode loop with many sequences: what one says beside others, what it reuses, how prompts take turns, how each ends."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amalia_edge import engine as engine_module
from amalia_edge.context import Context
from amalia_edge.engine import MOST_STEP_S, Engine, Piece, Sequence
from amalia_edge.errors import Busy, DecodeError, OutOfTime, UsageError
from amalia_edge.model import LoadConfig, Model
from amalia_edge.pace import Pace
from amalia_edge.sampler import SamplingConfig

GREEDY = SamplingConfig(temperature=0, limit=12, ignore_end=True)
WORDS = [
    "era",
    "uma",
    "vez",
    "um",
    "barco",
    "que",
    "ia",
    "para",
    "o",
    "mar",
    "e",
    "voltava",
    "ao",
    "rio",
    "com",
    "a",
    "noite",
]


@pytest.fixture(scope="module")
def many(tiny: Path) -> Iterator[Model]:
    with Model.open(tiny, LoadConfig(context=256, threads=2, sequences=8)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def single_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a step write one token, however fast: the tests count them."""
    monkeypatch.setattr(engine_module, "MOMENT_S", 0.0)


@pytest.fixture
def engine(many: Model) -> Iterator[Engine]:
    """Give an engine that holds nothing yet."""
    fresh = Engine(many)
    yield fresh
    fresh.close()


def prompts(model: Model, count: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [model.prompt(" ".join(draw.choices(WORDS, k=draw.randint(1, 9)))) for _ in range(count)]


def long_prompt(model: Model, tokens: int) -> list[int]:
    return (model.prompt("um barco no mar ") * tokens)[:tokens]


def answers(engine: Engine, sequences: list[Sequence]) -> list[list[int | None]]:
    """Step to the end of all; give each one's tokens."""
    said: dict[int, list[int | None]] = {id(sequence): [] for sequence in sequences}
    while engine.active:
        for piece in engine.step():
            said[id(piece.sequence)].append(piece.token)
    return [said[id(sequence)] for sequence in sequences]


def alone(model: Model, ids: list[int], sampling: SamplingConfig = GREEDY) -> list[int | None]:
    return [piece.token for piece in model.complete(ids, sampling)]


def test_greedy_ids_are_the_same_beside_seven_others(model: Model, engine: Engine) -> None:
    batches = [prompts(model, 8, seed) for seed in range(3)]
    for batch in batches:
        together = answers(engine, [engine.submit(ids, GREEDY) for ids in batch])
        assert together == [alone(model, ids) for ids in batch]


def test_each_has_its_own_settings(model: Model, engine: Engine) -> None:
    ids = model.prompt("o mar")
    settings = [
        GREEDY,
        SamplingConfig(temperature=1.5, seed=3, limit=9),
        SamplingConfig(temperature=1.5, seed=4, limit=9),
    ]
    together = answers(engine, [engine.submit(ids, sampling) for sampling in settings])
    assert together == [alone(model, ids, sampling) for sampling in settings]
    assert together[1] != together[2]


def test_whatever_comes_and_goes_each_answer_is_what_it_would_be_alone(model: Model, engine: Engine) -> None:
    """Random submits, cancels and steps; prompts of one chunk, some with a beginning another slot holds."""
    draw, said, running = random.Random(7), {}, []
    known = {tuple(ids): alone(model, ids) for ids in prompts(model, 12, 5)}
    finished = 0
    for _ in range(400):
        action = draw.random()
        if action < 0.25 and engine.active < 8:
            sequence = engine.submit(draw.choice(list(known)), GREEDY)
            said[id(sequence)] = []
            running.append(sequence)
        elif action < 0.3 and running:
            engine.cancel(running.pop(draw.randrange(len(running))))
        for piece in engine.step():
            said[id(piece.sequence)].append(piece.token)
            if piece.finish:
                running.remove(piece.sequence)
                finished += 1
                assert said[id(piece.sequence)] == known[tuple(piece.sequence.ids[: piece.sequence.prompt_tokens])]
    assert finished > 50


def test_streams_read_in_turns_lose_nothing_of_each_other(model: Model, engine: Engine) -> None:
    one, other = (engine.submit(ids, GREEDY) for ids in prompts(model, 2))
    pairs = list(zip(engine.stream(one), engine.stream(other), strict=True))
    assert [piece.token for piece, _ in pairs] == alone(model, one.ids[: one.prompt_tokens])
    assert [piece.token for _, piece in pairs] == alone(model, other.ids[: other.prompt_tokens])


class TestPromptsTakeTurns:
    @pytest.fixture(autouse=True)
    def small_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Pace, "fitting", lambda _pace, _seconds: 16)

    def test_a_long_prompt_stalls_no_answer(self, model: Model, engine: Engine) -> None:
        writer = engine.submit(model.prompt("o mar"), GREEDY)
        engine.step()
        reader = engine.submit(long_prompt(model, 120), GREEDY)
        for _ in range(5):  # a token, a chunk, a token …
            assert [piece.sequence for piece in engine.step()] == [writer]
            assert engine.step() == []
        assert reader.decoded == 80

    @pytest.mark.parametrize("before", [1, 2, 3])
    def test_a_short_prompt_that_comes_later_is_read_within_two_steps(
        self, model: Model, engine: Engine, before: int
    ) -> None:
        engine.submit(long_prompt(model, 200), GREEDY)
        for _ in range(before):
            engine.step()
        short = engine.submit(model.prompt("o rio"), GREEDY)
        assert short in [piece.sequence for piece in [*engine.step(), *engine.step()]]

    def test_short_prompts_that_keep_coming_do_not_starve_a_long_one(self, model: Model, engine: Engine) -> None:
        long = engine.submit(long_prompt(model, 200), GREEDY)
        for word in range(120):
            if engine.active < 8:
                engine.submit(model.prompt(WORDS[word % 8] * 2), SamplingConfig(temperature=0, limit=1))
            engine.step()
        assert long.generated > 0

    def test_two_long_prompts_are_read_by_turns(self, model: Model, engine: Engine) -> None:
        one, other = (engine.submit(long_prompt(model, 160)[skip:], GREEDY) for skip in (0, 1))
        for _ in range(6):
            engine.step()
        assert one.decoded + other.decoded == 96
        assert abs(one.decoded - other.decoded) <= 32


class TestLongChunks:
    """What is read while nobody writes: as much as takes a while, of every prompt, until somebody comes."""

    @pytest.fixture(autouse=True)
    def sizes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Pace, "fitting", lambda _pace, seconds: 16 if seconds <= MOST_STEP_S else 128)

    @pytest.fixture
    def waiting(self) -> list[bool]:
        """Hold what the engine is told, each time it asks whether somebody waits; nobody does when it is empty."""
        return []

    @pytest.fixture
    def engine(self, many: Model, waiting: list[bool]) -> Iterator[Engine]:
        fresh = Engine(many, somebody_waits=lambda: bool(waiting) and waiting.pop(0))
        yield fresh
        fresh.close()

    def test_prompts_are_read_together_in_equal_shares(self, model: Model, engine: Engine) -> None:
        starts = [long_prompt(model, 100)[skip:] for skip in range(4)]
        sequences = [engine.submit(ids, GREEDY) for ids in starts]
        engine.step()
        assert [sequence.decoded for sequence in sequences] == [32] * 4
        assert answers(engine, sequences) == [alone(model, ids) for ids in starts]

    def test_a_share_is_no_larger_than_the_shortest_prompt(self, model: Model, engine: Engine) -> None:
        long, short = engine.submit(long_prompt(model, 200), GREEDY), engine.submit(model.prompt("o mar"), GREEDY)
        (piece,) = engine.step()
        assert (piece.sequence, long.decoded) == (short, short.prompt_tokens)

    def test_beside_an_answer_chunks_are_short(self, model: Model, engine: Engine) -> None:
        writer = engine.submit(model.prompt("o mar"), GREEDY)
        engine.step()
        reader = engine.submit(long_prompt(model, 200), GREEDY)
        engine.step(), engine.step()
        assert (writer.generated, reader.decoded) == (2, 16)

    def test_whoever_comes_ends_a_long_chunk_and_nothing_else(
        self, model: Model, engine: Engine, waiting: list[bool], caplog: pytest.LogCaptureFixture
    ) -> None:
        starts = [long_prompt(model, 200), long_prompt(model, 200)[1:]]
        sequences = [engine.submit(ids, GREEDY) for ids in starts]
        engine.step()
        waiting += [False] * 20 + [True]
        assert engine.step() == []
        assert [sequence.decoded for sequence in sequences] == [64, 64]
        short = engine.submit(model.prompt("o rio"), GREEDY)
        assert short in [piece.sequence for piece in [*engine.step(), *engine.step()]]
        assert caplog.messages == []  # what libllama calls a failure was our wish
        said = answers(engine, [*sequences, short])
        assert said[:2] == [alone(model, ids) for ids in starts]

    def test_many_that_come_without_end_do_not_starve_a_prompt(
        self, model: Model, engine: Engine, waiting: list[bool]
    ) -> None:
        long = engine.submit(long_prompt(model, 200), GREEDY)
        for _ in range(30):
            waiting[:] = [True] * 10_000
            engine.step()
        assert long.generated

    def test_where_no_slot_is_free_nobody_who_comes_ends_a_chunk(
        self, model: Model, engine: Engine, waiting: list[bool]
    ) -> None:
        sequences = [engine.submit(long_prompt(model, 100)[skip:], GREEDY) for skip in range(8)]
        waiting += [True] * 10_000
        engine.step()
        assert [sequence.decoded for sequence in sequences] == [16] * 8

    @pytest.mark.parametrize("leave", [1, 2])
    def test_a_chunk_ends_when_nobody_wants_it_any_more(self, model: Model, engine: Engine, leave: int) -> None:
        sequences = [engine.submit(long_prompt(model, 100)[skip:][:50], GREEDY) for skip in (0, 1)]

        def ask() -> bool:
            for sequence in sequences[:leave]:
                sequence.unwanted = True
            return False

        engine._somebody_waits = ask
        pieces = engine.step() + engine.step()
        assert [piece.sequence for piece in pieces if piece.finish == "cancelled"] == sequences[:leave]
        if leave == 1:
            assert sequences[1].decoded >= 50
            said = [piece.token for piece in pieces if piece.sequence is sequences[1]]
            assert said + answers(engine, sequences[1:])[0] == alone(model, sequences[1].ids[:50])

    def test_what_cannot_be_taken_back_is_read_in_short_chunks(
        self, model: Model, many: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Context, "recurrent", True)
        engine = Engine(many, somebody_waits=lambda: False)
        long = engine.submit(long_prompt(model, 100), GREEDY)
        engine.step()
        assert long.decoded == 16
        engine.close()


class TestMoments:
    """A lone answer's tokens that come within a moment are told together."""

    @pytest.fixture(autouse=True)
    def long_moment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_module, "MOMENT_S", 60.0)

    def test_a_step_writes_them_all_and_they_are_the_same(self, model: Model, engine: Engine) -> None:
        sequence = engine.submit(model.prompt("o mar"), GREEDY)
        first, rest = engine.step(), engine.step()
        assert (len(first), len(rest), sequence.finish) == (1, 11, "length")
        said = [piece.token for piece in [*first, *rest]]
        assert said == answers(engine, [engine.submit(sequence.ids[: sequence.prompt_tokens], GREEDY)])[0]
        assert sequence.decoded == len(sequence.ids) - 1

    def test_nothing_is_written_past_the_end(
        self, model: Model, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sequence = engine.submit(model.prompt("o mar"), SamplingConfig(temperature=0, limit=40))
        engine.step()
        last = [piece.token for piece in model.complete(sequence.ids[: sequence.prompt_tokens], GREEDY)][4]
        monkeypatch.setattr(engine._vocabulary, "ends", lambda token: token == last)
        rest = engine.step()
        assert (sequence.finish, rest[-1].token, rest[-1].text) == ("stop", last, "")
        assert sequence.decoded == len(sequence.ids)

    def test_a_stop_string_is_looked_for_after_each(self, model: Model, engine: Engine) -> None:
        whole = "".join(piece.text for piece in model.complete(model.prompt("o mar"), GREEDY))
        stopped = engine.submit(
            model.prompt("o mar"), SamplingConfig(temperature=0, limit=12, ignore_end=True, stop=(whole[4:7],))
        )
        assert "".join(piece.text for piece in engine.stream(stopped)) == whole[: whole.index(whole[4:7])]
        assert stopped.decoded <= len(stopped.ids)

    @pytest.mark.parametrize("problem", [KeyboardInterrupt, DecodeError("llama_decode", "code 7", "start again")])
    def test_what_was_picked_before_it_broke_is_told(
        self, model: Model, engine: Engine, monkeypatch: pytest.MonkeyPatch, problem: BaseException
    ) -> None:
        drawn = SamplingConfig(temperature=1.5, seed=3, limit=12, ignore_end=True)  # picking again would give others
        sequence = engine.submit(model.prompt("o mar"), drawn)
        said, decode_each, calls = engine.step(), engine._state.decode_each, 0

        def breaks(*words: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise problem
            decode_each(*words)

        monkeypatch.setattr(engine._state, "decode_each", breaks)
        if problem is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                engine.step()
        else:
            said += engine.step()
            assert said[-1].finish == "error"
            said.pop()
        monkeypatch.undo()
        said += list(engine.stream(sequence)) if sequence.finish is None else []
        wanted = alone(model, sequence.ids[: sequence.prompt_tokens], drawn)
        assert [piece.token for piece in said] == (wanted if problem is KeyboardInterrupt else wanted[:4])


class TestReuse:
    def test_a_beginning_that_another_slot_is_still_using_is_copied(
        self, model: Model, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_module, "WORTH_COPYING", 4)
        ids = long_prompt(model, 60)
        first = engine.submit(ids, GREEDY)
        while first.generated == 0:
            engine.step()
        other = engine.submit([*ids[:50], *model.prompt("e depois")], GREEDY)
        assert (first.reused, other.reused) == (0, 50)
        said = [piece.token for piece in engine.stream(other)]
        assert said == alone(model, other.ids[: other.prompt_tokens])

    def test_the_conversation_that_went_on_finds_its_slot_again(self, model: Model, engine: Engine) -> None:
        starts = prompts(model, 3, 2)
        sequences = [engine.submit(ids, GREEDY) for ids in starts]
        answers(engine, sequences)
        for sequence in sequences:
            again = engine.submit([*sequence.ids, *model.prompt(" e")], GREEDY)
            assert again.reused == sequence.decoded
            engine.cancel(again)

    def test_a_new_prompt_spares_what_other_conversations_hold(self, model: Model, engine: Engine) -> None:
        conversation = engine.submit(long_prompt(model, 100), GREEDY)
        answers(engine, [conversation])
        answers(engine, [engine.submit(model.prompt(word), GREEDY) for word in WORDS[:7]])
        assert engine.holds(conversation.ids) >= 100

    def test_a_restored_memory_gives_the_same_answer(self, model: Model, engine: Engine, many: Model) -> None:
        ids = long_prompt(model, 40)
        answers(engine, [engine.submit(ids[:30], SamplingConfig(limit=0))])
        data = engine.saved(ids[:30])
        assert data is not None
        other = Engine(many)
        other.submit(model.prompt("ocupa o primeiro lugar"), GREEDY)
        assert other.restore(ids[:30], data)
        sequence = other.submit(ids, GREEDY)
        said = [piece.token for piece in other.stream(sequence)]
        assert sequence.reused == 30
        again = engine.submit(ids, GREEDY)
        assert said == [piece.token for piece in engine.stream(again)]
        other.close()

    def test_nothing_is_saved_of_what_no_slot_holds(self, engine: Engine) -> None:
        assert engine.saved([1, 2, 3]) is None

    def test_bytes_that_libllama_refuses_leave_an_empty_slot(self, model: Model, engine: Engine, tiny: Path) -> None:
        with Model.open(tiny, LoadConfig(context=256, threads=2, cache_keys="q8_0")) as other:
            ids = model.prompt("o mar e o rio")
            list(other.complete(ids, SamplingConfig(limit=0)))
            data = other.engine.saved(ids)
        assert data is not None
        assert not engine.restore(ids, data)
        assert engine.holds([*ids, 5]) == 0
        assert answers(engine, [engine.submit(ids, GREEDY)]) == [alone(model, ids)]


class TestEndings:
    @pytest.mark.parametrize("token", [-1, 10**6, 2**40])
    def test_an_id_that_is_no_token_is_refused_before_it_can_harm_others(
        self, model: Model, engine: Engine, token: int
    ) -> None:
        other = engine.submit(model.prompt("o mar"), GREEDY)
        with pytest.raises(UsageError, match=f"token {token} of"):
            engine.submit([1, token], GREEDY)
        assert answers(engine, [other]) == [alone(model, other.ids[: other.prompt_tokens])]

    def test_ctrl_c_between_two_answers_loses_no_token_of_either(
        self, model: Model, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sequences = [engine.submit(ids, GREEDY) for ids in prompts(model, 2)]
        while not all(sequence.generated > 2 for sequence in sequences):
            engine.step()
        made = [sequence.ids[sequence.prompt_tokens :] for sequence in sequences]
        sample, calls = engine._sample, 0

        def interrupted(sequence: Sequence, row: int, pieces: list[Piece]) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise KeyboardInterrupt
            sample(sequence, row, pieces)

        monkeypatch.setattr(engine, "_sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
        monkeypatch.undo()
        rest = answers(engine, sequences)
        for sequence, before, after in zip(sequences, made, rest, strict=True):
            assert [*before, *after] == alone(model, sequence.ids[: sequence.prompt_tokens])

    def test_a_closed_engine_takes_nothing(self, many: Model) -> None:
        engine = Engine(many)
        engine.close()
        with pytest.raises(UsageError, match="closed"):
            engine.submit([1, 2], GREEDY)
        assert (engine.step(), engine.holds([1]), engine.saved([1])) == ([], 0, None)

    def test_one_more_than_there_is_room_for_finds_it_busy_and_says_how_many(self, many: Model, model: Model) -> None:
        engine = Engine(many, queue=2)
        sequences = [engine.submit(ids, GREEDY) for ids in prompts(model, 10)]
        with pytest.raises(Busy, match="10 requests under way, 10 at most"):
            engine.submit([1], GREEDY)
        assert answers(engine, sequences) == [alone(model, ids) for ids in prompts(model, 10)]
        engine.close()

    def test_a_deadline_is_an_error_with_what_was_reached(self, model: Model, engine: Engine) -> None:
        late = engine.submit(model.prompt("o mar"), SamplingConfig(deadline_s=1e-6, ignore_end=True))
        other = engine.submit(model.prompt("o rio"), GREEDY)
        with pytest.raises(OutOfTime, match=r"0 tokens in 1e-06 s"):
            list(engine.stream(late))
        assert late.finish == "error"
        assert [piece.token for piece in engine.stream(other)] == alone(model, other.ids[: other.prompt_tokens])

    def test_a_prompt_nobody_wants_any_more_is_left_in_the_middle_of_a_chunk(
        self, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Model.open(tiny, LoadConfig(context=1024, threads=1)) as single:
            ids = long_prompt(single, 500)
            sequence = single.engine.submit(ids, GREEDY)
            asked = 0

            def hopeless_at_the_fifth_node(_sequence: Sequence) -> bool:
                nonlocal asked
                asked += 1
                sequence.unwanted = asked >= 5
                return sequence.unwanted

            monkeypatch.setattr(Sequence, "hopeless", hopeless_at_the_fifth_node)
            single.engine.step()  # which asks once before it reads, and once after
            assert (sequence.finish, sequence.decoded, asked) == ("cancelled", 0, 6)
            monkeypatch.undo()
            first = alone(single, ids)
        with Model.open(tiny, LoadConfig(context=1024, threads=1)) as fresh:
            assert first == alone(fresh, ids)

    def test_a_decode_that_fails_ends_its_own_sequences_and_no_other(
        self, model: Model, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = engine.submit(model.prompt("o mar"), GREEDY)
        engine.step()
        reader = engine.submit(long_prompt(model, 100), GREEDY)
        monkeypatch.setattr(engine._state, "decode_chunks", _fails)
        pieces = [piece for piece in [*engine.step(), *engine.step()] if piece.sequence is reader]
        assert [piece.finish for piece in pieces] == ["error"]
        assert isinstance(reader.error, DecodeError)
        monkeypatch.undo()
        assert len(answers(engine, [writer])[0]) == 12 - 2

    def test_a_cancelled_request_that_waits_never_begins(self, many: Model, model: Model) -> None:
        engine = Engine(many, queue=1)
        running = [engine.submit(ids, GREEDY) for ids in prompts(model, 8)]
        waiting = engine.submit([1, 2], GREEDY)
        engine.cancel(waiting)
        assert (waiting.finish, waiting.decoded, engine.active) == ("cancelled", 0, 8)
        assert all(len(said) == 12 for said in answers(engine, running))
        engine.close()

    def test_requests_with_random_cancels_leave_every_slot_free(self, model: Model, engine: Engine) -> None:
        draw, wanted = random.Random(1), 200
        running: list[Sequence] = []
        while wanted or engine.active:
            while wanted and engine.active < 8:
                running.append(engine.submit(draw.choice(prompts(model, 5)), GREEDY))
                wanted -= 1
            if draw.random() < 0.4:
                sequence = draw.choice(running)
                if draw.random() < 0.5:
                    engine.cancel(sequence)
                else:
                    sequence.unwanted = True
            engine.step()
            running = [sequence for sequence in running if sequence.finish is None]
        assert all(slot.sequence is None for slot in engine._slots)
        assert engine.step() == []


class TestEndlessChats:
    def test_a_shift_keeps_the_beginning_and_goes_on(self, tiny: Path) -> None:
        with Model.open(tiny, LoadConfig(context=64, threads=2)) as small:
            ids = small.prompt("era uma vez")
            sampling = SamplingConfig(temperature=0, limit=200, ignore_end=True, overflow="shift", keep=4)
            sequence = small.engine.submit(ids, sampling)
            pieces: list[Piece] = list(small.engine.stream(sequence))
            assert len(pieces) == 200
            assert (pieces[-1].finish, sequence.generated) == ("length", 200)
            assert sequence.ids[:4] == ids[:4]
            assert len(sequence.ids) <= 64
            # What was shifted is not what reading would give: only the kept beginning is used again.
            assert small.engine.submit([*sequence.ids[:40], 9], GREEDY).reused == 4

    def test_without_it_the_answer_ends_where_the_context_does(self, tiny: Path) -> None:
        with Model.open(tiny, LoadConfig(context=64, threads=2)) as small:
            sequence = small.engine.submit(small.prompt("era"), SamplingConfig(temperature=0, ignore_end=True))
            *_, last = small.engine.stream(sequence)
            assert (last.finish, len(sequence.ids)) == ("length", 64)

    def test_a_memory_that_cannot_shift_is_read_again(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Context, "shift", lambda *_: False)
        with Model.open(tiny, LoadConfig(context=64, threads=2)) as small:
            sampling = SamplingConfig(temperature=0, limit=70, ignore_end=True, overflow="shift", keep=4)
            sequence = small.engine.submit(small.prompt("era uma vez"), sampling)
            assert len(list(small.engine.stream(sequence))) == 70
            kept = sequence.ids[:-1]
            assert small.engine.holds([*kept, 9]) == len(kept)

    def test_a_chunk_nobody_wants_is_not_left_while_another_ones_shift_is_under_way(
        self, tiny: Path, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        endless = SamplingConfig(temperature=0, limit=90, ignore_end=True, overflow="shift", keep=4)
        ids = model.prompt("era uma vez")
        with Model.open(tiny, LoadConfig(context=64, threads=2)) as single:
            wanted = alone(single, ids, endless)
        with Model.open(tiny, LoadConfig(context=64, threads=2, sequences=2)) as pair:
            said: list[int | None] = []
            first = pair.engine.submit(ids, endless)
            while len(first.ids) < 63:
                said += [piece.token for piece in pair.engine.step()]
            other = pair.engine.submit(long_prompt(model, 60), GREEDY)
            pair.engine.step()  # reads
            said += [piece.token for piece in pair.engine.step()]
            assert len(first.ids) < 63  # it shifted in that step
            asked = 0

            def hopeless_within_the_decode(sequence: Sequence) -> bool:
                nonlocal asked
                asked += sequence is other
                return sequence is other and asked > 1

            monkeypatch.setattr(Sequence, "hopeless", hopeless_within_the_decode)
            pair.engine.step()
            assert asked > 1
            monkeypatch.undo()
            pair.engine.cancel(other)
            said += [piece.token for piece in pair.engine.stream(first)]
        assert said == wanted

    def test_one_that_shifts_changes_nothing_beside_it(self, tiny: Path, model: Model) -> None:
        with Model.open(tiny, LoadConfig(context=64, threads=2, sequences=2)) as pair:
            ids = model.prompt("o mar")
            endless = SamplingConfig(temperature=0, limit=90, ignore_end=True, overflow="shift")
            pair.engine.submit(model.prompt("era uma vez"), endless)
            while pair.engine.step()[0].sequence.generated < 60:  # type: ignore[union-attr]
                pass
            other = pair.engine.submit(ids, GREEDY)
            assert [piece.token for piece in pair.engine.stream(other)] == alone(model, ids)


def _fails(*_words: object, **_named: object) -> None:
    raise DecodeError("llama_decode", "code -3", "start the answer again")
