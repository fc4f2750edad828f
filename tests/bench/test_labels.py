"""Labels beside points, on nothing else."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from amalia_bench.labels import Box, along, disc, place_labels, spread_out

FRAME = Box(0, 0, 760, 430)


def test_a_lone_label_stands_close_to_its_point() -> None:
    (box,) = place_labels([disc(100, 100, 5)], [(40, 14)], FRAME)
    assert box.x == 108 and box.y == 93


def test_labels_of_crowded_points_share_no_room() -> None:
    points = [disc(300 + 6 * at, 200 + 3 * at, 5) for at in range(9)]
    boxes = place_labels(points, [(50, 28)] * 9, FRAME)
    assert not any(one.shared(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.shared(point) for box in boxes for point in points)


def test_a_label_at_the_edge_stays_within_the_frame() -> None:
    boxes = place_labels([disc(757, 428, 3), disc(2, 2, 3)], [(60, 14)] * 2, FRAME)
    assert all(box.outside(FRAME) < 1e-6 for box in boxes)


def test_a_label_keeps_off_a_line() -> None:
    line = along([(108, 0), (108, 430)])
    (box,) = place_labels([disc(100, 100, 5)], [(40, 14)], FRAME, line)
    assert not any(box.shared(piece) for piece in line)


def test_a_box_shares_what_both_cover() -> None:
    assert Box(0, 0, 10, 10).shared(Box(6, 8, 10, 10)) == 8


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_names_at_the_ends_of_lines_are_a_gap_apart_and_inside(places: list[float]) -> None:
    moved = sorted(spread_out(places, 14, 0, 300))
    assert all(after - before >= 14 - 1e-6 for before, after in itertools.pairwise(moved))
    assert moved[0] >= -1e-6 and moved[-1] <= 300 + 1e-6


def test_names_that_are_apart_already_do_not_move() -> None:
    assert spread_out([10, 100, 50], 14, 0, 300) == [10, 100, 50]
