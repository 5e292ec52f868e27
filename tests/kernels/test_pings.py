from datetime import UTC, datetime

from ci_tools_jupyter.pings import DENSE_PINGS, LONGEST_DELAY, StallDetector, to_delay


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def test_messages_that_are_held_back_make_a_connection_stall() -> None:
    detector = StallDetector()
    for sent, arrived in ((0, 7.001), (1, 8.045), (2, 9.002)):
        detector.note(at(sent), arrived)
        assert not detector.stalling
    detector.note(at(3), 10.044)

    assert detector.stalling


def test_messages_in_time_do_not() -> None:
    detector = StallDetector()
    for number in range(100):
        detector.note(at(number), number - 50 + 0.01 * (number % 2))

    assert not detector.stalling


def test_times_that_are_none_are_ignored() -> None:
    detector = StallDetector()
    for sent in ("", "yesterday", "99999-01-01"):
        detector.note(sent, 0.0)

    assert not detector.stalling


def test_pings_are_dense_at_first_and_then_rare() -> None:
    delays = [to_delay(number) for number in range(30)]

    assert delays[:DENSE_PINGS] == [0.002] * DENSE_PINGS
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY
