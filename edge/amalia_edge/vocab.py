"""Text ⇄ token ids, by the vocabulary inside the model file."""

import ctypes
import re
from functools import cached_property
from typing import Any

from amalia_edge import native
from amalia_edge.errors import ModelCorrupt, ModelUnsupported

CONTROL = 1 << 3  # LLAMA_TOKEN_ATTR_CONTROL
UNKNOWN = 1 << 0  # LLAMA_TOKEN_ATTR_UNKNOWN


class Vocabulary:
    def __init__(self, model: Any) -> None:
        self._library = native.library()
        self._vocabulary = self._library.llama_model_get_vocab(model)
        self._bytes: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self.size = int(self._library.llama_vocab_n_tokens(self._vocabulary))
        self.begin = int(self._library.llama_vocab_bos(self._vocabulary))
        self.end = int(self._library.llama_vocab_eos(self._vocabulary))
        self.adds_begin = bool(self._library.llama_vocab_get_add_bos(self._vocabulary)) and self.begin >= 0

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Give the ids of a text; control tokens in it are recognised only when asked, which user text never is."""
        raw = text.encode("utf-8", "surrogatepass")
        room = len(raw) + 8
        ids = (self._library.llama_token * room)()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), ids, room, False, control)
        if count < 0:  # the room was too small: libllama says how much it wants
            ids = (self._library.llama_token * -count)()
            count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), ids, -count, False, control)
        if count < 0:
            raise ModelCorrupt("vocabulary", "libllama cannot tokenize the text", "convert the model again")
        found = list(ids[:count])
        return found if control or not self._forbidden.intersection(found) else self._spelt(found)

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
        wanted = [letter] if letter in self._pieces else [f"<0x{byte:02X}>" for byte in letter.encode()]
        if any(piece not in self._pieces for piece in wanted):
            raise ModelUnsupported(
                "vocabulary", f"has no plain token for {letter!r}", "leave control text out of the prompt"
            )
        return [self._pieces[piece] for piece in wanted]

    def bytes_of(self, token: int) -> bytes:
        """Give the bytes one token stands for; control tokens stand for none."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._piece(token)
        return known

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = self._library.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.bytes_of(token) for token in ids).decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Say whether a token ends the answer (`<|im_end|>`, `</s>` …)."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(self._library.llama_vocab_is_eog(self._vocabulary, token))
        return known

    @cached_property
    def _forbidden(self) -> frozenset[int]:
        return frozenset(self.control.values())

    @cached_property
    def _pieces(self) -> dict[str, int]:
        """Give the plain pieces of one letter, and the byte tokens, by their texts."""
        texts = (self._library.llama_vocab_get_text(self._vocabulary, token) for token in range(self.size))
        known = {(text or b"").decode("utf-8", "replace"): token for token, text in enumerate(texts)}
        short = {
            text: token for text, token in known.items() if len(text) == 1 or re.fullmatch("<0x[0-9A-F]{2}>", text)
        }
        return {text: token for text, token in short.items() if token not in self._forbidden}

    @cached_property
    def control(self) -> dict[str, int]:
        """Give each control token's text and id: what a template may write and a user may not."""
        found = {}
        for token in range(self.size):
            if self._library.llama_vocab_get_attr(self._vocabulary, token) & (CONTROL | UNKNOWN):
                text = self._library.llama_vocab_get_text(self._vocabulary, token)
                if text:
                    found[text.decode("utf-8", "replace")] = token
        return found
