import base64
from pathlib import Path

import pytest

from ci_tools import LimitError, ServiceClosedError, Settings, StoreError, open_service
from ci_tools.testing import FakeBackend
from ci_tools_assistants.app import AssistantsApp
from ci_tools_assistants.storage.records import Records
from tests.adapters.assistants.api import V1, ApiClient, new_key, open_client


@pytest.mark.parametrize("prefix", ["/v1", "/openai", "/openai/v1", ""])
async def test_the_same_objects_are_under_every_prefix(client: ApiClient, prefix: str) -> None:
    made = await client.make("/assistants", {"model": "m"})

    response = await client.get(
        f"http://api.test{prefix}/assistants/{made['id']}", params={"api-version": "2024-05-01"}
    )

    assert response.json() == made


@pytest.mark.parametrize(
    "path", ["/nothing", "/assistants/", "/assistants/a/b", "/threads/t/messages/", "", "//"]
)
async def test_an_unknown_path_is_a_404_in_json(client: ApiClient, path: str) -> None:
    status, error = await client.refused("GET", f"http://api.test/v1{path}")

    assert (status, error["type"]) == (404, "invalid_request_error")
    assert error["message"] == f"Invalid URL (GET /v1{path})"


@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings", "/responses"])
async def test_a_call_of_another_api_is_told_where_that_is_not(
    client: ApiClient, path: str
) -> None:
    status, error = await client.refused("POST", path, json={})

    assert status == 404
    assert error["message"].startswith(f"Invalid URL (POST /v1{path}). This service answers")
    assert "second client" in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/assistants"), ("PUT", "/assistants/a"), ("GET", "/threads/t/runs/r/cancel")],
)
async def test_a_wrong_method_is_a_405_in_json(client: ApiClient, method: str, path: str) -> None:
    status, error = await client.refused(method, path)

    assert (status, error["code"]) == (405, "method_not_supported")


async def test_every_answer_has_its_own_id(client: ApiClient) -> None:
    first, second = await client.get("/assistants"), await client.get("/assistants", headers=V1)

    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["openai-version"] == "2020-10-01"
    assert int(first.headers["openai-processing-ms"]) >= 0
    assert first.headers["openai-beta"] == "assistants=v2"
    assert second.headers["openai-beta"] == "assistants=v1"


@pytest.mark.parametrize(
    ("date", "headers", "version"),
    [
        ("2024-02-15-preview", {}, "v1"),
        ("2024-04-01-preview", {}, "v1"),
        ("2024-05-01-preview", {}, "v2"),
        ("2025-04-01-preview", {}, "v2"),
        ("v1", {}, "v2"),
        ("", {}, "v2"),
        ("2024-02-15-preview", {"OpenAI-Beta": "assistants=v2"}, "v2"),
        ("2025-04-01-preview", V1, "v1"),
    ],
)
async def test_a_request_without_version_has_that_of_its_date_at_azure(
    client: ApiClient, date: str, headers: dict[str, str], version: str
) -> None:
    file = await client.upload()
    url = f"http://api.test/openai/assistants?api-version={date}"
    body: dict[str, object] = {"model": "m", "tools": [{"type": "code_interpreter"}]}
    ours: dict[str, object] = {"tool_resources": {"code_interpreter": {"file_ids": [file]}}}
    own = {"file_ids": [file]} if version == "v1" else ours

    made = await client.make(url, {**body, **own}, headers=headers)

    assert {key: made[key] for key in own} == own


async def test_keys_are_taken_in_every_form(client: ApiClient) -> None:
    key = await new_key(client.api.service, "ada")
    basic = base64.b64encode(f":{key}".encode()).decode()
    made = await client.make("/assistants", {"model": "m"})

    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer {key}"},
        {"Authorization": f"Basic {basic}"},
        {"api-key": key, "Authorization": ""},
    ):
        assert (await client.fetch("/assistants", headers=headers))["data"] == [made]


@pytest.mark.parametrize(
    ("headers", "code", "message"),
    [
        ({"Authorization": ""}, None, "You didn't provide an API key."),
        ({"Authorization": "Basic !"}, None, "You didn't provide an API key."),
        (
            {"Authorization": "Bearer sk-secret-key"},
            "invalid_api_key",
            "Incorrect API key provided",
        ),
        ({"Authorization": "Bearer 🦜".encode()}, "invalid_api_key", "Incorrect API key provided"),
    ],
)
async def test_a_missing_or_wrong_key_is_a_401(
    client: ApiClient, headers: dict[str, str | bytes], code: str | None, message: str
) -> None:
    status, error = await client.refused("GET", "/assistants", headers=headers)

    assert (status, error["code"], error["type"]) == (401, code, "invalid_request_error")
    assert error["message"].startswith(message)
    assert "secret" not in error["message"]


async def test_a_stranger_does_not_learn_which_paths_there_are(client: ApiClient) -> None:
    status, _ = await client.refused("GET", "/nothing", headers={"Authorization": ""})

    assert status == 401


async def test_without_auth_everybody_is_local(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    async with open_service(settings, backend=FakeBackend(tmp_path / "kernels")) as service:
        app = AssistantsApp(None)
        async with app.open(service, settings) as api, ApiClient(app, api, {}) as client:
            made = await client.make("/assistants", {"model": "m"})

            local = {"Authorization": f"Bearer {await new_key(service, 'local')}"}
            assert (await client.fetch("/assistants", headers=local))["data"] == [made]


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (StoreError("It is gone."), 500, "store_error"),
        (LimitError("Too much.", retry_after=2.0), 429, "rate_limit_exceeded"),
        (ServiceClosedError(), 503, "service_closed"),
    ],
)
async def test_errors_of_the_core_become_answers(
    client: ApiClient,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    status: int,
    code: str,
) -> None:
    async def fail(*args: object, **kwargs: object) -> None:
        raise raised

    monkeypatch.setattr(Records, "page", fail)
    response = await client.get("/assistants")

    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    if status == 429:
        assert response.headers["retry-after"] == "2"


async def test_a_failure_of_ours_is_a_500_that_says_nothing_of_it(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(Records, "page", fail)
    response = await client.get("/assistants")

    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (500, "server_error")
    assert "secret" not in error["message"]
    assert response.headers["x-request-id"] in error["message"]
    assert response.headers["x-request-id"] in caplog.text


async def test_an_erased_principal_leaves_nothing(client: ApiClient) -> None:
    await client.make("/threads", {"messages": [{"role": "user", "content": "x"}]})

    await client.api.service.act_as("ada").erase_principal()

    client.headers["Authorization"] = f"Bearer {await new_key(client.api.service, 'ada')}"
    assert (await client.fetch("/threads"))["data"] == []


async def test_changes_are_capped_and_polling_is_not(tmp_path: Path) -> None:
    async with open_client(tmp_path, requests_per_minute=1) as client:
        await client.make("/threads")
        status, error = await client.refused("POST", "/threads")
        listed = [await client.get("/threads") for _ in range(3)]

    assert (status, error["code"]) == (429, "rate_limit_exceeded")
    assert [response.status_code for response in listed] == [200, 200, 200]
