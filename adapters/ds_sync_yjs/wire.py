"""Just enough of the Yjs update format (version 1) to judge bytes before and after pycrdt sees them.

An update is: the number of clients; for each the number of structs, the client, the first clock and the structs; then the delete set:
the number of clients, and for each the client, the number of ranges and (clock, length) pairs. Numbers are varints.
"""

from __future__ import annotations

from bisect import bisect_right

Ranges = dict[tuple[bool, int], list[tuple[int, int]]]
"""What is held (False) or deleted (True) of each client: runs of clocks (first, after the last), sorted, not touching."""

MAX_DEPTH = 2_000
"""Of values in values. pycrdt reads them by recursion: some 50,000 levels overflow an 8 MB stack and end the process, 10,000 do not."""

MAX_CLOCK = 2**31
"""pycrdt computes clocks in 32 bits, and panics on overflow with the update half integrated."""

_SHORT = MAX_DEPTH // 2
"""Bytes that hold no values as deep as that: each level takes two."""

_ARRAY, _MAP = 0x75, 0x76
_COLLECTED, _DELETED, _GAP = 0, 1, 10

Id = tuple[int, int]
"""A client and one of its clocks."""

Struct = tuple[int, int, Id | None, Id | None, int, int, int]
"""Kind, length in clocks, origin, right origin; and where in the update it begins, where its content begins, and where it ends."""


class WireError(ValueError):
    """Bytes that are no update, or that must not reach pycrdt."""


class UnsupportedError(WireError):
    """Bytes that are an update to Yjs, and that pycrdt can't read."""


class Reader:
    """Reads what lib0 writes. Raises WireError or IndexError where the bytes make no sense."""

    __slots__ = ("at", "data", "loops", "unsupported")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at
        self.unsupported: str | None = None
        """What was passed that pycrdt can't read."""
        self.loops: list[tuple[int, int, int]] | None = None
        """If there is a list, right origins that refer to their own struct are put here, and not refused: (struct, beginning, end)."""

    def varint(self) -> int:
        data, at = self.data, self.at
        value = data[at]
        if value >= 0x80:
            value &= 0x7F
            shift = 7
            while True:
                at += 1
                byte = data[at]
                value |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 63:
                    raise WireError("a number too long")
        self.at = at + 1
        return value

    def count(self) -> int:
        """How many things follow, of at least a byte each. pycrdt makes room for all that are announced: gigabytes, if need be."""
        value = self.varint()
        if value > len(self.data) - self.at:
            raise WireError(f"{value} things announced in {len(self.data)} bytes")
        return value

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise IndexError

    def skip_block(self) -> None:
        self.skip(self.varint())


def read_version(version: bytes) -> dict[int, int]:
    """Return a state vector as {client: next clock}."""
    reader = Reader(version)
    return {reader.varint(): reader.varint() for _ in range(reader.varint())}


def deletes_beyond(rest: bytes, version: dict[int, int]) -> bool:
    """Whether `rest`, an update without structs, deletes what a document at `version` does not have yet."""
    reader = Reader(rest, 1)
    for _ in range(reader.varint()):
        known = version.get(reader.varint(), 0)
        for _ in range(reader.varint()):
            if reader.varint() + reader.varint() > known:
                return True
    return False


def check_update(update: bytes) -> int:
    """Raise WireError for bytes that must not reach pycrdt: cut off, nested too deeply, announcing more than they hold, beyond MAX_CLOCK.

    And for those that Yjs fails on for good: structs that depend on themselves. UnsupportedError, if it is an update to Yjs.

    What passes may still be refused by pycrdt. Returns where the update ends; what follows is nothing to pycrdt.
    """
    reader = Reader(update)
    _check(reader)
    return reader.at


def is_plain_edit(edit: bytes) -> bool:
    """Whether an edit of pycrdt's own needs no `check_update`, which would take as long as making it did: what is typed.

    That is deletions alone, or one struct whose right origin, if it has one, is older than itself; too short to be nested deeply.
    """
    if not edit[0]:
        return True
    if edit[0] != 1 or edit[1] != 1 or len(edit) > _SHORT:
        return False
    at = _behind_varint(edit, 2)
    client = edit[2:at]
    reader = Reader(edit, at)
    clock = reader.varint()
    info = reader.byte()
    if not info & 0x40:
        return True
    at = reader.at
    if info & 0x80:
        at = _behind_varint(edit, _behind_varint(edit, at))
    reader.at = _behind_varint(edit, at)
    return edit[at : reader.at] != client or reader.varint() < clock


