"""What a y-websocket server is known to hold of a document: shown by its answers, never assumed.

The protocol has no acknowledgements. But a server answers sync step 1 (a state vector) with all that it holds beyond that vector, and with
every deletion it knows. So what it holds can be asked for: with a vector from before our edits, the answer must bring them back.
Vectors alone would not do: a deletion changes none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from ds_sync_yjs.wire import is_within, read_ranges

EMPTY_VERSION: Final = b"\x00"
"""The state vector of a document that holds nothing."""


@dataclass(frozen=True, slots=True)
class Question:
    """A sync step 1 that was sent and not answered yet."""

    expected: bytes | None
    """The update that the answer must contain; None: this only asks what we lack."""
    reached: bytes
    """Our version when it was asked: what the server holds if the answer is as expected."""
    mark: int
    """Which of our requests for proof this answers."""
    edit: int
    """The newest edit in `expected`."""


class Proof:
    """The questions and answers of one connection. Answers come in the order of the questions."""

    def __init__(self) -> None:
        self.base = EMPTY_VERSION
        """A version that the server has reached, as it said or has shown."""
        self._asked: deque[Question] = deque()

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._asked)

    def hear_version(self, version: bytes) -> None:
        """The server said what it holds."""
        if self.base == EMPTY_VERSION:
            self.base = version

    def ask(self, question: Question) -> None:
        """A question was sent."""
        self._asked.append(question)

    def hear_answer(self, update: bytes) -> tuple[Question | None, bool]:
        """Return the question that this answers, and whether the server has shown what was expected. The update must be checked."""
        if not self._asked:
            return None, False
        question = self._asked.popleft()
        if question.expected is None:
            return question, False
        shown = is_within(read_ranges(question.expected), read_ranges(update), {})
        if shown:
            self.base = question.reached
        return question, shown
