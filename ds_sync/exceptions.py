"""Every error of ds-sync, as one tree.

DsSyncError
├── ProtocolError               the peer broke the protocol
│   └── FramingError            bytes that are no run of frames                       .at
├── TransportError              no answer came; nothing is known of the request's fate
│   └── TransportTimeoutError
├── ResponseError               the server answered, and refused                      .status .code .retry_after
│   ├── InvalidRequestError     400
│   ├── UnauthorizedError       401
│   ├── ForbiddenError          403
│   │   └── StaleEpochError     403 with Producer-Epoch                               .current_epoch
│   ├── NotFoundError           404                                                   .incarnation
│   ├── ConflictError           409
│   │   ├── SequenceGapError    Producer-Seq runs ahead                               .expected .received
│   │   ├── SequenceRegressionError  Stream-Seq is not above the last one
│   │   ├── StreamClosedError   Stream-Closed: nothing can be appended                .tail
│   │   └── AlreadyClaimedError a subscription's wake that another worker has         .holder .generation
│   ├── GoneError               410                                                   .code says why
│   ├── PayloadTooLargeError    413
│   ├── RateLimitedError        429
│   └── ServerError             5xx
├── StoreError                  a local file
│   ├── FileInUseError          another process has it open                           .owner
│   ├── CorruptFileError        not a file of ours, or a damaged one
│   ├── NewerFileError          written by a newer ds-sync                            .found .known
│   └── StorageFullError        no space; nothing that was stored is lost
├── CrdtError
│   ├── InvalidUpdateError      bytes the CRDT library refuses                        .index
│   │   └── UnsupportedUpdateError   an update of a kind that it can't read
│   ├── DocumentBusyError       the application has a transaction open: try again soon
│   ├── FormatMismatchError     the document was made by another adapter              .found .expected
│   └── UnknownAdapterError     no adapter or engine of that name is installed        .name
├── SyncStoppedError            a document that can't sync until somebody acts        .state
├── NotDivergedError            there is nothing to resolve                           .state
├── SourceError                 a store to be imported that can't be read
├── TraceError                  an editing trace that can't be replayed
├── CompactionError             no snapshot of a document could be made
└── ClosedError                 used after close
"""

from __future__ import annotations


class DsSyncError(Exception):
    """The root: catch this to catch all of ours."""


class ProtocolError(DsSyncError):
    """The peer's answer breaks the protocol."""


class FramingError(ProtocolError):
    """Bytes that are not a run of frames (YJS-PROTOCOL.md section 7)."""

    def __init__(self, message: str, *, at: int) -> None:
        super().__init__(message)
        self.at = at
        """Bytes into the run at which reading failed."""


class TransportError(DsSyncError):
    """No answer: refused, reset, cut off, unresolvable. Whether the server acted is unknown."""


class TransportTimeoutError(TransportError):
    """No answer in time."""


class ResponseError(DsSyncError):
    """The server answered and refused."""

    default_status = 0

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = self.default_status if status is None else status
        """The HTTP status."""
        self.code = code
        """The machine code in the answer's JSON body, if it had one."""
        self.retry_after = retry_after
        """Seconds the server asks us to wait, if it does."""


class InvalidRequestError(ResponseError):
    """400: malformed request."""

    default_status = 400


class UnauthorizedError(ResponseError):
    """401: no credentials, or wrong ones."""

    default_status = 401


class ForbiddenError(ResponseError):
    """403: not allowed."""

    default_status = 403


class StaleEpochError(ForbiddenError):
    """403 with Producer-Epoch: somebody claimed a later epoch (PROTOCOL.md section 5.2.1)."""

    def __init__(self, message: str, *, current_epoch: int) -> None:
        super().__init__(message)
        self.current_epoch = current_epoch


class NotFoundError(ResponseError):
    """404: no such stream."""

    default_status = 404

    def __init__(self, message: str, *, code: str | None = None, incarnation: str | None = None) -> None:
        super().__init__(message, code=code)
        self.incarnation = incarnation
        """Set if a stream lived here and was *deleted*: the id of that life. None: the server knows of none."""


class ConflictError(ResponseError):
    """409: the stream exists with another configuration, or another content type."""

    default_status = 409


