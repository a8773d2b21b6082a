import asyncio
import signal
import sys

from pycrdt import Array

from ds_sync import Replica


async def main(file: str, server: str, name: str) -> None:
    async with Replica(file, server=server) as replica:
        note = await replica.open("notebook")
        lines = note.doc.get("lines", type=Array)
        shown: set[str] = set()

        def show() -> None:
            for line in lines:
                if line not in shown:
                    print(line, flush=True)
                    shown.add(line)

        show()  # what this device has, with no network at all
        lines.observe(lambda event: asyncio.get_running_loop().call_soon(show))
        note.presence.set({"user": {"name": name}})
        while text := await asyncio.to_thread(sys.stdin.readline):
            lines.append(f"{name}: {text.strip()}")  # stored when this line returns
            here = [state["user"]["name"] for state in note.presence.states.values() if "user" in state]
            print(f"  [{note.status.state}, {note.status.unsent} to send, here: {', '.join(here)}]", flush=True)
        await note.synced()


signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C ends it at once: what was typed is stored
asyncio.run(main(*sys.argv[1:]))
