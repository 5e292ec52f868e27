"""One Jupyter Server: its REST interface, and where its kernel channels are.

https://jupyter-server.readthedocs.io/en/latest/developers/rest-api.html
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import httpx2

from ci_tools.errors import (
    BackendError,
    KernelLostError,
    KernelStartError,
    ServerDeniedError,
    ServerUnavailableError,
)
from ci_tools.models import Json, KernelSpec

REQUEST_TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
"""Seconds for a request to a Jupyter Server, and to reach it."""

START_TIMEOUT = 60.0
"""Seconds that a kernel may take to start."""

SANDBOX = "ci-tools-sandbox"
"""The kernel provisioner of sandboxed kernels; it is another package's, which is not imported."""

_NOT_RUNNING = frozenset({301, 302, 303, 307, 308, 424, 502, 503, 504})
"""Status codes of a Hub's or another proxy's answer in place of a server that does not run."""

_STOP_DELAYS = (0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts to stop a kernel."""

_BODY_LIMIT = 1000
"""Characters of a server's own error message that are shown."""


@dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """Where a Jupyter Server is and what it wants to see."""

    name: str
    """What messages call it."""

    url: str
    """Its address with the base path and a slash at the end."""

    token: str
    socket_path: str | None = None
    """The unix socket to use in place of the address's host and port."""

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, where no proxy must come between."""
        host = urlsplit(self.url).hostname
        return self.socket_path is not None or host in ("127.0.0.1", "::1", "localhost")

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        return {"Authorization": f"token {self.token}"} if self.token else {}


@dataclass(frozen=True, kw_only=True)
class KernelState:
    """What a server says about one of its kernels."""

    state: str
    connections: int


class JupyterServer:
    """A client of one Jupyter Server; used inside `open`."""

    def __init__(
        self, address: ServerAddress, *, has_ended: Callable[[], bool] = lambda: False
    ) -> None:
        self.address = address
        self.has_ended = has_ended
        """Tells whether the server can never come back."""

        self._http: httpx2.AsyncClient | None = None
        self._has_contents: bool | None = None
        self._specs: tuple[KernelSpec, ...] = ()
        self._sandboxed: frozenset[str] | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def has_contents(self) -> bool:
        """Tell whether the server has the contents API; asked once.

        Raises:
            ServerUnavailableError: It cannot be reached.
            ServerDeniedError: It refused the token.
        """
        if self._has_contents is None:
            response = await self.request("GET", "api/contents", params={"content": "0"})
            if response.status_code not in (200, 404, 405):
                raise self.to_error(response)
            self._has_contents = response.status_code == 200
        return self._has_contents

    async def list_kernelspecs(self) -> Sequence[KernelSpec]:
        """List the kinds of kernel, the server's default first."""
        response = await self.request("GET", "api/kernelspecs")
        found = to_object(self._checked(response))
        specs = found.get("kernelspecs")
        default = found.get("default")
        self._sandboxed = frozenset(
            name for name, spec in (specs or {}).items() if _is_sandboxed(spec)
        )
        listed = [_to_spec(name, spec) for name, spec in (specs or {}).items()]
        self._specs = tuple(sorted(listed, key=lambda spec: (spec.name != default, spec.name)))
        return self._specs

    async def find_kernelspec(self, name: str) -> KernelSpec | None:
        """Return the kernelspec of that name (the default one if empty), or None."""
        for specs in (self._specs, None):
            for spec in specs if specs is not None else await self.list_kernelspecs():
                if name in ("", spec.name):
                    return spec
        return None

    async def list_sandboxed(self) -> frozenset[str]:
        """Name the kernelspecs with a sandbox of ours; the server is asked once at least."""
        if self._sandboxed is None:
            await self.list_kernelspecs()
        return self._sandboxed or frozenset()

    async def start_kernel(
        self, kernelspec: str, path: str, *, choice: Mapping[str, Json] | None = None
    ) -> str:
        """Start a kernel in a folder below the server's root and return its id.

        A folder that does not exist is silently replaced by the nearest one above that does.
        `choice` is for the embedded server only: the kernel's `network` and `environment`.

        Raises:
            KernelStartError: The server could not start it.
        """
        response = await self.request(
            "POST",
            "api/kernels",
            json={"name": kernelspec, "path": path, **({"choice": dict(choice)} if choice else {})},
            timeout=httpx2.Timeout(START_TIMEOUT, connect=5.0),
        )
        if response.status_code >= 400 and response.status_code not in (401, 403, 404):
            if response.status_code not in _NOT_RUNNING:
                raise KernelStartError(f"A kernel could not be started: {_reason(response)}.")
        kernel_id = to_object(self._checked(response)).get("id")
        if not isinstance(kernel_id, str):
            raise ServerUnavailableError(f"{self.address.name} gave no kernel id.")
        return kernel_id

    async def get_kernel(self, kernel_id: str) -> KernelState:
        """Describe a kernel.

        Raises:
            KernelLostError: The server knows no such kernel.
        """
        response = await self.request("GET", to_kernel_path(kernel_id))
        if _says_lost(response):
            raise KernelLostError(f"{self.address.name} knows no kernel {kernel_id}.")
        model = to_object(self._checked(response))
        connections = model.get("connections")
        return KernelState(
            state=str(model.get("execution_state", "")),
            connections=connections if isinstance(connections, int) else 0,
        )

    async def find_isolation(self, kernel_id: str) -> str:
        """Tell what holds a sandboxed kernel, on a server with the extension for that."""
        response = await self.request("GET", f"ci-tools/{to_kernel_path(kernel_id)}")
        return str(to_object(self._checked(response)).get("isolation"))

    async def interrupt_kernel(self, kernel_id: str) -> None:
        """Interrupt what a kernel is doing."""
        response = await self.request("POST", to_kernel_path(kernel_id) + "/interrupt")
        if _says_lost(response):
            raise KernelLostError(f"{self.address.name} knows no kernel {kernel_id}.")
        self._checked(response)

    async def stop_kernel(self, kernel_id: str) -> None:
        """End a kernel; nothing happens if there is none."""
        for delay in _STOP_DELAYS:
            response = await self.request("DELETE", to_kernel_path(kernel_id))
            if _says_lost(response):
                return
            if response.status_code != 500:
                break
            await anyio.sleep(delay)  # a server that is restarting the kernel stumbles over this
        self._checked(response)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        timeout: httpx2.Timeout = REQUEST_TIMEOUT,
    ) -> httpx2.Response:
        """Send a request and return the answer, whatever its status; redirects are not followed.

        Raises:
            ServerUnavailableError: There was no answer.
        """
        try:
            return await self._client().request(
                method, path, params=params, json=json, content=content, timeout=timeout
            )
        except httpx2.HTTPError as exc:
            raise self.to_unavailable(exc) from exc

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        json: Mapping[str, Any] | None = None,
        timeout: httpx2.Timeout = REQUEST_TIMEOUT,
    ) -> AsyncIterator[httpx2.Response]:
        """Send a GET request, or a POST of `json`, and yield the answer before its body is read."""
        method = "GET" if json is None else "POST"
        async with self._client().stream(
            method, path, headers=dict(headers or {}), json=json, timeout=timeout
        ) as response:
            yield response

    def to_unavailable(self, exc: Exception) -> ServerUnavailableError:
        """Return the error for a server that cannot be reached."""
        return ServerUnavailableError(
            f"{self.address.name} cannot be reached ({type(exc).__name__}). Check that it runs and"
            " that its address is right."
        )

    def to_error(self, response: httpx2.Response) -> BackendError:
        """Return the error for an answer that is none of the expected ones."""
        status = response.status_code
        if status in (401, 403):
            return ServerDeniedError(
                f"{self.address.name} refused the token (HTTP {status}). Check the token in the"
                " settings."
            )
        if status in _NOT_RUNNING or status == 404:
            return ServerUnavailableError(
                f"{self.address.name} is not running (HTTP {status}). Start it, or check its"
                " address and base path."
            )
        return ServerUnavailableError(
            f"{self.address.name} answered HTTP {status}: {_reason(response)}."
        )

    def _checked(self, response: httpx2.Response) -> httpx2.Response:
        if response.status_code >= 300:
            raise self.to_error(response)
        return response

    def _client(self) -> httpx2.AsyncClient:
        if self._http is None:
            address = self.address
            # Loading certificates takes 20 ms; plain HTTP needs none.
            verify = address.url.startswith("https:")
            self._http = httpx2.AsyncClient(
                base_url=address.url,
                headers=address.headers,
                timeout=REQUEST_TIMEOUT,
                verify=verify,
                transport=httpx2.AsyncHTTPTransport(uds=address.socket_path, verify=False)
                if address.socket_path is not None
                else None,
                trust_env=not address.is_local,
            )
        return self._http


