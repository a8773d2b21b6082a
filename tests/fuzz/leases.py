"""Subscriptions that live while requests about them are damaged: two of them, and the tokens of their wakes, of now and of before.

An input has marks where such a token, a wake's id or a generation belongs, so that one seed makes the same inputs again.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import corpus

SUBSCRIPTIONS = "/v1/stream/__ds/subscriptions"
PULL, HOOK = f"{SUBSCRIPTIONS}/fuzz-pull", f"{SUBSCRIPTIONS}/fuzz-hook"

Ask = Callable[[str, str, dict[str, str], bytes], tuple[int, bytes]]
"""(method, path, headers, body) -> status and body."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What the holder of a wake has."""

    token: str = "none"
    wake_id: str = "w_" + "0" * 24
    generation: int = 0


PAST = {"pull": "late", "hook": "last"}
MARKS = (*PAST, *PAST.values())
"""Whose lease: that of the pull-wake subscription, that of the webhook, or the one before it."""

_TOKEN, _WAKE, _GENERATION = "{%s-token}", "{%s-wake-00000000000000}", "{%sgen}"
"""The two in bodies are as long as what takes their place: a Content-Length stays right."""


def make_request(rng: random.Random) -> bytes:
    """Return a request on one of the subscriptions, with marks."""
    json_type = {"Content-Type": "application/json"}
    base, own = rng.choice(((PULL, "pull"), (HOOK, "hook")))
    mark = rng.choice((own, own, own, *MARKS))
    kind = rng.choice(("claim", "ack", "ack", "release", "callback", "callback", "streams", "get", "put", "unlink"))
    if kind in ("get", "unlink"):
        return corpus.build_request(*(("GET", base) if kind == "get" else ("DELETE", f"{base}/streams/fuzz%2Fb")), {}, b"")
    if kind == "put":
        return corpus.build_request("PUT", base, json_type, rng.choice(corpus.BODIES))
    if kind in ("claim", "streams"):
        body = {"claim": b'{"worker":"w"}', "streams": b'{"streams":["fuzz/b","fuzz/none"]}'}[kind]
        return corpus.build_request("POST", f"{base}/{kind}", json_type, body)
    acks = rng.choice(([], [{"stream": "fuzz/a", "offset": rng.choice(corpus.OFFSETS)}], [{"stream": "fuzz/none", "offset": "-1"}] * 3))
    fields: dict[str, Any] = {"wake_id": _WAKE % mark, "generation": 0, "acks": acks, "done": rng.choice((True, False))}
    text = json.dumps(fields).replace('"generation": 0', f'"generation": {_GENERATION % mark}')
    token = {"Authorization": f"Bearer {_TOKEN % mark}"}
    return corpus.build_request("POST", f"{base}/{kind}", json_type | token, text.encode())


class Leases:
    """A receiver of webhooks that takes its time, and a worker that claims."""

    def __init__(self) -> None:
        self.leases = dict.fromkeys(MARKS, Lease())
        leases = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(length := int(self.headers["Content-Length"]))
                if len(body) < length:
                    return  # broken off: the subscription was deleted
                fields = json.loads(body)
                leases._take("hook", Lease(fields["callback_token"], fields["wake_id"], fields["generation"]))
                with contextlib.suppress(ConnectionError):  # broken off
                    self.send_response(200)
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing: nobody reads it."""

        self._receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._receiver.daemon_threads = True
        threading.Thread(target=self._receiver.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._receiver.shutdown()
        self._receiver.server_close()

    def prepare(self, ask: Ask) -> None:
        """Make the subscriptions anew, and claim a wake."""
        common = {"pattern": "fuzz/*", "streams": ["fuzz/a"], "lease_ttl_ms": 1000}
        url = f"http://127.0.0.1:{self._receiver.server_address[1]}/hook"
        for path, more in (
            (PULL, {"type": "pull-wake", "wake_stream": "fuzz-wakes"}),
            (HOOK, {"type": "webhook", "webhook": {"url": url}}),
        ):
            ask("DELETE", path, {}, b"")
            ask("PUT", path, {"Content-Type": "application/json"}, json.dumps({**common, **more}).encode())
        ask("PUT", "/v1/stream/fuzz-wakes", {"Content-Type": "application/json"}, b"")

    def fill(self, data: bytes, ask: Ask) -> bytes:
        """Put what is meant in the place of the marks."""
        if b"{pull" in data or b"{late" in data:
            self._claim(ask)
        for mark, lease in self.leases.items():
            data = data.replace((_TOKEN % mark).encode(), lease.token.encode())
            data = data.replace((_WAKE % mark).encode(), lease.wake_id.encode())
            data = data.replace((_GENERATION % mark).encode(), str(lease.generation).rjust(len(_GENERATION % mark)).encode())
        return data

    def _claim(self, ask: Ask) -> None:
        ask("POST", "/v1/stream/fuzz/a", {"Content-Type": "application/octet-stream"}, b"more")
        status, content = ask("POST", f"{PULL}/claim", {"Content-Type": "application/json"}, b'{"worker":"fuzzer"}')
        if status == 200:
            fields = json.loads(content)
            self._take("pull", Lease(fields["token"], fields["wake_id"], fields["generation"]))

    def _take(self, mark: str, lease: Lease) -> None:
        self.leases |= {PAST[mark]: self.leases[mark], mark: lease}
