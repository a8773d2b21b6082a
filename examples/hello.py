import asyncio
import sys

from pycrdt import Text

from ds_sync import Replica


async def main(file: str, server: str) -> None:
    async with Replica(file) as replica:  # a file; needs no network, ever
        note = await replica.open("notes/today")
        text = note.doc.get("body", type=Text)  # a plain pycrdt document
        text += "hello"  # in the outbox when this line returns
        await replica.connect(server)
        await note.synced()  # all of ours durable on the server, all of theirs here
        print(text, note.status)


asyncio.run(main(*sys.argv[1:]))
