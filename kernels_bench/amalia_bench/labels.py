"""Labels that stand beside what they name and on nothing else: boxes are tried around each point, the nearest free one taken."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DIRECTIONS = tuple((math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4)) for turn in (0, 4, 2, 6, 1, 7, 3, 5))
LEAD = 8.0  # from which on a line leads from a point to its label
DISTANCES = (3.0, 10.0, 20.0, 32.0, 46.0, 62.0, 80.0)  # from a point's edge to its label's

Line = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Box:
    """A rectangle: its lower left corner, its width and its height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """Give the place in it that is nearest to a point."""
        return min(max(point[0], self.x), self.x + self.width), min(max(point[1], self.y), self.y + self.height)

    def shared(self, other: "Box") -> float:
        """Give the area that both cover."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        along = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, across) * max(0.0, along)

    def outside(self, frame: "Box") -> float:
        """Give the area that lies beyond a frame."""
        return self.width * self.height - self.shared(frame)


def disc(x: float, y: float, radius: float) -> Box:
    """Give the square around a point."""
    return Box(x - radius, y - radius, 2 * radius, 2 * radius)


def along(line: Sequence[tuple[float, float]], step: float = 5.0) -> list[Box]:
    """Give small boxes that lie on a line, for labels to keep off."""
    found = []
    for (x, y), (to_x, to_y) in itertools.pairwise(line):
        count = max(1, math.ceil(math.dist((x, y), (to_x, to_y)) / step))
        found += [disc(x + (to_x - x) * at / count, y + (to_y - y) * at / count, 1.5) for at in range(count + 1)]
    return found


def place_labels(points: Sequence[Box], sizes: Sequence[tuple[float, float]], frame: Box, taken: Sequence[Box] = ()) -> list[Box]:  # fmt: skip
    """Give each point's label a box within the frame, clear of every point, of what is `taken`, and of one another.

    Whoever comes first has the best place, so several orders are tried, and the one with the least trouble is kept.
    """
    every, tried = range(len(points)), list[tuple[float, list[Box]]]()
    for order in (list(every), *(sorted(every, key=way) for way in _ways(points))):
        tried.append(_in_order(order, points, sizes, _Ground(frame, (*points, *taken))))
        if tried[-1][0] <= DISTANCES[0] * len(points):
            break
    return min(tried, key=lambda one: one[0])[1]


@dataclass(frozen=True)
class _Ground:
    """Where labels may stand: a frame, and what is in it already."""

    frame: Box
    taken: tuple[Box, ...]


def _ways(points: Sequence[Box]) -> list[Callable[[int], float]]:
    return [
        lambda at: points[at].x,
        lambda at: -points[at].x,
        lambda at: points[at].y,
        lambda at: -points[at].y,
        lambda at: -sum(disc(*points[at].middle, 40).shared(other) for other in points),  # the most crowded first
    ]


def _in_order(
    order: Sequence[int], points: Sequence[Box], sizes: Sequence[tuple[float, float]], ground: _Ground
) -> tuple[float, list[Box]]:
    """Place labels one after the other; give the trouble there was, and the boxes."""
    trouble, placed, leads = 0.0, dict[int, Box](), list[Line]()
    for at in order:
        others = [*points[:at], *points[at + 1 :], *placed.values()]
        worst, box = _best_beside(points[at], sizes[at], ground, others, leads)
        trouble, placed[at] = trouble + worst, box
        lead = points[at].middle, box.nearest(points[at].middle)
        if math.dist(*lead) > points[at].width / 2 + LEAD:
            leads.append(lead)
    return trouble, [placed[at] for at in range(len(points))]


def _best_beside(
    point: Box, size: tuple[float, float], ground: _Ground, others: Sequence[Box], leads: Sequence[Line]
) -> tuple[float, Box]:
    """Find the box around a point that gives the least trouble, and how much."""
    best = math.inf, point
    for away, turn in itertools.product(DISTANCES, DIRECTIONS):
        if away >= best[0]:
            break
        box = _beside(point, *size, turn, away)
        area = 4 * box.outside(ground.frame) + sum(map(box.shared, ground.taken)) + sum(map(box.shared, others))
        cost = away + (100 + area if area > 1e-6 else 0)
        if cost < best[0]:
            lead = point.middle, box.nearest(point.middle)
            crossed = sum(_crosses(lead, other) for other in others) if away > LEAD else 0
            cost += 30 * (crossed + sum(_crosses(one, box) for one in leads))
        if cost < best[0]:
            best = cost, box
    return best


def _crosses(line: Line, box: Box) -> bool:
    """Say whether a line from one point to another goes through a box."""
    (x, y), (to_x, to_y) = line
    enters, leaves = 0.0, 1.0
    for start, end, low, high in ((x, to_x, box.x, box.x + box.width), (y, to_y, box.y, box.y + box.height)):
        if start == end:
            if not low < start < high:
                return False
            continue
        first, last = sorted(((low - start) / (end - start), (high - start) / (end - start)))
        enters, leaves = max(enters, first), min(leaves, last)
    return enters < leaves


def _beside(point: Box, width: float, height: float, turn: tuple[float, float], away: float) -> Box:
    """Give the box that lies in one direction from a point, their edges `away` from each other."""
    across, along = turn
    x = point.x + point.width / 2 + across * (point.width / 2 + away + width / 2) - width / 2
    y = point.y + point.height / 2 + along * (point.height / 2 + away + height / 2) - height / 2
    return Box(x, y, width, height)


def spread_out(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places on a line apart until each is `gap` from the next, as little as that takes, within low and high."""
    order = sorted(range(len(places)), key=lambda at: places[at])
    gap = min(gap, (high - low) / max(1, len(places) - 1))
    moved = [0.0] * len(places)
    floor = low
    for at in order:
        moved[at] = max(places[at], floor)
        floor = moved[at] + gap
    ceiling = high
    for at in reversed(order):
        moved[at] = min(moved[at], ceiling)
        ceiling = moved[at] - gap
    return moved
