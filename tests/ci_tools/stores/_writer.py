"""A process that writes an object and never ends: it says "writing" when half of it is stored.

Arguments: the database's URL, its lease, the object store's URL and its options as JSON.
"""

import json
import sys
from collections.abc import AsyncIterator

import anyio

from ci_tools.stores.blobs import BlobStore, create_store
from ci_tools.stores.records import open_records_at


async def endless() -> AsyncIterator[bytes]:
    for _ in range(40):
        yield b"x" * (1 << 20)
    print("writing", flush=True)
    await anyio.sleep_forever()


async def main(url: str, lease: str, store_url: str, options: str) -> None:
    blobs = BlobStore(create_store(store_url, json.loads(options)))
    async with open_records_at(url, blobs) as store:
        await store.take_lease(lease, seconds=600)
        store.keep_journal(lease)
        await blobs.put(endless(), principal="ada")


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
