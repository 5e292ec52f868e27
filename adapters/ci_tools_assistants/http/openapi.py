"""The OpenAPI document of everything that the API serves, made of its operations.

https://spec.openapis.org/oas/v3.1.0
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ci_tools_assistants.http.answers import Schema, answer_schemas, ref_to
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.objects import Object

_REFS = "#/components/schemas/{model}"

_BINARY: Schema = {"type": "string", "format": "binary"}

_FORM_FILE: Schema = {
    "type": "object",
    "properties": {"file": _BINARY, "purpose": {"type": "string"}},
    "required": ["file"],
}

_FORM_PART: Schema = {
    "type": "object",
    "properties": {"data": _BINARY},
    "required": ["data"],
}

_STREAMED: Mapping[str, tuple[str, Schema]] = {
    "/files": ("multipart/form-data", _FORM_FILE),
    "/uploads/{upload_id}/parts": ("multipart/form-data", _FORM_PART),
    "/import": ("application/jsonl", _BINARY),
    "/kept_files": ("application/octet-stream", _BINARY),
    "/containers/{container_id}/files": ("multipart/form-data", _FORM_FILE),
    "/containers/{container_id}/paths/{path}": ("application/octet-stream", _BINARY),
}
"""Bodies that handlers read themselves."""

_MEDIA_TYPES = {"binary": "application/octet-stream", "JsonLines": "application/jsonl"}
"""Answers that are no JSON object."""

_DESCRIPTION = (
    "The Assistants API, version 2 and version 1 (header `OpenAI-Beta: assistants=v1`), OpenAI's "
    "Containers endpoints, and what ci-tools has beside them. The same is under `/openai`, "
    "`/openai/v1` and `/`."
)


def describe(operations: Sequence[Operation]) -> Operation:
    """Return the operation that answers with the document of all of them, itself included."""

    @cache
    def document() -> Object:
        return to_document([*operations, operation])

    async def get_document(call: Call) -> Object:
        return document()

    operation = Operation(
        method="GET",
        path="/openapi.json",
        handler=get_document,
        summary="Return this document",
        tags=("About",),
    )
    return operation


def to_document(operations: Sequence[Operation]) -> Object:
    """Return the OpenAPI document of operations."""
    models = {one for op in operations for one in (op.body, op.query) if one is not None}
    ordered = sorted(models, key=lambda model: (model.__name__, model.__module__))
    found, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=_REFS
    )
    schemas: dict[Any, Schema] = {model: schema for (model, _), schema in found.items()}
    defined: dict[str, Schema] = definitions.get("$defs", {})
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = operation.path.replace(":path}", "}")
        item = paths.setdefault(path, {})
        item[operation.method.lower()] = _to_item(operation, path, schemas, defined)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ci-tools", "version": _version(), "description": _DESCRIPTION},
        "servers": [{"url": "/v1"}],
        "security": [{"bearer": []}, {"basic": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": {**defined, **answer_schemas()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
                "key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _to_item(
    operation: Operation,
    path: str,
    schemas: Mapping[Any, Schema],
    defined: Mapping[str, Schema],
) -> Object:
    item: Object = {
        "operationId": _operation_id(operation.method, path),
        "summary": operation.summary.rstrip("."),
        "tags": list(operation.tags),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in operation.names
            ),
            *_query_parameters(operation, schemas, defined),
        ],
        "responses": {
            "200": {"description": "Done", "content": _answer(operation)},
            "default": {
                "description": "Refused or failed",
                "content": {"application/json": {"schema": ref_to("ErrorResponse")}},
            },
        },
    }
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[operation.body]}}
        item["requestBody"] = {"required": _is_required(operation.body), "content": content}
    elif operation.method == "POST" and path in _STREAMED:
        media_type, schema = _STREAMED[path]
        item["requestBody"] = {"required": True, "content": {media_type: {"schema": schema}}}
    return item


def _answer(operation: Operation) -> Object:
    if operation.response in _MEDIA_TYPES:
        return {_MEDIA_TYPES[operation.response]: {"schema": _BINARY}}
    known = operation.response in answer_schemas()
    schema = ref_to(operation.response) if known else {"type": "object"}
    content: Object = {"application/json": {"schema": schema}}
    if operation.body is not None and "stream" in operation.body.model_fields:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return content


def _query_parameters(
    operation: Operation,
    schemas: Mapping[Any, Schema],
    defined: Mapping[str, Schema],
) -> list[Object]:
    if operation.query is None:
        return []
    schema = schemas[operation.query]
    whole = defined[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return [
        {
            "name": name,
            "in": "query",
            "required": name in whole.get("required", ()),
            "schema": one,
        }
        for name, one in whole.get("properties", {}).items()
    ]


def _is_required(model: type[BaseModel]) -> bool:
    return any(field.is_required() for field in model.model_fields.values())


def _operation_id(method: str, path: str) -> str:
    words = "".join(char if char.isalnum() else " " for char in path).split()
    return "_".join([method.lower(), *words])


def _version() -> str:
    try:
        return version("code-interpreter-tools")
    except PackageNotFoundError:
        return "0"
