import pytest

from ci_tools import LimitError
from ci_tools.limits import RateLimiter


def test_calls_over_the_minute_are_refused_and_refilled_evenly() -> None:
    now = 0.0
    limiter = RateLimiter(60, clock=lambda: now)
    for _ in range(60):
        limiter.check("ada")

    with pytest.raises(LimitError) as refused:
        limiter.check("ada")

    assert refused.value.retry_after == pytest.approx(1.0)
    limiter.check("bob")
    now = 1.0
    limiter.check("ada")
    with pytest.raises(LimitError):
        limiter.check("ada")
