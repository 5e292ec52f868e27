"""The published specifications, and what an answer of ours does not share with them.

A schema is read as what an answer must look like: required keys are there, nothing else is, and
`nullable` means what it meant in OpenAPI 3.0, which the newer files still use here and there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import ValidationError, best_match  # type: ignore[import-untyped]

FOLDER = Path(__file__).parents[3] / "data" / "openapi"

Schema: TypeAlias = Any
"""A JSON schema: a mapping, or True."""

METHODS = ("get", "post", "put", "patch", "delete")

LATER = "/vector_stores"
"""Paths that a later issue brings."""

_ANYTHING: Schema = {}

_EFFORT: Schema = {"enum": [None, "none", "minimal", "low", "medium", "high", "xhigh", "max"]}

EXTRAS: Mapping[tuple[str, str], Mapping[str, Schema]] = {
    # Which session runs the code of a thread: ours, and null until there is one.
    ("v1", "ThreadObject"): {"session_id": {"type": ["string", "null"]}},
    ("v2", "ThreadObject"): {"session_id": {"type": ["string", "null"]}},
    # What containers, their files and errors are on the other faces of a session: ours.
    ("containers", "ContainerResource"): {"session": {"type": "object"}},
    ("containers", "ContainerFileResource"): {"file": {"type": "object"}},
    ("containers", "Error"): {"details": {"type": "object"}},
    # Requests have these keys, and the hosted service gave them back; the files forgot them.
    ("v2", "AssistantObject"): {"reasoning_effort": _EFFORT},
    ("v2", "RunObject"): {"reasoning_effort": _EFFORT},
    ("v1", "AssistantObject"): dict.fromkeys(
        ("temperature", "top_p", "response_format"), _ANYTHING
    ),
    # Later clients of either version take pages of files as of all else.
    ("v1", "ListFilesResponse"): dict.fromkeys(("first_id", "last_id", "has_more"), _ANYTHING),
}
"""Keys that answers may have beyond the specification, by version and schema."""

NULL_IF_EMPTY = ("first_id", "last_id")
"""The specification has strings here; the hosted service sent null for an empty list."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a specification."""

    version: str
    method: str
    path: str
    id: str
    answer: Schema | None
    """The schema of a successful answer; None for one without JSON."""

    @property
    def name(self) -> str:
        """What tests call it, for example `v2 GET /threads/{thread_id}`."""
        return f"{self.version} {self.method.upper()} {self.path}"

    def matches(self, method: str, path: str) -> bool:
        """Return whether a request with this method and path means this operation."""
        if method.lower() != self.method:
            return False
        pattern = "".join(
            "[^/]+" if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{[^}]*\})", self.path)
        )
        return re.fullmatch(pattern, path) is not None


class Specification:
    """One published file: its operations, and validators of its schemas."""

    def __init__(self, version: str, file: str) -> None:
        document = yaml.load((FOLDER / file).read_bytes(), yaml.CSafeLoader)
        self.version = version
        self.document: dict[str, Any] = document
        self._definitions = {
            name: close(schema, extras=EXTRAS.get((version, name), {}))
            for name, schema in document["components"]["schemas"].items()
        }
        self.operations = [
            operation
            for operation in self._read_operations(document["paths"])
            if not operation.path.startswith(LATER)
        ]

    def _read_operations(self, paths: dict[str, Any]) -> Iterator[Operation]:
        for path, methods in paths.items():
            for method in METHODS:
                if method not in methods:
                    continue
                content = methods[method]["responses"]["200"].get("content", {})
                yield Operation(
                    version=self.version,
                    method=method,
                    path=path,
                    id=methods[method]["operationId"],
                    answer=content.get("application/json", {}).get("schema"),
                )

    def find_operation(self, method: str, path: str) -> Operation | None:
        """Return the operation that a request means; literal paths win over those with ids."""
        found = [one for one in self.operations if one.matches(method, path)]
        return min(found, key=lambda one: one.path.count("{"), default=None)

    def check(self, schema: Schema, value: object) -> list[str]:
        """Return what `value` does not share with a schema of the file, one line each."""
        root = {"$defs": self._definitions, **close(schema)}
        errors: list[ValidationError] = list(Draft202012Validator(root).iter_errors(value))
        return [describe(error) for error in errors]

    def check_named(self, name: str, value: object) -> list[str]:
        """Return what `value` does not share with the schema of that name."""
        return [f"{name}: {line}" for line in self.check(reference(name), value)]

    @property
    def events(self) -> Mapping[str, Schema]:
        """The schema of the data of every event of a stream, by the event's name."""
        return self._events(("AssistantStreamEvent",))

    def _events(self, names: Sequence[str]) -> dict[str, Schema]:
        found: dict[str, Schema] = {}
        for name in names:
            for branch in self.document["components"]["schemas"][name]["oneOf"]:
                if "$ref" in branch:
                    found |= self._expand(branch["$ref"].rsplit("/", 1)[1])
        return found

    def _expand(self, name: str) -> dict[str, Schema]:
        schema = self.document["components"]["schemas"][name]
        return {
            branch["properties"]["event"]["enum"][0]: branch["properties"]["data"]
            for branch in schema.get("oneOf", [schema])
        }


def reference(name: str) -> Schema:
    """Return a reference to a schema of a file."""
    return {"$ref": f"#/components/schemas/{name}"}


def close(schema: Schema, *, extras: Mapping[str, Schema] | None = None) -> Schema:
    """Return a schema of OpenAPI 3.0 or 3.1 as JSON Schema 2020-12 that accepts no further keys.

    `oneOf` becomes `anyOf`: several alternatives overlap in the published files.
    """
    if isinstance(schema, list):
        return [close(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        closed: Schema = {"$ref": f"#/$defs/{name}"}
        return _or_null(closed) if schema.get("nullable") else closed
    if {"nullable": True} in schema.get("allOf", []):
        return _or_null({"allOf": [close(one) for one in schema["allOf"] if "nullable" not in one]})
    closed = {key: close(schema[key]) for key in _KEPT if key in schema}
    if "oneOf" in schema:
        closed["anyOf"] = close(schema["oneOf"])
    if "properties" in schema:
        closed["properties"] = {
            name: _or_null(close(one)) if name in NULL_IF_EMPTY else close(one)
            for name, one in schema["properties"].items()
        } | dict(extras or {})
        closed.setdefault("additionalProperties", False)
        if "required" in closed:
            # Lists of files in version 1 require a key `items` that they do not have.
            closed["required"] = [key for key in closed["required"] if key in schema["properties"]]
    return _or_null(closed) if schema.get("nullable") else closed


_KEPT = (
    *("type", "enum", "const", "required", "items", "anyOf", "allOf", "additionalProperties"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern"),
)


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def describe(error: ValidationError) -> str:
    """Return one line that says where a value is wrong and how."""
    deepest = best_match([error]) or error
    while deepest.context:
        # Of several alternatives the one that comes furthest is the one that was meant.
        deepest = max(
            deepest.context,
            key=lambda one: (len(one.absolute_path), one.validator == "additionalProperties"),
        )
    where = "/".join(str(part) for part in deepest.absolute_path) or "(top)"
    return f"{where}: {deepest.message[:300]}"


@cache
def load(version: str) -> Specification:
    """Return the specification of a version: `v1`, `v2`, or `containers`."""
    file = "containers.yaml" if version == "containers" else f"assistants_{version}.yaml"
    return Specification(version, file)
