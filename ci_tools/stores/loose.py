"""SQL about loose objects: bytes in the object store that no record names, yet or any more.

How this works: a key is announced before anything is written under it, with the lease of the
process that writes. The transaction that stores a record with that key takes it off the list; the
one that deletes such a record puts the key on it again, without a lease, and it goes when the bytes
are gone. So whatever is on the list under no lease that is valid is garbage, on any store and
however the process ended, and nothing else is: the store itself need not be looked through.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from ci_tools.errors import StoreError
from ci_tools.stores.schema import Now, leases, loose_objects

_AT_ONCE = 100
"""Objects that are swept up in one go."""


def announce(conn: Connection, key: str, *, lease: str) -> None:
    """Note that something is about to be written under a key."""
    conn.execute(insert(loose_objects).values(key=key, lease=lease, noted_at=Now()))


def settle(conn: Connection, key: str, *, is_announced: bool = False) -> None:
    """Note that a record, stored in this transaction, names the key.

    Raises:
        StoreError: It was announced, and then taken for garbage.
    """
    settled = conn.execute(
        delete(loose_objects).where(loose_objects.c.key == key, loose_objects.c.lease.is_not(None))
    )
    if is_announced and settled.rowcount == 0:
        raise StoreError("The upload stood still for so long that it was taken for abandoned.")


def loosen(conn: Connection, keys: Sequence[str]) -> None:
    """Note that no record names these keys any more."""
    if keys:
        forget(conn, keys)
        values = [{"key": key} for key in dict.fromkeys(keys)]
        conn.execute(insert(loose_objects).values(lease=None, noted_at=Now()), values)


def forget(conn: Connection, keys: Sequence[str]) -> None:
    """Note that there is nothing under these keys."""
    if keys:
        conn.execute(_FORGET, [{"key_": key} for key in keys])


def claim_garbage(conn: Connection, *, age: float) -> list[str]:
    """Return keys that were noted `age` seconds ago and that no living process writes under.

    None of them can get a record from then on. They count as noted now: what cannot be deleted
    does not keep others waiting.
    """
    is_old = loose_objects.c.noted_at < Now() - age
    valid = select(leases.c.id).where(
        leases.c.id == loose_objects.c.lease, leases.c.expires_at >= Now()
    )
    conn.execute(
        update(loose_objects)
        .where(is_old, loose_objects.c.lease.is_not(None), ~valid.exists())
        .values(lease=None)
    )
    query = select(loose_objects.c.key).where(is_old, loose_objects.c.lease.is_(None))
    keys = list(conn.scalars(query.order_by(loose_objects.c.noted_at).limit(_AT_ONCE)))
    conn.execute(update(loose_objects).where(loose_objects.c.key.in_(keys)).values(noted_at=Now()))
    return keys


_FORGET = delete(loose_objects).where(loose_objects.c.key == bindparam("key_"))
