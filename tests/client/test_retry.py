import random

import pytest

from ds_sync.client.retry import Backoff, RetryPolicy, is_transient
from ds_sync.exceptions import NotFoundError, ProtocolError, ServerError, TransportError


def test_delays_stay_under_a_doubling_bound_and_begin_anew() -> None:
    backoff = Backoff(RetryPolicy(first_delay=1, max_delay=5), random.Random(1))
    for _ in range(2):
        delays = [backoff.next_delay() for _ in range(200)]
        assert all(0 <= delay <= bound for delay, bound in zip(delays, [1, 2, 4, *[5] * 197], strict=True))
        assert max(delays) > 4
        backoff.reset()


def test_retry_after_is_the_least_and_is_bounded() -> None:
    backoff = Backoff(RetryPolicy(max_retry_after=60), random.Random(1))
    assert 7 <= backoff.next_delay(7.0) <= 7.5
    assert 60 <= backoff.next_delay(1e9) <= 61
    assert 0 <= backoff.next_delay(-5.0) <= 2


@pytest.mark.parametrize(
    ("error", "idempotent", "plain"),
    [(TransportError("x"), True, False), (ServerError("x", status=503), True, True), (ServerError("x", status=502), True, False),
     (ServerError("x", status=501), False, False), (NotFoundError("x"), False, False), (ProtocolError("x"), False, False)],
)  # fmt: skip
def test_what_may_be_sent_again(error: Exception, idempotent: bool, plain: bool) -> None:
    assert is_transient(error, idempotent=True) is idempotent  # type: ignore[arg-type]
    assert is_transient(error, idempotent=False) is plain  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"first_delay": 0}, "first_delay"),
        ({"first_delay": -1}, "first_delay"),
        ({"first_delay": 2, "max_delay": 1}, "max_delay"),
        ({"multiplier": 0.9}, "multiplier"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        RetryPolicy(**settings)  # type: ignore[arg-type]


def test_the_bound_grows_by_the_multiplier() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    backoff = Backoff(RetryPolicy(first_delay=1, max_delay=20, multiplier=3), Highest())
    assert [backoff.next_delay() for _ in range(4)] == [1, 3, 9, 20]
