"""Token bytes → text, never half a character."""

import codecs


class TextStream:
    """Turn the bytes of one token after another into text; an unfinished character waits for its last byte."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: bytes) -> str:
        return self._decoder.decode(token)

    def finish(self) -> str:
        """Give what is left: a replacement character where the model stopped inside one."""
        return self._decoder.decode(b"", final=True)
