"""A process that shares a store with others: it says "ready", waits for a line and works.

Arguments: the database's URL, a principal, a session id ("new" for one of its own) and how many
steps to run. It prints what it saw that must not be, and ends with "done".
"""

import sys
from dataclasses import replace

import anyio

from ci_tools.models import RunStep, Session, StepStatus, new_id
from ci_tools.stores.blobs import BlobStore, create_store
from ci_tools.stores.records import RecordStore, open_records_at


async def run_one(store: RecordStore, session_id: str, principal: str, lease: str) -> None:
    """Take one step from admission to its end, checking that it is alone meanwhile."""
    step = RunStep(
        id=new_id("step_"),
        session_id=session_id,
        principal=principal,
        code="1",
        status=StepStatus.QUEUED,
        epoch=0,
        timeout=1,
        created_at=0,
    )
    admission = await store.admit_step(step, lease=lease, limit=1000)
    while admission.step.status is StepStatus.QUEUED:
        await anyio.sleep(0.002)
        admission = await store.claim_step(step.id, lease=lease)
    steps = await store.list_steps(session_id, principal=principal, limit=1000)
    running = [found.id for found in steps if found.status is StepStatus.IN_PROGRESS]
    if running != [step.id]:
        print("in progress together:", running)
    done = replace(admission.step, status=StepStatus.COMPLETED)
    finished = await store.finish_step(done, lease=lease)
    if finished.status is not StepStatus.COMPLETED:
        print("not completed:", finished.status)


async def main(url: str, principal: str, session_id: str, steps: int) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    blobs = BlobStore(create_store("memory:///", {}))
    lease = new_id("lease_")
    async with open_records_at(url, blobs) as store:
        await store.take_lease(lease, seconds=60)
        if session_id == "new":
            session = Session(
                id=new_id("sess_"),
                principal=principal,
                name=None,
                server="embedded",
                kernelspec="python3",
                isolation="none",
                created_at=0,
                last_used_at=0,
            )
            session_id = (await store.add_session(session, limit=1000)).id
        for _ in range(steps):
            await run_one(store, session_id, principal, lease)
        await store.release_lease(lease)
    print("done", flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
