from ds_sync.server.documents.read_positions import SPAN, ReadPositions


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_nothing_is_known_until_the_span_is_over() -> None:
    clock = Clock()
    reads = ReadPositions(clock)
    assert reads.oldest("a") == 0
    clock.time += SPAN - 1
    assert reads.oldest("a") == 0
    clock.time += 1
    assert reads.oldest("a") is None


def test_the_oldest_position_counts_for_the_span_at_least_and_twice_at_most() -> None:
    clock = Clock()
    reads = ReadPositions(clock)
    clock.time += SPAN
    for position in (70, 50, 90):
        reads.note("a", position)
    reads.note("b", 10)
    assert (reads.oldest("a"), reads.oldest("b"), reads.oldest("c")) == (50, 10, None)
    clock.time += SPAN - 1
    reads.note("a", 80)
    assert reads.oldest("a") == 50
    clock.time += 2
    reads.note("a", 85)
    assert reads.oldest("a") == 50, "an earlier turn still counts"
    clock.time += SPAN
    assert (reads.oldest("a"), reads.oldest("b")) == (85, None)
    clock.time += 2 * SPAN
    assert reads.oldest("a") is None


def test_a_long_silence_forgets_both_turns() -> None:
    clock = Clock()
    reads = ReadPositions(clock)
    clock.time += SPAN
    reads.note("a", 5)
    clock.time += 2 * SPAN
    assert reads.oldest("a") is None


def test_ten_minutes_in_seconds() -> None:
    clock = Clock()
    reads = ReadPositions(clock)
    clock.time += 599
    assert reads.oldest("a") == 0, "who read before the start may still come"
    clock.time += 2
    assert reads.oldest("a") is None
    clock.time += 599
    reads.note("a", 50)
    clock.time += 1
    assert reads.oldest("a") == 50, "the next ten minutes have begun"
    clock.time += 598
    assert reads.oldest("a") == 50, "599 seconds ago"
    clock.time += 2
    assert reads.oldest("a") is None, "601 seconds ago"
