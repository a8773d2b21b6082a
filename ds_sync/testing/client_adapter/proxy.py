"""A proxy on loopback before any server, with faults on order: for clients in other processes."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit


@dataclass(slots=True)
class ProxyFault:
    """What goes wrong with the next `count` requests that fit."""

    method: str | None = None
    live: bool | None = None
    """Only live requests, or only others."""
    count: int = 1
    delay: float = 0.0
    """Seconds before it is passed on: what comes later overtakes it."""
    status: int | None = None
    """Answered with this, and not passed on."""
    retry_after: int | None = None
    drop: bool = False
    """The connection is cut, and nothing is passed on."""
    lose: bool = False
    """Passed on; then the connection is cut."""
    keep: int | None = None
    """Bytes of the body after which it ends, as if that were all of it."""
    garble: bool = False
    """The first bytes of the body are others."""
    insert: bytes = b""
    """Comes before the body."""


class FaultyProxy:
    """Passes requests on to `upstream`, the URL of a server; started by the constructor, ended by leaving the `with` block."""

    def __init__(self, upstream: str) -> None:
        self.faults: list[ProxyFault] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        """Method, path with query, and headers of each request, in lower case."""
        self._lock = threading.Lock()
        proxy, target = self, urlsplit(upstream)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                parsed = bool(self.raw_requestline) and self.parse_request()
                self.close_connection = True  # parsing has said otherwise
                if not parsed:
                    return
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                try:
                    proxy._serve(self, target.netloc, body)
                except (OSError, http.client.HTTPException):
                    return  # either side hung up

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: a test's output is not the place."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler: BaseHTTPRequestHandler, target: str, body: bytes) -> None:
        fault = self._choose(handler)
        time.sleep(fault.delay)
        if fault.status is not None:
            retry = "" if fault.retry_after is None else f"retry-after: {fault.retry_after}\r\n"
            handler.wfile.write(f"HTTP/1.1 {fault.status} Injected\r\ncontent-length: 0\r\nconnection: close\r\n{retry}\r\n".encode())
            return
        if fault.drop:
            return
        upstream = http.client.HTTPConnection(target, timeout=60)
        try:
            headers = {name: value for name, value in handler.headers.items() if name.lower() not in ("connection", "accept-encoding")}
            upstream.request(handler.command, handler.path, body=body or None, headers=headers)
            answer = upstream.getresponse()
            if fault.lose:
                answer.read()
                return
            self._pass_on(handler, answer, fault)
        finally:
            upstream.close()

    @staticmethod
    def _pass_on(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, fault: ProxyFault) -> None:
        dropped = {"connection", "transfer-encoding", "keep-alive"}
        whole = fault.keep is None and not fault.insert
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
        head = "".join(f"{name}: {value}\r\n" for name, value in headers if whole or name.lower() != "content-length")
        handler.wfile.write(f"HTTP/1.1 {answer.status} {answer.reason}\r\n{head}connection: close\r\n\r\n".encode("latin-1") + fault.insert)
        left, first = fault.keep, fault.garble
        while (left is None or left > 0) and (chunk := answer.read1(65536)):
            if first:
                chunk, first = b"XY"[: len(chunk)] + chunk[2:], False
            handler.wfile.write(chunk if left is None else chunk[:left])
            handler.wfile.flush()
            left = None if left is None else left - len(chunk)

    def _choose(self, handler: BaseHTTPRequestHandler) -> ProxyFault:
        live = "live=" in handler.path
        with self._lock:
            self.seen.append((handler.command, handler.path, {name.lower(): value for name, value in handler.headers.items()}))
            for fault in self.faults:
                if fault.count > 0 and fault.method in (None, handler.command) and fault.live in (None, live):
                    fault.count -= 1
                    return fault
        return ProxyFault(count=0)
