"""Waits for work in a wake stream, claims it, does it, and acknowledges it. Start as many as you like: each wake goes to one of them.

python pull_worker.py SERVER PATTERN NAME    for example http://127.0.0.1:4437 'jobs/*' worker-1
"""

import asyncio
import json
import sys
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from ds_sync import StreamClient


def ask(method: str, url: str, body: object, token: str = "") -> Any:
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    with urlopen(Request(url, json.dumps(body).encode(), headers, method=method)) as answer:
        return json.load(answer)


async def do_work(server: str, name: str, stream: dict[str, Any]) -> str:
    async with StreamClient(f"{server}/v1/stream/{quote(stream['path'])}") as client:
        follower = client.follow(stream["acked_offset"], live=False)
        async for message in follower.json():
            print(name, stream["path"], message, flush=True)
        return str(follower.offset)


async def main(server: str, pattern: str, name: str) -> None:
    subscription = f"{server}/v1/stream/__ds/subscriptions/pool"
    async with StreamClient(f"{server}/v1/stream/wakes/pool") as wakes:
        await wakes.create(content_type="application/json")
        await asyncio.to_thread(ask, "PUT", subscription, {"type": "pull-wake", "pattern": pattern, "wake_stream": "wakes/pool"})
        print(f"{name} is waiting", flush=True)
        async for _ in wakes.follow().json():
            try:
                wake = await asyncio.to_thread(ask, "POST", f"{subscription}/claim", {"worker": name})
            except HTTPError as error:
                if error.code != 409:
                    raise
                continue  # another worker has it, or it is done already
            acks = [
                {"stream": stream["path"], "offset": await do_work(server, name, stream)}
                for stream in wake["streams"]
                if stream["has_pending"]
            ]
            done = {"wake_id": wake["wake_id"], "generation": wake["generation"], "acks": acks, "done": True}
            await asyncio.to_thread(ask, "POST", f"{subscription}/ack", done, wake["token"])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
