"""Text ⇄ token ids, by the vocabulary inside the model file."""

import ctypes
import re
from collections.abc import Collection
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np

from amalia_edge import native
from amalia_edge.errors import ModelCorrupt, ModelUnsupported

UNKNOWN, CONTROL, USER_DEFINED = 1 << 0, 1 << 3, 1 << 4  # enum llama_token_attr


class Vocabulary:
    def __init__(self, model: Any, shown: Collection[str] = ()) -> None:
        """Take the texts of control tokens that are to be `shown` as text: whoever reads an answer looks for them."""
        self._library, self._shown = native.library(), frozenset(text.encode() for text in shown)
        self.pointer = self._library.llama_model_get_vocab(model)
        self._bytes: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self.size = int(self._library.llama_vocab_n_tokens(self.pointer))
        self.begin = int(self._library.llama_vocab_bos(self.pointer))
        self.end = int(self._library.llama_vocab_eos(self.pointer))
        self.adds_begin = bool(self._library.llama_vocab_get_add_bos(self.pointer)) and self.begin >= 0
        self.adds_end = bool(self._library.llama_vocab_get_add_eos(self.pointer)) and self.end >= 0

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Give the ids of a text; control tokens in it are recognised only when asked, which user text never is."""
        found = self._tokenized(text, control)
        return found if control or not self._forbidden.intersection(found) else self._spelt(found)

    def _tokenized(self, text: str, control: bool) -> list[int]:
        raw = text.encode("utf-8", "surrogatepass")
        room = len(raw) + 8
        ids = (self._library.llama_token * room)()
        count = self._library.llama_tokenize(self.pointer, raw, len(raw), ids, room, False, control)
        if count < 0:  # the room was too small: libllama says how much it wants
            ids = (self._library.llama_token * -count)()
            count = self._library.llama_tokenize(self.pointer, raw, len(raw), ids, -count, False, control)
        if count < 0:
            raise ModelCorrupt("vocabulary", "libllama cannot tokenize the text", "convert the model again")
        return list(ids[:count])

    def _spelt(self, ids: list[int]) -> list[int]:
        """Spell each control token in letters or bytes: merging plain pieces may have led to one (`<`, `s>` → `<s>`)."""
        texts = {token: text for text, token in self.control.items()}
        spelt: list[int] = []
        for token in ids:
            if token not in texts:
                spelt.append(token)
            for letter in texts.get(token, ""):
                spelt += self._letter(letter)
        return spelt

    def _letter(self, letter: str) -> list[int]:
        """Give plain tokens that stand for a letter: its piece, its bytes, or what a byte-level vocabulary makes of it."""
        in_bytes = [f"<0x{byte:02X}>" for byte in letter.encode()]
        ways = [[self._pieces.get(piece, -1) for piece in pieces] for pieces in ([letter], in_bytes)]
        for ids in (*ways, self._tokenized(letter, False)):
            if min(ids, default=-1) >= 0 and not self._forbidden.intersection(ids) and self.decode(ids) == letter:
                return ids
        found = f"has no plain token for {letter!r}"
        raise ModelUnsupported("vocabulary", found, "leave control text out of the prompt")

    def bytes_of(self, token: int) -> bytes:
        """Give the bytes one token stands for; control tokens stand for none, but for those that are shown."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._piece(token)
        return known

    def _piece(self, token: int) -> bytes:
        text: bytes = self._library.llama_vocab_get_text(self.pointer, token) or b""
        if text in self._shown:
            return text
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = self._library.llama_token_to_piece(self.pointer, token, buffer, room, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.bytes_of(token) for token in ids).decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Say whether a token ends the answer (`<|im_end|>`, `</s>` …)."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(self._library.llama_vocab_is_eog(self.pointer, token))
        return known

    @cached_property
    def suppressed(self) -> tuple[int, ...]:
        """Give the tokens this model must never write, by its own metadata."""
        count = ctypes.c_int32()
        ids = self._library.llama_vocab_get_suppress_tokens(self.pointer, ctypes.byref(count))
        return tuple(ids[: count.value])

    @cached_property
    def _forbidden(self) -> frozenset[int]:
        return frozenset(self.control.values())

    @cached_property
    def _pieces(self) -> dict[str, int]:
        """Give the plain pieces of one letter, and the byte tokens, by their texts."""
        texts = map(self._library.llama_vocab_get_text, repeat(self.pointer), range(self.size))
        short = {token: text.decode("utf-8", "replace") for token, text in enumerate(texts) if text and len(text) <= 6}
        return {
            text: token
            for token, text in short.items()
            if token not in self._forbidden and (len(text) == 1 or re.fullmatch("<0x[0-9A-F]{2}>", text))
        }

    @cached_property
    def control(self) -> dict[str, int]:
        """Give each control token's text and id: what a template may write and a user may not.

        libllama recognises user-defined tokens in plain text too. Most are letters like others (`<b>`, runs of spaces);
        those that look like `<|start|>` are somebody's control tokens all the same.
        """
        found = {}
        every = map(self._library.llama_vocab_get_attr, repeat(self.pointer), range(self.size))
        attributes = np.fromiter(every, np.int32, self.size)  # 30 ms for 128,000
        for token in np.flatnonzero(attributes & (UNKNOWN | CONTROL | USER_DEFINED)).tolist():
            text = (self._library.llama_vocab_get_text(self.pointer, token) or b"").decode("utf-8", "replace")
            if text and (attributes[token] & (UNKNOWN | CONTROL) or re.fullmatch(r"<\|.*\|>", text)):
                found[text] = token
        return found