def quote_path(path: str) -> str:
    """Return a path of the server's files as it stands in a URL."""
    return quote(path, safe="/")


def to_kernel_path(kernel_id: str) -> str:
    """Return a kernel's path below the server's address."""
    return "api/kernels/" + quote(kernel_id, safe="")


def _says_lost(response: httpx2.Response) -> bool:
    """Tell a server that does not know the kernel from a proxy that does not know the server."""
    content_type = response.headers.get("content-type", "")
    return response.status_code == 404 and content_type.startswith("application/json")


def to_object(response: httpx2.Response) -> dict[str, Any]:
    """Return the JSON object that an answer holds.

    Raises:
        ServerUnavailableError: It holds something else.
    """
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ServerUnavailableError(f"{response.url.host} does not answer like a Jupyter Server.")
    return value


def _is_sandboxed(model: Any) -> bool:
    match model:
        case {"spec": {"metadata": {"kernel_provisioner": {"provisioner_name": name}}}}:
            return bool(name == SANDBOX)
        case _:
            return False


def _to_spec(name: str, model: Any) -> KernelSpec:
    spec = model.get("spec") if isinstance(model, dict) else None
    spec = spec if isinstance(spec, dict) else {}
    return KernelSpec(
        name=name,
        display_name=str(spec.get("display_name", name)),
        language=str(spec.get("language", "")).lower(),
    )


def _reason(response: httpx2.Response) -> str:
    try:
        value = response.json()
    except ValueError:
        value = None
    if isinstance(value, dict):
        found = value.get("message") or value.get("reason")
        if found:
            return str(found)[:_BODY_LIMIT].rstrip(".")
    return response.reason_phrase or "no reason given"
