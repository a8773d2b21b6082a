"""Is woken when a stream has news, checks who says so, reads the news, and acknowledges it.

python webhook_receiver.py SERVER PATTERN PORT    for example http://127.0.0.1:4437 'events/*' 8000
"""

import asyncio
import json
import sys
import time
from base64 import urlsafe_b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ds_sync import StreamClient


def ask(method: str, url: str, body: object = None, token: str = "") -> Any:
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    with urlopen(Request(url, json.dumps(body).encode(), headers, method=method)) as answer:
        return json.load(answer)


def decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "==")


def is_genuine(body: bytes, header: str, keys: dict[str, str]) -> bool:
    """Whether the server signed this, not more than five minutes ago."""
    fields = dict(part.partition("=")[::2] for part in header.split(","))
    try:
        key = Ed25519PublicKey.from_public_bytes(decode(keys[fields["kid"]]))
        key.verify(decode(fields["ed25519"]), f"{fields['t']}.".encode() + body)
    except (KeyError, ValueError, InvalidSignature):
        return False
    return abs(time.time() - int(fields["t"])) <= 300


async def read_news(server: str, stream: dict[str, Any]) -> str:
    """Show what came after the acknowledged offset; return how far we got."""
    async with StreamClient(f"{server}/v1/stream/{quote(stream['path'])}") as client:
        follower = client.follow(stream["acked_offset"], live=False)
        async for message in follower.json():
            print(stream["path"], message, flush=True)
        return str(follower.offset)


def build_handler(server: str, keys: dict[str, str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            genuine = is_genuine(body, self.headers.get("webhook-signature", ""), keys)
            if genuine:
                wake = json.loads(body)
                acks = [
                    {"stream": stream["path"], "offset": asyncio.run(read_news(server, stream))}
                    for stream in wake["streams"]
                    if stream["has_pending"]
                ]
                answer = {"wake_id": wake["wake_id"], "generation": wake["generation"], "acks": acks, "done": True}
                ask("POST", wake["callback_url"], answer, wake["callback_token"])
            self.send_response(200 if genuine else 401)
            self.send_header("content-length", "0")
            self.end_headers()

    return Handler


def main(server: str, pattern: str, port: str) -> None:
    keys = {key["kid"]: key["x"] for key in ask("GET", f"{server}/v1/stream/__ds/jwks.json")["keys"]}
    receiver = ThreadingHTTPServer(("127.0.0.1", int(port)), build_handler(server, keys))
    url = f"http://127.0.0.1:{receiver.server_address[1]}/"
    webhook = {"type": "webhook", "pattern": pattern, "webhook": {"url": url}}
    ask("PUT", f"{server}/v1/stream/__ds/subscriptions/example-{receiver.server_address[1]}", webhook)
    print(f"waiting for {pattern} at {url}", flush=True)
    receiver.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