def _behind_varint(data: bytes, at: int) -> int:
    while data[at] > 0x7F:
        at += 1
    return at + 1


def mend_update(update: bytes) -> bytes:
    """Return an edit of pycrdt's own, or a document, without structs that refer to themselves. Raises WireError as `check_update` does.

    pycrdt 0.14.13 counts positions in UTF-8 bytes, and writes such a struct for text that is inserted inside a character: behind that
    character's piece of text, in front of itself.
    """
    reader = Reader(update)
    reader.loops = []
    _check(reader)
    mended, done = [], 0
    for struct, start, end in reader.loops:
        mended += [update[done:struct], bytes([update[struct] & ~0x40]), update[struct + 1 : start]]
        done = end
    return b"".join((*mended, update[done:]))


def _check(reader: Reader) -> None:
    try:
        for _ in range(reader.count()):
            structs, client, clock = reader.count(), reader.varint(), reader.varint()
            if clock + len(reader.data) > MAX_CLOCK:
                raise WireError("a clock too large")
            for _ in range(structs):
                clock += read_struct(reader, client, clock)[1]
        for _ in range(reader.count()):
            reader.varint()
            for _ in range(reader.count()):
                if reader.varint() + reader.varint() > MAX_CLOCK:
                    raise WireError("a deletion beyond every clock")
    except IndexError:
        raise WireError("the update ends early") from None
    if reader.unsupported is not None:
        raise UnsupportedError(reader.unsupported)


def read_ranges(update: bytes) -> Ranges:
    """Return which clocks of which clients `update` holds, and which it deletes, however it spells them.

    Two updates with the same ranges are worth the same: a client never gives one clock to two contents. The bytes must have passed
    `check_update`.
    """
    reader = Reader(update)
    held: dict[tuple[bool, int], list[tuple[int, int]]] = {}
    for _ in range(reader.count()):
        structs, client, clock = reader.count(), reader.varint(), reader.varint()
        for _ in range(structs):
            kind, length, *_ = read_struct(reader, client, clock)
            if kind != _GAP:
                held.setdefault((False, client), []).append((clock, clock + length))
            if kind in (_COLLECTED, _DELETED):
                held.setdefault((True, client), []).append((clock, clock + length))
            clock += length
    for _ in range(reader.count()):
        client = reader.varint()
        for _ in range(reader.count()):
            start = reader.varint()
            held.setdefault((True, client), []).append((start, start + reader.varint()))
    return {key: join_ranges(ranges) for key, ranges in held.items()}


