"""Where a pronoun stands in its clause: whether anything draws it before the verb, as European grammar has it.

Only what is enough to judge *o rio se divide* against *o rio que se divide*: the words that draw pronouns, from the
rules file, and which of them a verb has already used up before the pronoun is reached.
"""

import re
from dataclasses import dataclass

_ASIDE = re.compile(r"\([^()]*\)|[—–][^—–]*[—–]")
_CLAUSE_END = re.compile(r"[;:(«»“”\"—–…]")
_INFINITIVE = re.compile(
    r"(?<!\blug)(?<!mulh)(?<!colh)(?<!\bm)(?<!\bl)(?<!\bp)(?<!\bb)(?<!popul)(?<!milit)(?<!açúc)(?<!\bolh)(?<!alt)"
    r"(?<!lu)(?<!\b)(?<!famili)(?<!escol)(?<!dól)(?<!sol)(?<!pol)(?<!rad)(?<!celul)(?<!po[dm])(?<!prazer)[aeiôí]r$"
)
_PART = re.compile(r"\w+(?:-\w+)*")


@dataclass(frozen=True)
class Clauses:
    """The word classes of the rules file's [clauses], each a pattern of one whole word."""

    subordinators: re.Pattern[str]  # que, quando, se …: draw until their verb, and over "e" beyond it
    attractors: re.Pattern[str]  # não, já, todos …: draw until the next verb
    prepositions: re.Pattern[str]  # de, para …: draw when they stand right before the pronoun
    coordinators: re.Pattern[str]
    verbs: re.Pattern[str]  # forms that are surely finite verbs
    openers: re.Pattern[str]  # what a noun phrase or a phrase of place or time begins with
    past: re.Pattern[str]  # forms that cannot follow the condition "se"

    @staticmethod
    def of(classes: dict[str, str]) -> "Clauses":
        return Clauses(**{name: re.compile(pattern, re.IGNORECASE) for name, pattern in classes.items()})

    def ordinary(self, word: str) -> bool:
        """Say whether this is one of the small words that any sentence may begin with."""
        return any(
            pattern.fullmatch(word)
            for pattern in (self.subordinators, self.attractors, self.prepositions, self.coordinators, self.openers)
        )

    def plain(self, sentence: str, start: int, end: int, kind: str) -> bool:
        """Say whether the pronoun at `start` stands before its verb although nothing draws it there."""
        before = _CLAUSE_END.split(_ASIDE.sub(" ", sentence[:start]))[-1]
        segments = [_PART.findall(segment) for segment in before.split(",")]
        if self.drawn(segments):
            return False
        return kind != "subject" or self.only_subject(segments, sentence[start:end].split()[-1], sentence[end:])

    def drawn(self, segments: list[list[str]]) -> bool:
        """Say whether a word of these segments (the words between commas) draws the pronoun after them."""
        *earlier, last = segments
        if last and self.prepositions.fullmatch(last[-1]):
            return True
        coordinated = bool(last) and bool(self.coordinators.fullmatch(last[0]))
        for place, segment in enumerate(earlier):
            inside = [at for at, word in enumerate(segment) if self.subordinators.fullmatch(word)]
            if not inside:
                continue
            whole = place == len(earlier) - 1 and inside == [0] and len(segment) > 1  # "quando chove, …"
            relative = place == len(earlier) - 1 and inside[-1] > 0 and (coordinated or not last)
            if not whole and (relative or self._open(segment)):
                return True
        if earlier and not last and self._open(earlier[-1]) and not any(map(self.subordinators.fullmatch, earlier[-1])):
            return True  # "de todas as vezes, me disseram"
        return self._open(last)

    def _open(self, words: list[str]) -> bool:
        """Say whether a word draws and no verb after it has used it up."""
        waiting, used, attracted, seen = 0, 0, False, False
        for word in words:
            if self.coordinators.fullmatch(word) and seen:
                attracted = False
            elif self.subordinators.fullmatch(word):
                waiting += 1
            elif self.attractors.fullmatch(word):
                attracted = True
            elif self.verbs.fullmatch(word):
                seen = True
                if waiting:
                    waiting, used = waiting - 1, used + 1
                else:
                    attracted = False
        again = bool(used) and bool(self.coordinators.fullmatch(words[-1]))  # "que caiu e se levantou"
        return waiting > 0 or attracted or again

    def only_subject(self, segments: list[list[str]], verb: str, after: str) -> bool:
        """Say whether what stands before "se" is a subject, so that "se" is no condition."""
        *earlier, last = segments
        stretch = list(last)
        for at, word in enumerate(last):
            if self.coordinators.fullmatch(word) and any(self.verbs.fullmatch(one) for one in last[:at]):
                stretch = last[at + 1 :]
        while stretch and self.coordinators.fullmatch(stretch[0]):
            stretch = stretch[1:]
        if not stretch:
            if not last and earlier and earlier[-1] and self.openers.fullmatch(earlier[-1][0]) and "," not in after:
                return True  # "durante a noite, se ouvem os sinos"
            return bool(earlier or last) and bool(self.past.fullmatch(verb))
        if not self.openers.fullmatch(stretch[0]) and not stretch[0][0].isupper():
            return False
        return not self._finite(stretch) and not _INFINITIVE.search(stretch[-1])

    def _finite(self, words: list[str]) -> bool:
        """Say whether there is a finite verb outside relative clauses."""
        relative = False
        for word in words:
            if self.subordinators.fullmatch(word):
                relative = True
            elif self.verbs.fullmatch(word) or re.search(r"-(me|te|se|lhes?|nos|vos|[lno]?[oa]s?)$", word):
                if not relative:
                    return True
                relative = False
        return False
