from mcp.types import JSONRPCMessage, jsonrpc_message_adapter

from ci_tools_server.bridge import MessageHeaders


def message(**content: object) -> JSONRPCMessage:
    return jsonrpc_message_adapter.validate_python({"jsonrpc": "2.0", **content}, by_name=False)


def modern(method: str, **params: object) -> JSONRPCMessage:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    return message(id=1, method=method, params={"_meta": meta, **params})


def test_a_self_contained_request_is_named_in_headers() -> None:
    headers = MessageHeaders().of(modern("tools/call", name="run_code"))

    assert headers == {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "run_code",
    }


def test_a_name_beyond_ascii_is_encoded() -> None:
    headers = MessageHeaders().of(modern("resources/read", uri="ci://é"))

    assert headers["mcp-name"].isascii()


def test_an_older_client_gets_the_version_that_was_negotiated() -> None:
    headers = MessageHeaders()

    assert headers.of(message(id=7, method="initialize", params={})) == {}
    headers.note_answer(message(id=7, result={"protocolVersion": "2025-06-18"}))

    assert headers.of(message(id=8, method="tools/list")) == {"mcp-protocol-version": "2025-06-18"}
    assert headers.of(message(method="notifications/initialized")) == {
        "mcp-protocol-version": "2025-06-18"
    }


def test_an_answer_to_something_else_negotiates_nothing() -> None:
    headers = MessageHeaders()
    headers.of(message(id=7, method="initialize", params={}))

    headers.note_answer(message(id=8, result={"protocolVersion": "2025-06-18"}))

    assert headers.of(message(id=9, method="tools/list")) == {}
