"""One person of `ds-sync demo`: a process with a replica, told by JSON lines what to do, answering each by one."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from pycrdt import Text

from ds_sync import Document, Replica

DOCUMENT = "lake/packing-list"


async def serve(file: str) -> None:
    """Carry out requests until standard input ends."""
    async with Replica(file) as replica:
        document = await replica.open(DOCUMENT)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await act(replica, document, json.loads(line))), flush=True)


async def act(replica: Replica, document: Document, request: dict[str, Any]) -> dict[str, Any]:
    """Do what `request["do"]` says, and answer with the text and how many edits the server has not acknowledged."""
    text = document.doc.get("body", type=Text)
    match request["do"]:
        case "type":
            for character in request["text"]:  # one edit a keystroke
                text += character
        case "connect":
            await replica.connect(request["url"])
        case "disconnect":
            await replica.disconnect()
        case "sync":
            async with asyncio.timeout(request["seconds"]):
                await document.synced()
    status = document.status
    return {"text": str(text), "unacknowledged": status.unsaved + status.unsent + status.sent}


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