class SequenceGapError(ConflictError):
    """409: Producer-Seq runs ahead of what the server has (PROTOCOL.md section 5.2.1)."""

    def __init__(self, message: str, *, expected: int, received: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.received = received


class SequenceRegressionError(ConflictError):
    """409: Stream-Seq is not above the last accepted one (PROTOCOL.md section 5.2)."""


class StreamClosedError(ConflictError):
    """409 with Stream-Closed: the stream takes no more appends."""

    def __init__(self, message: str, *, tail: str | None = None) -> None:
        super().__init__(message)
        self.tail = tail


class AlreadyClaimedError(ConflictError):
    """409: another worker has the subscription's wake, and its lease is not over."""

    def __init__(self, message: str, *, holder: str, generation: int) -> None:
        super().__init__(message, code="ALREADY_CLAIMED")
        self.holder = holder
        self.generation = generation


class GoneError(ResponseError):
    """410: the offset asked for is no place in this stream any more.

    `code` says why: STREAM_EXPIRED, STREAM_DELETED, OFFSET_EXPIRED (trimmed by retention) or HISTORY_DIVERGED; another
    code, or none, counts as diverged.
    """

    default_status = 410

    def __init__(self, message: str, *, code: str | None = None, incarnation: str | None = None) -> None:
        super().__init__(message, code=code)
        self.incarnation = incarnation
        """The life of the stream that is there now, where the server says it."""


class PayloadTooLargeError(ResponseError):
    """413: the body is above the server's limit."""

    default_status = 413


class RateLimitedError(ResponseError):
    """429: too many requests."""

    default_status = 429


class ServerError(ResponseError):
    """5xx: the server failed."""

    default_status = 500


class StoreError(DsSyncError):
    """A local file could not be read or written."""


class FileInUseError(StoreError):
    """Another process has this file open."""

    def __init__(self, message: str, *, owner: str) -> None:
        super().__init__(message)
        self.owner = owner
        """Who: process id, command, since when."""


class CorruptFileError(StoreError):
    """The file is damaged, or not one of ours. It is left exactly as it is."""


class NewerFileError(StoreError):
    """The file was written by a newer ds-sync. It is left exactly as it is."""

    def __init__(self, message: str, *, found: int, known: int) -> None:
        super().__init__(message)
        self.found = found
        self.known = known


class StorageFullError(StoreError):
    """No space. What was stored stays stored."""


class CrdtError(DsSyncError):
    """A CRDT library, or the adapter to it."""


class InvalidUpdateError(CrdtError):
    """The CRDT library refuses these bytes. The document is as it was before them."""

    def __init__(self, message: str, *, index: int = 0) -> None:
        super().__init__(message)
        self.index = index
        """Which of the updates given; those before it were applied."""


class UnsupportedUpdateError(InvalidUpdateError):
    """An update that other libraries of this format read and write, and ours can't read. What its author writes next depends on it."""


class DocumentBusyError(CrdtError):
    """The application has a transaction open on the document. Nothing was applied: try again at the next turn of the event loop."""


class FormatMismatchError(CrdtError):
    """The document is kept in another adapter's format."""

    def __init__(self, message: str, *, found: str, expected: str) -> None:
        super().__init__(message)
        self.found = found
        self.expected = expected


class UnknownAdapterError(CrdtError):
    """No installed package offers an adapter or engine of that name."""

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class SyncStoppedError(DsSyncError):
    """The document can't sync until somebody acts. Its edits are safe on this device."""

    def __init__(self, message: str, *, state: str) -> None:
        super().__init__(message)
        self.state = state
        """The status' state, which says what is the matter."""


class NotDivergedError(DsSyncError):
    """The document's history is the server's, or nothing is known to the contrary: there is nothing to resolve."""

    def __init__(self, message: str, *, state: str) -> None:
        super().__init__(message)
        self.state = state
        """The status' state."""


class SourceError(DsSyncError):
    """What is to be imported can't be read. It is left as it is."""


class CompactionError(DsSyncError):
    """Who makes a document's snapshot died, was too slow, or made something that is not the document. The document is as it was."""


class TraceError(DsSyncError):
    """An editing trace that can't be read or replayed."""


class ClosedError(DsSyncError):
    """The replica, document, client or engine was closed."""
