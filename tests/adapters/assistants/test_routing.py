import pytest

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.http.routing import Call, Operation, Router
from ci_tools_assistants.operations import all_operations


async def handle(call: Call) -> dict[str, object]:
    return {}


def operation(method: str, path: str) -> Operation:
    return Operation(method=method, path=path, handler=handle)  # type: ignore[arg-type]


ROUTER = Router(
    [
        operation("GET", "/threads/{thread_id}"),
        operation("DELETE", "/threads/{thread_id}"),
        operation("POST", "/threads/runs"),
        operation("GET", "/threads/{thread_id}/messages/{message_id}"),
        operation("GET", "/models/{model:path}"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "pattern", "params"),
    [
        ("GET", "/v1/threads/t", "/threads/{thread_id}", {"thread_id": "t"}),
        ("HEAD", "/threads/t", "/threads/{thread_id}", {"thread_id": "t"}),
        ("POST", "/openai/threads/runs", "/threads/runs", {}),
        ("GET", "/openai/v1/threads/runs", "/threads/{thread_id}", {"thread_id": "runs"}),
        (
            "GET",
            "/threads/t/messages/m",
            "/threads/{thread_id}/messages/{message_id}",
            {"thread_id": "t", "message_id": "m"},
        ),
        ("GET", "/v1/models/meta/llama 3", "/models/{model:path}", {"model": "meta/llama 3"}),
    ],
)
def test_a_path_leads_to_its_operation(
    method: str, path: str, pattern: str, params: dict[str, str]
) -> None:
    match = ROUTER.match(method, path)

    assert match.operation.path == pattern
    assert match.params == params
    assert ROUTER.pattern_of(method, path) == pattern


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/threads", 404),
        ("GET", "/v1/threads/", 404),
        ("GET", "/v2/threads/t", 404),
        ("GET", "threads/t", 404),
        ("GET", "/v1/models/", 404),
        ("POST", "/v1/threads/t", 405),
        ("PATCH", "/v1/threads/runs", 405),
    ],
)
def test_what_leads_nowhere_is_an_error(method: str, path: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        ROUTER.match(method, path)

    assert caught.value.status == status
    assert ROUTER.pattern_of(method, path) is None


def test_one_operation_cannot_be_there_twice() -> None:
    with pytest.raises(ValueError, match="there twice"):
        Router([operation("GET", "/a/{x}"), operation("GET", "/a/{y}")])


def test_no_root_path_of_the_service_is_an_operation() -> None:
    taken = {"mcp", "healthz", "readyz", "metrics", "tickets", ".well-known"}

    assert not taken & {one.path.split("/")[1] for one in all_operations()}


def test_every_operation_says_what_it_does() -> None:
    for one in all_operations():
        assert one.summary, one.path
        assert one.tags, one.path
