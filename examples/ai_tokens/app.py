"""A chat that survives everything: answers are streams, and whoever has the address reads along from wherever they left off.

python app.py [PORT]    then open http://127.0.0.1:8080
"""

import asyncio
import json
import secrets
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvicorn

from ds_sync import StreamClient
from ds_sync.exceptions import NotFoundError
from ds_sync.server.app import create_app
from ds_sync.server.engines.sqlite import SqliteEngine

HERE = Path(__file__).parent
QUESTIONS = "/v1/stream/questions"
TRIES = 20


class Chat:
    """The page, a route that has a question answered, and the streams, as one ASGI application."""

    def __init__(self, data: Path, base: str) -> None:
        self.engine = SqliteEngine(data)
        self.streams = create_app(self.engine)
        self.base = base
        self.workers: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self.start(self.go_on())
        if scope["type"] != "http" or scope["path"].startswith("/v1/"):
            await self.streams(scope, receive, send)
        elif (scope["method"], scope["path"]) == ("POST", "/ask"):
            message = await receive()
            stream, question = f"/v1/stream/answers/{secrets.token_hex(8)}", json.loads(message["body"])["question"]
            async with StreamClient(self.base + QUESTIONS, content_type="application/json") as questions:
                await questions.create()
                await questions.append(json.dumps({"stream": stream, "question": question}).encode())
            self.start(self.answer(stream, question))
            await respond(send, "application/json", json.dumps({"stream": stream}).encode())
        else:
            await respond(send, "text/html; charset=utf-8", (HERE / "page.html").read_bytes())

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.workers.add(task)
        task.add_done_callback(self.workers.discard)

    async def go_on(self) -> None:
        """See to the answers that were not finished when this program ended last. A question is stored before its answer begins."""
        async with StreamClient(self.base + QUESTIONS, content_type="application/json") as questions:
            await questions.create()
            async for asked in questions.follow(live=False).json():
                async with StreamClient(self.base + asked["stream"]) as answer:
                    try:
                        complete = (await answer.head()).closed
                    except NotFoundError:
                        complete = False  # not even begun
                if not complete:
                    self.start(self.answer(asked["stream"], asked["question"]))

    async def answer(self, stream: str, question: str) -> None:
        """Have a process write the answer; start it again if it dies."""
        for _ in range(TRIES):
            process = await asyncio.create_subprocess_exec(sys.executable, str(HERE / "worker.py"), self.base + stream, question)
            if await process.wait() == 0:
                return


async def respond(send: Any, kind: str, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode())]})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    data = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("answers.db")
    uvicorn.run(Chat(data, f"http://127.0.0.1:{port}"), port=port, log_level="warning")