def join_ranges(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the same clocks in as few ranges (first, after the last) as they need, sorted."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def is_within(ranges: Ranges, others: Ranges, version: dict[int, int]) -> bool:
    """Whether `others` have everything of `ranges` that lies beyond `version`."""
    for (deletes, client), spans in ranges.items():
        known = version.get(client, 0)
        wider = others.get((deletes, client), [])
        for start, end in spans:
            start = max(start, known)
            at = bisect_right(wider, (start, MAX_CLOCK * 2)) - 1  # the last that begins at or before it
            if start < end and (at < 0 or wider[at][1] < end):
                return False
    return True


def read_struct(reader: Reader, client: int, clock: int) -> Struct:
    """Read the struct of `client` at `clock`. Raises WireError if it refers to itself, or can't be one."""
    start, info = reader.at, reader.byte()
    kind = info & 0x1F
    origin = right = None
    if kind in (_COLLECTED, _GAP):
        length = _read_length(reader)
        # pycrdt takes it, and what stands at its clock is lost to the document, or the process ends. Texts of no length are left to
        # pycrdt: it makes them itself where a deletion parts the halves of a surrogate pair, and has to read them again.
        if kind == _COLLECTED and length == 0:
            raise WireError("a collected struct of no length")
        return kind, length, None, None, start, reader.at, reader.at
    if info & 0x80:
        origin = _read_earlier(reader, client, clock)
    if info & 0x40:
        at = reader.at
        try:
            right = _read_earlier(reader, client, clock)
        except WireError:
            if reader.loops is None or origin is None:
                raise
            reader.loops.append((start, at, reader.at))
    if not info & 0xC0:
        if reader.varint() == 1:  # the parent is a root, by name; else another struct
            reader.skip_block()
        else:
            _read_earlier(reader, client, clock)
        if info & 0x20:
            reader.skip_block()
    content = reader.at
    return kind, _skip_content(reader, kind), origin, right, start, content, reader.at


def _read_earlier(reader: Reader, client: int, clock: int) -> Id:
    """Read the id of what a struct of `client` at `clock` refers to: of another client, or of an earlier clock."""
    referred, at = reader.varint(), reader.varint()
    if referred == client and at >= clock:
        # Nobody writes it. pycrdt waits for it for ever, Yjs throws, and reads nothing more of the document.
        raise WireError("a struct refers to itself or to what its own client wrote after it")
    return referred, at


def _read_length(reader: Reader) -> int:
    length = reader.varint()
    if length > MAX_CLOCK:
        raise WireError("a length beyond every clock")
    return length


def _skip_content(reader: Reader, kind: int) -> int:
    """Pass a struct's content; return how many clocks it takes."""
    match kind:
        case 1:  # deleted: a length
            return _read_length(reader)
        case 2:  # JSON values, as Yjs wrote them before version 13
            # pycrdt 0.14.13 reads one value more than there are: what comes after is taken apart wrongly, and the document may then
            # encode to bytes that nobody can read.
            reader.unsupported = "JSON content, which pycrdt misreads"
            count = reader.count()
            for _ in range(count):
                reader.skip_block()
            return count
        case 3:  # binary
            reader.skip_block()
        case 4:  # string: a clock for each UTF-16 unit
            size = reader.varint()
            start = reader.at
            reader.skip(size)
            text = reader.data[start : reader.at]
            return size if text.isascii() else len(text.decode("utf-8", "replace").encode("utf-16-le", "surrogatepass")) // 2
        case 5:  # embed
            _check_json(reader)
        case 6:  # format: key, value
            reader.skip_block()
            _check_json(reader)
        case 7:  # a shared type; XML elements (3) and hooks (5) carry a name
            shared = reader.varint()
            if shared in (3, 5):
                reader.skip_block()
                if shared == 5:  # pycrdt 0.14.13 does not read the name, and takes it for what comes after
                    reader.unsupported = "an XML hook, which pycrdt misreads"
            elif shared > 6:  # 7 is a weak link; Yjs can't read more, and could not read what follows it
                raise WireError(f"a shared type that is not supported: {shared}")
        case 8:  # values
            count = reader.count()
            _skip_values(reader, count)
            return count
        case 9:  # a subdocument: id, options
            reader.skip_block()
            _skip_values(reader, 1)
        case _:
            raise WireError(f"unknown content {kind}")
    return 1


def _check_json(reader: Reader) -> None:
    size = reader.varint()
    text = reader.data[reader.at : reader.at + size]
    reader.skip(size)
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        raise UnsupportedError("a JSON value with too many levels")


def _skip_values(reader: Reader, count: int) -> None:
    """Pass `count` values without recursion; `open_levels` holds what is left to read at each level, and whether keys come first."""
    open_levels: list[list[int]] = [[count, 0]]
    while open_levels:
        level = open_levels[-1]
        if level[0] == 0:
            open_levels.pop()
            continue
        level[0] -= 1
        if level[1]:
            reader.skip_block()
        tag = reader.byte()
        if tag in (_ARRAY, _MAP):
            if len(open_levels) > MAX_DEPTH:
                raise UnsupportedError(f"values nested more than {MAX_DEPTH} levels deep")
            open_levels.append([reader.count(), int(tag == _MAP)])
        elif tag in (0x74, 0x77):  # bytes, string
            reader.skip_block()
        elif tag == 0x7D:  # integer: its varint's first byte keeps a bit for the sign, the continuation bit is the same
            reader.varint()
        elif tag == 0x7C:
            reader.skip(4)
        elif tag in (0x7B, 0x7A):
            reader.skip(8)
        elif tag not in (0x7F, 0x7E, 0x79, 0x78):
            raise WireError(f"unknown value {tag}")
