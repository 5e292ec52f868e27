from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest

from ci_tools.errors import NotFoundError
from ci_tools.models import File, FullText, RunStep, Session, StepStatus, new_id
from ci_tools.stores.nouns import Ticket, Token
from ci_tools.stores.records import RecordStore


def new_token(principal: str) -> Token:
    return Token(id=new_id("tok_"), principal=principal, created_at=0, revoked_at=None)


def new_ticket(session: Session, action: Literal["upload", "download"]) -> Ticket:
    return Ticket(
        principal=session.principal, session_id=session.id, path="a", action=action, expires_at=0
    )


async def test_a_token_is_found_by_its_digest_until_it_is_revoked(store: RecordStore) -> None:
    await store.ping()
    first = await store.add_token(new_token("ada"), digest="one")
    second = await store.add_token(new_token("bob"), digest="two")

    assert first.created_at > 1_700_000_000
    assert await store.find_token(digest="one") == first
    assert await store.find_token(digest="three") is None
    await store.revoke_token(first.id)

    assert await store.find_token(digest="one") is None
    revoked, valid = await store.list_tokens()
    assert revoked.revoked_at is not None
    assert valid == second
    await store.revoke_token(first.id)
    assert (await store.list_tokens())[0] == revoked
    with pytest.raises(NotFoundError):
        await store.revoke_token("tok_gone")


async def test_an_upload_ticket_works_once_and_for_uploads_only(
    store: RecordStore, session: Session
) -> None:
    ticket = await store.add_ticket(new_ticket(session, "upload"), digest="d", seconds=60)

    assert ticket.expires_at > 1_700_000_000
    assert await store.take_ticket(digest="d", action="download") is None
    assert await store.take_ticket(digest="d", action="upload") == ticket
    assert await store.take_ticket(digest="d", action="upload") is None


async def test_a_download_ticket_works_until_it_expires(
    store: RecordStore, session: Session
) -> None:
    ticket = await store.add_ticket(new_ticket(session, "download"), digest="d", seconds=60)
    await store.add_ticket(new_ticket(session, "download"), digest="old", seconds=-1)

    assert await store.take_ticket(digest="d", action="download") == ticket
    assert await store.take_ticket(digest="d", action="download") == ticket
    assert await store.take_ticket(digest="old", action="download") is None


async def test_a_ticket_needs_a_session_of_its_principal(
    store: RecordStore, session: Session
) -> None:
    foreign = replace(new_ticket(session, "upload"), principal="bob")

    with pytest.raises(NotFoundError):
        await store.add_ticket(foreign, digest="d", seconds=60)


async def test_erasing_a_principal_leaves_nothing_of_it_and_all_of_others(
    store: RecordStore,
    new_session: Callable[..., Session],
    new_step: Callable[[Session], RunStep],
) -> None:
    for name in ("ada", "bob"):
        session = await store.add_session(new_session(name), limit=1)
        step = (await store.admit_step(new_step(session), lease="l", limit=1)).step
        done = replace(
            step, status=StepStatus.COMPLETED, full_text=FullText(key=f"{name} text", size=1)
        )
        await store.finish_step(done, lease="l")
        for place in (session.id, None):
            file = File(
                id=new_id("file-"),
                principal=name,
                session_id=place,
                path="a",
                size=1,
                sha256=None,
                media_type="text/plain",
                modified_at=0,
            )
            await store.put_file(file, key=f"{name} {place is None}", limit=100)
        await store.add_token(new_token(name), digest=f"{name} token")
        await store.add_ticket(new_ticket(session, "upload"), digest=f"{name} ticket", seconds=60)

    keys = await store.erase_principal("ada")

    assert sorted(keys) == ["ada False", "ada True", "ada text"]
    assert await store.list_sessions(principal="ada") == []
    assert await store.stored_bytes(principal="ada") == 0
    assert await store.find_token(digest="ada token") is None
    assert await store.take_ticket(digest="ada ticket", action="upload") is None
    assert [token.principal for token in await store.list_tokens()] == ["bob"]
    assert len(await store.list_sessions(principal="bob")) == 1
    assert await store.stored_bytes(principal="bob") == 3
    assert await store.take_ticket(digest="bob ticket", action="upload") is not None
    assert await store.erase_principal("ada") == []
