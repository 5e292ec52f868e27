"""The API as an ASGI app around one open service.

How this works: `open_api` opens what requests need, the runs of this process among it. A request is
matched, its key and its body are checked, and the operation's handler is called; every error
becomes an answer here, and every answer gets its id.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from anyio import to_thread
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ci_tools import CIToolsError, ServiceClosedError, SessionService, Settings
from ci_tools_assistants.conversations.upkeep import Purge, open_purge
from ci_tools_assistants.errors import ApiError, of_status, to_api_error
from ci_tools_assistants.files.upkeep import open_upkeep
from ci_tools_assistants.http.auth import Authenticator, FindPrincipal
from ci_tools_assistants.http.forms import OVERHEAD
from ci_tools_assistants.http.openapi import describe
from ci_tools_assistants.http.requests import (
    VALUES_LIMIT,
    parse_json,
    read_content,
    skip_content,
    validate,
)
from ci_tools_assistants.http.retries import RepeatedResponse, Retries, remember
from ci_tools_assistants.http.routing import (
    Call,
    JsonResponse,
    Operation,
    Router,
    answer_headers,
    new_request_id,
    version_of,
)
from ci_tools_assistants.models import ModelRegistry, open_registry
from ci_tools_assistants.objects import Object
from ci_tools_assistants.operations import all_operations
from ci_tools_assistants.runs.engine import RunEngine, open_runs
from ci_tools_assistants.runs.interpreter import Interpreter
from ci_tools_assistants.storage.records import Records, open_records
from ci_tools_assistants.versions import Version, from_v1

logger = logging.getLogger(__name__)

_LARGE_BODY = 256_000
"""Bytes of a JSON body that is read in a thread: it may take a second, and others go on."""

_FAILED = (
    "The server had an error while processing your request. The log of the service says more "
    "under the id of this request, {id}."
)


@dataclass(frozen=True, kw_only=True)
class Api:
    """What handlers use, open as long as the service is."""

    service: SessionService
    settings: Settings
    records: Records
    models: ModelRegistry
    interpreter: Interpreter
    runs: RunEngine
    purge: Purge


@asynccontextmanager
async def open_api(service: SessionService, settings: Settings) -> AsyncIterator[Api]:
    """Open the API on a service; leaving the block stops the runs of this process."""
    records = await open_records(service.database)
    service.on_erase(records.erase)
    interpreter = Interpreter(service, records)
    async with (
        open_registry(settings.models) as models,
        open_runs(service, records=records, models=models, interpreter=interpreter) as runs,
        open_upkeep(service, records),
        open_purge(records) as purge,
    ):
        yield Api(
            service=service,
            settings=settings,
            records=records,
            models=models,
            interpreter=interpreter,
            runs=runs,
            purge=purge,
        )


class AssistantsApp:
    """The ASGI app; `open` it before the first request.

    Without `find_principal` no key is asked for, and everybody is the principal `local`.
    """

    def __init__(self, find_principal: FindPrincipal | None) -> None:
        operations = all_operations()
        self.router = Router([*operations, describe(operations)])
        self._authenticator = Authenticator(find_principal)
        self._retries = Retries()
        self._api: Api | None = None

    @asynccontextmanager
    async def open(self, service: SessionService, settings: Settings) -> AsyncIterator[Api]:
        """Answer requests with that service while the block lasts."""
        async with open_api(service, settings) as api:
            self._api = api
            try:
                yield api
            finally:
                self._api = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.monotonic()
        request = Request(scope, receive)
        request_id = new_request_id()
        try:
            response = await self._answer(request, request_id)
        except ClientDisconnect:
            return
        headers = answer_headers(request_id, version_of(request), started)
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    async def _answer(self, request: Request, request_id: str) -> Response:
        try:
            return await self._dispatch(request)
        except ApiError as error:
            return to_response(error)
        except CIToolsError as error:
            if (found := to_api_error(error)).status >= 500:
                logger.warning("request %s: %s", request_id, error)
            return to_response(found)
        except HTTPException as error:  # what starlette says of a form that it cannot read
            return to_response(of_status(error.status_code, str(error.detail)))
        except ClientDisconnect:
            raise
        except Exception:  # the outermost handler
            logger.exception("request %s failed", request_id)
            return to_response(ApiError(500, _FAILED.format(id=request_id), type="server_error"))

    async def _dispatch(self, request: Request) -> Response:
        api = self._api
        if api is None:
            raise ServiceClosedError
        principal = await self._authenticator.identify(request.headers)
        match = self.router.match(request.method, request.scope["path"])
        call = Call(
            api=api,
            service=api.service.act_as(principal),
            principal=principal,
            version=version_of(request),
            request=request,
            params=match.params,
        )
        # Many poll, and reading costs little; what is not remembered the service counts itself.
        if request.method != "GET" and match.operation.is_remembered:
            call.service.admit()
        content = await read_body(call, match.operation)
        if not match.operation.is_remembered:
            return await handle(call, match.operation)
        return await self._handle_once(call, match.operation, content)

    async def _handle_once(
        self, call: Call, operation: Operation, content: bytes | None
    ) -> Response:
        """Call the handler, or give the answer that it gave to the same request before."""
        identity = self._retries.identify(call.request, content, principal=call.principal)
        if identity is None:
            return await handle(call, operation)
        if (known := await self._retries.find(identity)) is not None:
            if content is None:
                # Closed with a body on its way, the connection would lose the answer.
                await skip_content(call.request, limit=call.api.settings.file_limit + OVERHEAD)
            return RepeatedResponse(known)
        answer = self._retries.begin(identity)
        try:
            return remember(await handle(call, operation), answer)
        except ApiError as error:
            return remember(to_response(error), answer)
        except BaseException:
            answer.void()
            raise


async def read_body(call: Call, operation: Operation) -> bytes | None:
    """Check the JSON body of a request; return its bytes, None if the handler is to read them."""
    if operation.body is None:
        has_content = "transfer-encoding" in call.request.headers
        return (
            None if has_content or call.request.headers.get("content-length", "0") != "0" else b""
        )
    content = await read_content(call.request)
    check = partial(check_body, operation, content, call.version)
    call.body = await to_thread.run_sync(check) if len(content) > _LARGE_BODY else check()
    return content


def check_body(operation: Operation, content: bytes, version: Version) -> BaseModel:
    """Return the JSON body of a request as what the operation takes."""
    assert operation.body is not None
    value: object = {}
    if content or not operation.empty_body:
        value = parse_json(content, limit=VALUES_LIMIT)
    if version == "v1" and operation.body_kind is not None:
        value = from_v1(value, operation.body_kind)
    return validate(operation.body, value)


async def handle(call: Call, operation: Operation) -> Response:
    """Call the operation's handler and return its answer."""
    answer = await operation.handler(call)
    if isinstance(answer, Response):
        return answer
    item: Object = call.to_wire(answer)
    return JsonResponse(item, headers=call.response_headers)


def to_response(error: ApiError) -> Response:
    """Return the answer that an error is."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
        headers["retry-after-ms"] = str(max(1, round(error.retry_after * 1000)))
    if error.status == HTTPStatus.NOT_IMPLEMENTED:
        headers["x-should-retry"] = "false"  # the official clients repeat what is 500 and above
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JsonResponse(error.to_object(), error.status, headers)
