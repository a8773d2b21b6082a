import asyncio
import sys

from ds_sync import StreamClient


async def main(url: str) -> None:
    async with StreamClient(url) as stream:
        await stream.create(content_type="application/json")
        async with stream.producer() as producer:  # in batches, each message once and in order, whatever the network does
            for number in range(3):
                await producer.append_json({"reading": number})
            await producer.close()
        async for message in stream.follow().json():  # what there is, then what comes, to the stream's end
            print(message)


asyncio.run(main(sys.argv[1]))
