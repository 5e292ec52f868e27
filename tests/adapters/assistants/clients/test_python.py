"""The newest official Python client: synchronous and asynchronous, OpenAI's and Azure's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI

from tests.adapters.assistants.clients import walk
from tests.adapters.assistants.clients.serving import KEY, Served
from tests.adapters.assistants.contract.specification import load

pytestmark = pytest.mark.filterwarnings(
    "ignore:deprecated:DeprecationWarning",
    "ignore:The Assistants API is deprecated:DeprecationWarning",
)

AZURE_VERSION = "2024-05-01-preview"
"""The version of Azure's interface that clients were written for."""


@pytest.fixture
def sync_client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=served.url, api_key=KEY, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def async_client(served: Served) -> Iterator[walk.Blocking]:
    with start_blocking_portal() as portal:
        client = AsyncOpenAI(
            base_url=served.url, api_key=KEY, max_retries=0, _strict_response_validation=True
        )
        yield walk.Blocking(client, portal)
        portal.call(client.close)


@pytest.fixture
def azure_client(served: Served) -> Iterator[AzureOpenAI]:
    with AzureOpenAI(
        azure_endpoint=served.root,
        api_key=KEY,
        api_version=AZURE_VERSION,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
def async_azure_client(served: Served) -> Iterator[walk.Blocking]:
    with start_blocking_portal() as portal:
        client = AsyncAzureOpenAI(
            azure_endpoint=served.root,
            api_key=KEY,
            api_version=AZURE_VERSION,
            max_retries=0,
            _strict_response_validation=True,
        )
        yield walk.Blocking(client, portal)
        portal.call(client.close)


CLIENTS = ["sync_client", "async_client", "azure_client", "async_azure_client"]


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_assistants(checked: Served, client: Any) -> None:
    walk.walk_assistants(client)


def test_threads_and_messages(checked: Served, client: Any) -> None:
    walk.walk_threads(client)


def test_runs_and_steps(checked: Served, client: Any) -> None:
    walk.walk_runs(client)


def test_functions(checked: Served, client: Any) -> None:
    walk.walk_functions(client)


def test_files(checked: Served, client: Any, tmp_path: Path) -> None:
    walk.walk_files(client, tmp_path)


def test_uploads(checked: Served, client: Any, tmp_path: Path) -> None:
    walk.walk_uploads(client, tmp_path)


def test_models(checked: Served, client: Any) -> None:
    walk.walk_models(client)


@pytest.mark.parametrize("name", ["sync_client", "async_client"])
def test_containers(checked: Served, request: pytest.FixtureRequest, name: str) -> None:
    walk.walk_containers(request.getfixturevalue(name))


def test_strict_validation_passes_on_every_operation(
    checked: Served, sync_client: OpenAI, tmp_path: Path
) -> None:
    checked.watch.seen.clear()

    walk.walk_assistants(sync_client)
    walk.walk_threads(sync_client)
    walk.walk_runs(sync_client)
    walk.walk_functions(sync_client)
    walk.walk_files(sync_client, tmp_path)
    walk.walk_uploads(sync_client, tmp_path)
    walk.walk_models(sync_client)
    walk.walk_containers(sync_client)

    operations = [*load("v2").operations, *load("containers").operations]
    expected = {operation.name for operation in operations} - {"v2 DELETE /models/{model}"}
    assert checked.watch.seen == expected
