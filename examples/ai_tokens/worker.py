"""Writes one answer, token by token, into a stream. Killed and started again, it goes on where the stream ends.

python worker.py http://127.0.0.1:4437/v1/stream/answers/1 "a question"
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

from ds_sync import StreamClient
from ds_sync.exceptions import ConflictError, SequenceRegressionError

SECONDS_PER_TOKEN = 0.05


async def speak(question: str, said: list[str]) -> AsyncIterator[str]:
    """Stand in for a language model: yield what follows on `said`."""
    answer = f"You asked: {question} " + "".join(f"Here is thought number {number}. " for number in range(1, 13))
    for token in answer.split(" ")[len(said) :]:
        await asyncio.sleep(SECONDS_PER_TOKEN)
        yield token + " "


async def write_answer(url: str, question: str) -> None:
    """Append what the stream lacks of the answer, and end it."""
    async with StreamClient(url, content_type="application/json") as stream:
        try:
            await stream.create()
        except ConflictError:
            return  # it is closed: a worker before us wrote all of it
        said = [message["token"] async for message in stream.follow(live=False).json()]
        async for token in speak(question, said):
            number = len(said)
            body = json.dumps({"number": number, "token": token}).encode()
            try:
                # The number is the append's Stream-Seq: the server takes each once, however often it is sent, and by whomever.
                await stream.append(body, stream_seq=f"{number:08}")
            except SequenceRegressionError:
                pass  # it stands there already: sent by the worker before us, in its last moment
            said.append(token)
        await stream.close()


if __name__ == "__main__":
    asyncio.run(write_answer(*sys.argv[1:3]))
