from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ci_tools.settings import ModelEntry
from tests.adapters.assistants.api import ApiClient, open_client

MODELS = {
    "gpt-4o": ModelEntry(use="ollama:qwen3"),
    "org/model-7b": ModelEntry(use="openai:model", base_url="http://127.0.0.1:9/v1"),
}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiClient]:
    async with open_client(tmp_path, models=MODELS) as client:
        yield client


async def test_models_are_listed_under_the_clients_names(api: ApiClient) -> None:
    listed = await api.fetch("/models")

    assert listed["object"] == "list"
    assert [(model["id"], model["owned_by"]) for model in listed["data"]] == [
        ("gpt-4o", "ollama"),
        ("org/model-7b", "openai"),
    ]


@pytest.mark.parametrize("name", MODELS)
async def test_model_is_found_by_its_name(api: ApiClient, name: str) -> None:
    model = await api.fetch(f"/models/{name}")

    assert (model["id"], model["object"]) == (name, "model")


async def test_unknown_model_is_not_found(api: ApiClient) -> None:
    status, error = await api.refused("GET", "/models/gpt-9")

    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_default_answers_to_every_name(tmp_path: Path) -> None:
    models = {"default": ModelEntry(use="ollama:qwen3")}

    async with open_client(tmp_path, models=models) as api:
        model = await api.fetch("/models/gpt-9")

    assert model["id"] == "gpt-9"


@pytest.mark.parametrize(("name", "expected"), [("gpt-4o", 403), ("gpt-9", 404)])
async def test_models_cannot_be_deleted(api: ApiClient, name: str, expected: int) -> None:
    status, _ = await api.refused("DELETE", f"/models/{name}")

    assert status == expected
