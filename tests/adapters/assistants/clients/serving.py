"""Our app on a free loopback port, with a scripted model behind every name of a model."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_server import create_app
from tests.adapters.assistants.clients.printed import answer
from tests.adapters.assistants.contract.watch import Watch
from tests.adapters.assistants.scripted.script import Script
from tests.adapters.assistants.scripted.server import ScriptedServer, scripted_server
from tests.conformance.suite import serve

KEY = "any-key-of-the-local-principal"
"""With `auth` `none` every key is as good as another."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running app."""

    root: str
    """Its address, without a path."""

    model: ScriptedServer
    """The model's server."""

    watch: Watch
    """What its answers did not share with the specifications."""

    script: Script
    """What the model follows, unless a test says otherwise."""

    settings: Settings

    @property
    def url(self) -> str:
        """The base URL for official clients."""
        return f"{self.root}/v1"

    @property
    def variables(self) -> dict[str, str]:
        """What official clients read from the environment."""
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": KEY}


def make_keys(folder: Path, *names: str) -> list[str]:
    """Return a key for each principal of a service that does not run yet.

    This is done in a thread: the one of the tests may have an event loop already.
    """

    async def make() -> list[str]:
        settings = Settings(state_dir=folder / "state")
        async with open_service(settings, backend=FakeBackend(folder / "none")) as service:
            return [(await service.act_as(name).create_token())[1] for name in names]

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(anyio.run, make).result()


@contextmanager
def served_api(
    folder: Path, script: Script = answer, *, real: bool = False, **more: Any
) -> Iterator[Served]:
    """Serve the app with the fake backend, or `real` kernels; `more` are settings."""
    with scripted_server(script) as model:
        settings = Settings.model_validate(
            {
                "state_dir": folder / "state",
                "auth": "none",
                "interrupt_grace": 1,
                "requests_per_minute": 10_000_000,
                "kernel_python": sys.executable,
                **model_settings(model),
                **more,
            }
        )
        backend = None if real else FakeBackend(folder / "sessions")
        watch = Watch(
            create_app(settings, open_service=partial(open_service, settings, backend=backend))
        )
        with serve(watch) as root:
            yield Served(root=root, model=model, watch=watch, script=script, settings=settings)


def model_settings(model: ScriptedServer) -> dict[str, Any]:
    """Return the settings with which every name of a model means the scripted server."""
    entry = {"use": "openai:scripted", "base_url": model.url, "max_retries": 0, "timeout": 60}
    return {"models": {"gpt-4o": entry, "default": entry}}
