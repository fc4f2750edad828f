"""How many tokens to read at once so that it takes a given time, learnt from what chunks of each size took."""

STEP = 16  # tokens: kernels work on tiles of them, and a tile that is not full costs as much
FIRST = 32  # tokens, before anything is known
CHEAPER = 0.9  # a larger chunk takes less for each token: the weights are read once
FADING = 0.998  # what was too slow is believed a little less with each chunk, so that its size is tried again


class Pace:
    def __init__(self, largest: int) -> None:
        """Never ask for more than `largest` tokens."""
        self._largest = largest
        self._took: dict[int, float] = {}  # seconds, by tokens: the better of the last two, for a moment may be bad
        self._last: dict[int, float] = {}
        self._warm = False  # the first chunk of all takes longer than others

    def learn(self, tokens: int, seconds: float) -> None:
        """Remember what a chunk took; one that ends a prompt has any size, and tells nothing of whole tiles."""
        if tokens % STEP == 0 and self._warm:
            better = min(seconds, self._last.get(tokens, seconds))
            self._took = {size: took * FADING for size, took in self._took.items()} | {tokens: better}
            self._last[tokens] = seconds
        self._warm = True

    def fitting(self, seconds: float) -> int:
        """Give the largest size known to fit, or a larger one if that should fit too; at least one tile."""
        if not self._took:
            return min(FIRST, self._largest)
        fits = [size for size, took in self._took.items() if took <= seconds]
        known = max(fits, default=min(self._took))
        each = self._took[known] / known
        size = int(seconds / each * (1 if fits else CHEAPER)) // STEP * STEP
        if size + STEP not in self._took and each * (size + STEP) * CHEAPER <= seconds:
            size += STEP
        too_slow = min((size for size in self._took if size > known and fits), default=self._largest + STEP)
        return min(max(size, STEP), too_slow - STEP, self._largest)
