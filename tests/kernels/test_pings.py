from datetime import UTC, datetime

from ci_tools_jupyter.pings import DENSE_PINGS, LONGEST_DELAY, StallDetector, to_delay


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def test_a_connection_on_which_most_messages_are_held_back_stalls() -> None:
    detector = StallDetector()
    for number in range(2):
        detector.note(at(number), number + 7.001)
        for _ in range(4):
            detector.note(at(number), number + 7.042)

    assert detector.stalling


def test_a_connection_on_which_a_few_messages_are_late_does_not_stall() -> None:
    detector = StallDetector()
    for number in range(100):
        detector.note(at(number), number - 50 + 0.06 * (number % 4 == 0))

    assert not detector.stalling


def test_times_that_are_none_are_ignored() -> None:
    detector = StallDetector()
    for sent in ("", "yesterday", "99999-01-01"):
        detector.note(sent, 0.0)

    assert not detector.stalling


def test_pings_are_dense_at_first_and_then_rare() -> None:
    delays = [to_delay(number) for number in range(40)]

    assert delays[:DENSE_PINGS] == [0.002] * DENSE_PINGS
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY
