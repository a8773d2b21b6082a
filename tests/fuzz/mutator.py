"""Damages bytes: a few changes of the kinds that parsers are least ready for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = [
    *(b"-1", b"0", b"00", b"1", b"9007199254740991", b"9007199254740992", b"18446744073709551616", b"9" * 17, b"9" * 400, b"1" * 5000),
    *(b"1e3", b"1.5", b"+1", b" 1", b"0x10", b"NaN", b"Infinity", b"1_000"),
]
"""Where a number stands in text."""

WIDE = [b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff" * 4, b"\xff" * 10, b"\xff\xff\xff\xff\x0f", b"\x80" * 9 + b"\x01", b"\x00" * 8]
"""Where a number stands in bytes; the runs are varints."""

TEXT = [
    *(b"\r\n", b"\n", b"\r", b"\t", b" ", b"%00", b"%2e%2e", b"%ff", b"..", b"\xc3", b"\xed\xa0\x80", "é😀".encode()),
    *(b'"', b"\\", b"{", b"[" * 3000),
]


def mutate(rng: random.Random, data: bytes, words: Sequence[bytes] = (), *, most: int = 4) -> bytes:
    """Return `data` after 1 to `most` changes; `words` are pieces of the format, put anywhere."""
    for _ in range(rng.randint(1, most)):
        data = rng.choice(_CHANGES)(rng, data, words)
    return data[:MAX_BYTES]


MAX_BYTES = 4 * 1024 * 1024


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randint(0, len(data))


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 64, 512, len(data))))


def _flip(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def _overwrite(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at, new = _place(rng, data), rng.choice((rng.randbytes(rng.choice((1, 1, 2, 8))), rng.choice(WIDE)))
    return data[:at] + new + data[at + len(new) :]


def _insert(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice((rng.choice(NUMBERS), rng.choice(WIDE), rng.choice(TEXT), rng.randbytes(3))) + data[at:]


def _insert_word(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(words or TEXT) + data[at:]


def _delete(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    times = rng.choice((1, 1, 2, 20, 1000))
    return data[:end] + data[start:end] * min(times, 64 * 1024 // max(1, end - start)) + data[end:]


def _swap(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    (start, middle), end = _span(rng, data), _place(rng, data)
    return data[:start] + data[middle:end] + data[start:middle] + data[end:] if middle <= end else data


def _cut(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    return data[: _place(rng, data)]


def _number(rng: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    """Another number where one stands in text."""
    digits = [at for at, byte in enumerate(data[:4096]) if 48 <= byte < 58]
    if not digits:
        return data
    start = end = rng.choice(digits)
    while end < len(data) and 48 <= data[end] < 58:
        end += 1
    return data[:start] + rng.choice(NUMBERS) + data[end:]


_CHANGES: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    *(_flip, _overwrite, _insert, _insert_word, _insert_word, _delete, _repeat, _swap, _cut, _number),
)
