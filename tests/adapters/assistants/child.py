"""The API in a process of its own, which a test can kill: `child.py FOLDER PORT MODEL_URL`."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_assistants.app import AssistantsApp


def main(folder: Path, port: int, model_url: str) -> None:
    settings = Settings.model_validate(
        {
            "state_dir": folder / "state",
            "lease_time": 1,
            "models": {"default": {"use": "openai:x", "base_url": model_url, "api_key": "k"}},
        }
    )
    app = AssistantsApp(None)

    @asynccontextmanager
    async def run(_: Starlette) -> AsyncIterator[None]:
        backend = FakeBackend(folder / "sessions")
        async with open_service(settings, backend=backend) as service, app.open(service, settings):
            yield

    root = Starlette(routes=[Mount("/", app)], lifespan=run)
    uvicorn.run(root, host="127.0.0.1", port=port, log_level="warning", ws="none")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
