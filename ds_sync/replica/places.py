"""Where documents are: a replica's file, or a server. To read them, and to put some there, without keeping a replica."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias
from urllib.parse import quote, unquote

from ds_sync.client.credentials import Credentials
from ds_sync.client.stream import StreamClient
from ds_sync.client.transport import HttpTransport, Transport
from ds_sync.exceptions import NotFoundError, StoreError, TransportTimeoutError
from ds_sync.protocol.urls import redact_url, split_url
from ds_sync.replica.document import Document
from ds_sync.replica.records import DocumentKey
from ds_sync.replica.replica import Replica, check_name

SECONDS: Final = 60.0
"""How long a server is waited for, each time."""

Content: TypeAlias = Callable[[bytes], bytes]
"""Makes the update that is to come in, of the version (in the adapter's words) of what is there."""


class OpenPlace(Protocol):
    """The documents of a place."""

    async def read(self, key: DocumentKey) -> bytes | None:
        """Return the whole document as one update; None if there is none. Nothing is changed. Raises DsSyncError."""

    async def write(self, key: DocumentKey, content: Content) -> bool:
        """Put one update into the document, whole or not at all; return whether it was news. It is durable then. Raises DsSyncError."""

    def keys(self) -> list[DocumentKey] | None:
        """Return which documents there are; None if the place does not tell."""


class Place(Protocol):
    """Where documents are."""

    def reading(self) -> AbstractAsyncContextManager[OpenPlace]:
        """Open it to read. Raises DsSyncError."""

    def writing(self) -> AbstractAsyncContextManager[OpenPlace]:
        """Open it to read and write. Raises DsSyncError."""


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A replica's file."""

    path: Path

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[OpenPlace]:
        """Open a copy: the file may be in use, and stays as it is. One that does not exist has no documents."""
        with tempfile.TemporaryDirectory(prefix="ds-sync-") as folder:
            copy = Path(folder) / "copy.db"
            if self.path.exists():
                self._copy_to(copy)
            async with Replica(copy) as replica:
                yield _OpenFile(replica)

    def _copy_to(self, copy: Path) -> None:
        try:
            with (
                closing(sqlite3.connect(f"file:{quote(str(self.path.absolute()))}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} can't be read: {error}") from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[OpenPlace]:
        """Open the file, made if it does not exist. What is written is fsynced, and will be sent by whoever uses the file."""
        async with Replica(self.path, power_safe=True) as replica:
            yield _OpenFile(replica)


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """A server of documents."""

    url: str
    """Its base URL."""
    token: str | None = None
    seconds: float = SECONDS

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[OpenPlace]:
        """Open it. There is no connection before the first document."""
        with tempfile.TemporaryDirectory(prefix="ds-sync-") as folder:
            transport = HttpTransport()  # one for all documents: to make one takes longer than a document does
            try:
                async with Replica(Path(folder) / "replica.db", server=self.url, token=self.token, transport=transport) as replica:
                    yield _OpenServer(replica, self, transport)
            finally:
                await transport.aclose()

    def writing(self) -> AbstractAsyncContextManager[OpenPlace]:
        """Open it."""
        return self.reading()


class _OpenFile:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def keys(self) -> list[DocumentKey]:
        return [DocumentKey(info.crdt, info.service, info.path) for info in self._replica.documents()]

    async def read(self, key: DocumentKey) -> bytes | None:
        if key not in self.keys():
            return None
        document = await _open(self._replica, key)
        try:
            return document.missing()
        finally:
            await document.close()

    async def write(self, key: DocumentKey, content: Content) -> bool:
        document = await _open(self._replica, key)
        try:
            return document.merge(content(document.version()))
        finally:
            await document.close()


class _OpenServer:
    def __init__(self, replica: Replica, place: ServerPlace, transport: Transport) -> None:
        self._replica = replica
        self._place = place
        self._transport = transport

    def keys(self) -> None:
        return None

    async def read(self, key: DocumentKey) -> bytes | None:
        if not await self._exists(key):
            return None
        document = await _open(self._replica, key)
        try:
            await self._sync(document)
            return document.missing()
        finally:
            await document.close()

    async def write(self, key: DocumentKey, content: Content) -> bool:
        await self._exists(key)  # a server that is not there is told at once
        document = await _open(self._replica, key)
        try:
            await self._sync(document)
            news = document.merge(content(document.version()))
            await self._sync(document)
            return news
        finally:
            await document.close()

    async def _exists(self, key: DocumentKey) -> bool:
        path = "".join("/" + quote(part, safe="") for part in (key.crdt, key.service, "docs", *key.path.split("/"), ".updates"))
        stream = f"{self._place.url.rstrip('/')}/v1/stream{path}"
        client = StreamClient(stream, transport=self._transport, credentials=Credentials(token=self._place.token))
        try:
            async with asyncio.timeout(self._place.seconds):
                await client.head()
        except NotFoundError:
            return False
        except TimeoutError as error:
            raise TransportTimeoutError(f"{redact_url(self._place.url)} did not answer within {self._place.seconds:g} s") from error
        return True

    async def _sync(self, document: Document) -> None:
        try:
            async with asyncio.timeout(self._place.seconds):
                await document.synced()
        except TimeoutError as error:
            reason = document.status.last_error or document.status.state
            raise TransportTimeoutError(f"{document.path}: not synced within {self._place.seconds:g} s: {reason}") from error


async def _open(replica: Replica, key: DocumentKey) -> Document:
    return await replica.open(key.path, crdt=key.crdt, service=key.service)


def parse_document_url(url: str) -> tuple[str, DocumentKey | None]:
    """Return the server's base URL, and the document that `url` names: `<base>/v1/<crdt>/<service>/docs/<path>`; None for a base URL.

    Raises ValueError for anything else.
    """
    parts = split_url(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"not the http(s) URL of a server or of a document: {redact_url(url)!r}")
    base, version, rest = parts.path.partition("/v1/")
    server = f"{parts.scheme}://{parts.netloc}{base.rstrip('/')}"
    if not version:
        return server, None
    segments = [unquote(segment) for segment in rest.split("/")]
    if len(segments) < 4 or segments[2] != "docs" or not segments[0].isalnum():
        raise ValueError(f"a document's URL is <server>/v1/<crdt>/<service>/docs/<path>, not {redact_url(url)!r}")
    return server, DocumentKey(segments[0], check_name(segments[1], "service"), check_name("/".join(segments[3:]), "path"))
