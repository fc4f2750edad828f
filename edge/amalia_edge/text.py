"""Token bytes → text, never half a character, and nothing from a stop string on."""

import codecs


class TextStream:
    """Turn the bytes of one token after another into text; an unfinished character waits for its last byte.

    Text that may be the beginning of a stop string waits too. The stop that is complete first ends the text, wherever
    the tokens are cut; neither it nor what follows is given.
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._whole = True  # no character is under way
        self._stops = stops
        self._letters = frozenset(stop[0] for stop in stops)  # a stop can begin nowhere else
        self._held = ""
        self.stopped = False

    def push(self, token: bytes) -> str:
        try:
            text = token.decode() if self._whole else self._decoded(token)
        except UnicodeDecodeError:
            text = self._decoded(token)
        return self._before_stop(text) if self._stops else text

    def _decoded(self, token: bytes) -> str:
        """Decode what begins or ends within a character."""
        text = self._decoder.decode(token)
        self._whole = not self._decoder.getstate()[0]
        return text

    def finish(self) -> str:
        """Give what is left: text that was no stop after all, a replacement character where the model stopped inside one."""
        text = self._decoder.decode(b"", final=True)
        if not self._stops:
            return text
        text = self._before_stop(text) + self._held
        self._held = ""
        return text

    def _before_stop(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        self.stopped = bool(found)
        cut = min(found)[1] if found else self._possible_stop(text)
        self._held = "" if found else text[cut:]
        return text[:cut]

    def _possible_stop(self, text: str) -> int:
        """Give where a stop may have begun whose end is still to come, else the text's length."""
        for place, letter in enumerate(text):
            if letter in self._letters:
                tail = text[place:]
                if any(stop.startswith(tail) for stop in self._stops):
                    return place
        return len(text)
