from ci_tools.models import File, KernelRef, Session, new_id
from ci_tools.stores.records import Load, RecordStore


async def test_the_load_counts_what_is_kept_for_all_principals(
    store: RecordStore, session: Session
) -> None:
    kernel = KernelRef(
        server="lab", kernel_id="k", channel_id="c", kernelspec="python3", language="python"
    )
    file = File(
        id=new_id("file-"),
        principal=session.principal,
        session_id=session.id,
        path="a.bin",
        size=10,
        sha256=None,
        media_type="application/octet-stream",
        modified_at=0,
    )

    empty = await store.measure_load()
    await store.set_kernel(session.id, epoch=1, kernel=kernel)
    await store.put_file(file, key="k1", limit=100)
    await store.touch_session(session.id, workspace_bytes=5)

    assert empty == Load(sessions=1, kernels=0, stored_bytes=0)
    assert await store.measure_load() == Load(sessions=1, kernels=1, stored_bytes=15)
