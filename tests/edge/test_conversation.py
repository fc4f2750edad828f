"""The talk loop: which messages a question leads to, and what each command does to them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from amalia_edge.answer import Delta
from amalia_edge.chat import Message
from amalia_edge.conversation import COMMANDS, MORE_HELP, Conversation, Manners, Reply
from amalia_edge.errors import ContextFull, ModelUnsupported, UsageError


@dataclass
class Took:
    prompt_tokens: int = 30
    reused: int = 20
    prefill_s: float = 0.5
    generated: int = 10
    decode_tps: float = 12.34
    finish: str | None = "stop"


@dataclass
class Page:
    """A screen of paper."""

    said: str = ""
    thought: str = ""
    noted: list[str] = field(default_factory=list)

    def begin(self) -> None:
        pass

    def say(self, text: str, *, reasoning: bool = False) -> None:
        if reasoning:
            self.thought += text
        else:
            self.said += text

    def end(self) -> None:
        self.said += "|"

    def note(self, text: str) -> None:
        self.noted.append(text)


@dataclass
class Echo:
    """A model that says the last question again, with what number of question it was."""

    asked: list[list[Message]] = field(default_factory=list)
    fails: BaseException | None = None
    fails_after: int = 0  # pieces
    took: Took = field(default_factory=Took)

    def __call__(self, messages: Sequence[Message]) -> Reply:
        self.asked.append(list(messages))
        return Reply(self._pieces(messages[-1]["content"]), self.took)

    def _pieces(self, question: str) -> Iterator[Delta]:
        pieces = [Delta(reasoning="hum"), Delta(question), Delta(f"/{len(self.asked)}")]
        for place, piece in enumerate(pieces):
            if self.fails and place == self.fails_after:
                raise self.fails
            yield piece


def talk(
    *lines: str, model: Echo | None = None, system: str | None = None, **manners: bool
) -> tuple[Conversation, Page]:
    page = Page()
    conversation = Conversation(model or Echo(), page, Manners(100, "Eco", **manners), system)
    conversation.talk(lines)
    return conversation, page


def contents(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.messages]


def test_a_question_sees_all_turns_before_it() -> None:
    model = Echo()
    talk("um", "dois", model=model, system="És um eco.")
    roles = [message["role"] for message in model.asked[1]]
    assert roles == ["system", "user", "assistant", "user"]
    assert model.asked[1][2]["content"] == "um/1"


def test_reasoning_is_shown_apart_and_no_later_turn_sees_it() -> None:
    conversation, page = talk("um")
    assert (page.said, page.thought) == ("um/1|", "hum")
    assert contents(conversation) == ["um", "um/1"]


def test_empty_lines_are_no_questions() -> None:
    assert contents(talk("", "  \n", "um")[0]) == ["um", "um/1"]


@pytest.mark.parametrize("goodbye", ["/bye", "/exit", "/quit"])
def test_goodbye_ends_it(goodbye: str) -> None:
    assert contents(talk("um", goodbye, "dois")[0]) == ["um", "um/1"]


def test_reset_keeps_the_system_prompt() -> None:
    assert contents(talk("um", "/reset", system="És um eco.")[0]) == ["És um eco."]


def test_system_shows_what_it_is() -> None:
    assert talk("/system", system="És um eco.")[1].noted == ["És um eco."]
    assert talk("/system")[1].noted == ["no system prompt"]


@pytest.mark.parametrize("words", ["/system És um eco.\nFalas baixo.", "/system\nÉs um eco.\nFalas baixo."])
def test_system_with_a_text_begins_anew_with_it(words: str) -> None:
    conversation, _ = talk("um", words, "dois", "/reset", system="outro")
    assert contents(conversation) == ["És um eco.\nFalas baixo."]


def test_an_empty_system_prompt_is_said_with_quotes_and_stays_in_the_conversation() -> None:
    # the model's own default would take its place otherwise
    assert contents(talk('/system ""', system="outro")[0]) == [""]


def test_undo_takes_back_a_question_and_its_answer() -> None:
    conversation, page = talk("um", "dois\ne mais", "/undo", system="s")
    assert contents(conversation) == ["s", "um", "um/1"]
    assert page.noted == ["taken back: dois"]


def test_regen_answers_the_last_question_again() -> None:
    assert contents(talk("um", "dois", "/regen")[0]) == ["um", "um/1", "dois", "dois/3"]


def test_a_conversation_is_saved_and_loaded(tmp_path: Path) -> None:
    file = tmp_path / "a b.json"
    talk("um", f"/save {file}", system="s")
    assert json.loads(file.read_text("utf-8"))["messages"][1] == {"role": "user", "content": "um"}
    conversation, page = talk("outra", f"/load {file}", "dois")
    assert contents(conversation) == ["s", "um", "um/1", "dois", "dois/2"]
    assert page.noted == ["loaded: 3 messages"]
    assert contents(talk(f"/load {file}", "/reset")[0]) == ["s"]


def test_save_with_a_bang_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("meu")
    assert "overwrites it" in talk("um", f"/save {file}", forgiving=True)[1].noted[0]
    talk("um", f"/save! {file}")
    assert "um/1" in file.read_text("utf-8")


def test_stats_are_told_on_request_and_after_each_answer_if_asked_for() -> None:
    line = "10 tokens at 12.3/s; 10 read in 0.50 s, 20 kept; context 40 of 100, 40%"
    assert talk("/stats", "um", "/stats")[1].noted == ["no answer yet", line]
    assert talk("um", "dois", stats=True)[1].noted == [line, line]


def test_help_tells_every_command_in_eighty_columns() -> None:
    (told,) = talk("/help")[1].noted
    assert all(name in told for name in COMMANDS) and MORE_HELP in told
    assert max(map(len, told.splitlines())) <= 80


def test_an_unknown_command_is_no_question_and_is_guessed() -> None:
    conversation, page = talk("/rest", "/sistem És um eco.", "/zzz")
    assert contents(conversation) == []
    assert page.noted == [
        "/rest: not a command; did you mean /reset?",
        "/sistem: not a command; did you mean /system?",
        "/zzz: not a command; /help lists them",
    ]


@pytest.mark.parametrize("words", ["/etc/passwd", "/zzz o que é?", "\n/bye", " /reset"])
def test_what_only_begins_like_a_command_is_a_question(words: str) -> None:
    assert contents(talk(words)[0])[0] == words.strip()


def test_words_after_a_command_that_takes_none_are_not_lost() -> None:
    conversation, page = talk("um", "/reset já", forgiving=True)
    assert len(conversation.messages) == 2
    assert "takes no words" in page.noted[0]


def test_ctrl_c_keeps_what_was_said() -> None:
    conversation, page = talk("um", "dois", model=Echo(fails=KeyboardInterrupt(), fails_after=2))
    assert contents(conversation) == ["um", "um", "dois", "dois"]
    assert page.said == "um|dois|"


def test_ctrl_c_before_anything_was_said_takes_the_question_back() -> None:
    assert contents(talk("um", model=Echo(fails=KeyboardInterrupt()))[0]) == []


@pytest.mark.parametrize(
    "error", [ContextFull("prompt", "9 tokens"), UsageError("chat template", "roles must alternate")]
)
def test_a_person_goes_on_after_an_error_as_if_nothing_had_been_asked(error: Exception) -> None:
    conversation, page = talk("um", model=Echo(fails=error), system="s", forgiving=True)
    assert contents(conversation) == ["s"]
    assert str(error) in page.noted[0]


def test_a_person_is_told_how_to_make_room() -> None:
    assert "/reset makes room" in talk("um", model=Echo(fails=ContextFull("a", "b")), forgiving=True)[1].noted[0]


def test_a_failed_regen_leaves_the_answer_there_was() -> None:
    model = Echo()
    page = Page()
    conversation = Conversation(model, page, Manners(100, forgiving=True))
    conversation.hear("um")
    model.fails = ContextFull("a", "b")
    conversation.hear("/regen")
    assert contents(conversation) == ["um", "um/1"]


@pytest.mark.parametrize("error", [ContextFull("prompt", "9 tokens"), UsageError("chat template", "no")])
def test_a_script_ends_with_the_error(error: Exception) -> None:
    with pytest.raises(type(error)):
        talk("um", model=Echo(fails=error))


def test_an_error_nobody_can_go_on_from_ends_a_persons_talk_too() -> None:
    with pytest.raises(ModelUnsupported):
        talk("um", model=Echo(fails=ModelUnsupported("a", "b")), forgiving=True)


def test_a_person_is_told_that_an_answer_was_cut_short() -> None:
    assert "cut short" in talk("um", model=Echo(took=Took(finish="length")), forgiving=True)[1].noted[0]
    assert talk("um", model=Echo(took=Took(finish="length")))[1].noted == []


@pytest.mark.parametrize("command", ["/undo", "/regen"])
def test_without_a_question_there_is_nothing_to_take_back(command: str) -> None:
    with pytest.raises(UsageError, match="no question in it yet"):
        talk(command, system="s")
