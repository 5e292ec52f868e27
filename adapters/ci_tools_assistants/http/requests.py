"""What clients send: bodies and query strings, checked, and refused in the API's own words.

Models of bodies take no unknown key and convert no types, as the original does; models of query
strings read numbers and lists out of text and ignore what they do not know.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, TypeAlias, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, from_json
from starlette.datastructures import QueryParams
from starlette.requests import Request

from ci_tools_assistants.errors import ApiError, clip

M = TypeVar("M", bound=BaseModel)

Json: TypeAlias = dict[str, Any]

_TAG = "|"
"""How the names of a union's members begin, so that they can be told from keys in an error."""

BODY_LIMIT = 16 * 1024 * 1024
"""Bytes of a JSON body."""

VALUES_LIMIT = 200_000
"""Values in a JSON body: other requests wait while it is read and checked."""

_KEYS_LIMIT = 1000
"""Keys of an object that are looked at beside those that its model has."""

_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,\[{]', re.DOTALL)
"""A string as a whole, or what stands before a value; found in one pass, whatever the text is."""

_NOT_JSON = "We could not parse the JSON body of your request. Send a valid JSON object."


class Body(BaseModel):
    """A JSON body, or an object in one."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class Query(BaseModel):
    """The parameters in a URL; a list may be given as `name` or `name[]`, several times."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


async def read_content(request: Request, *, limit: int = BODY_LIMIT) -> bytes:
    """Return the bytes of a small body.

    Raises:
        ApiError: 413: there are more than `limit`.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise _too_large(limit)
    return bytes(content)


async def skip_content(request: Request, *, limit: int) -> None:
    """Read a body to its end and forget it.

    Raises:
        ApiError: 413: there are more than `limit` bytes.
    """
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The request is larger than the limit of {limit:,} bytes.")


def parse_json(content: bytes, *, limit: int = 10 * VALUES_LIMIT) -> object:
    """Return the value that a body holds, which may have `limit` values in it.

    Raises:
        ApiError: It is not JSON (or so large or deeply nested that nobody meant it).
    """
    if len(content) > 2 * limit and _has_more_values(content, limit):
        raise ApiError(413, f"The JSON body has more than {limit:,} values.")
    try:
        value: object = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, _NOT_JSON) from error
    return value


def check_finite(value: Json) -> Json:
    """Refuse a number that is too large for a float, which JSON can write and not give back."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise refuse("Invalid 'PARAM': a number is too large.", "invalid_value") from None
    return value


JsonObject: TypeAlias = Annotated[Json, AfterValidator(check_finite)]
"""An object of which nothing is known but that it can be stored."""


def validate(model: type[M], value: object) -> M:
    """Return `value` as a model.

    Raises:
        ApiError: 400, naming the first parameter that is wrong.
    """
    if isinstance(value, dict) and len(value) > _KEYS_LIMIT:
        # pydantic would describe every key that it does not know.
        known = {name: value[name] for name in model.model_fields if name in value}
        value = dict(islice(value.items(), _KEYS_LIMIT)) | known
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)[0]
        raise _to_api_error(details, value) from error


def validate_query(model: type[M], query: QueryParams) -> M:
    """Return the parameters of a URL as a model."""
    values: dict[str, object] = {}
    for name, field in model.model_fields.items():
        if get_origin(field.annotation) in (list, tuple):
            if found := [*query.getlist(name), *query.getlist(f"{name}[]")]:
                values[name] = found
        elif name in query:
            values[name] = query[name]
    return validate(model, values)


def _has_more_values(content: bytes, limit: int) -> bool:
    marks = (mark for mark in _MARK.finditer(content) if mark[0][:1] != b'"')
    return next(islice(marks, limit, None), None) is not None


def by(key: str) -> Discriminator:
    """Tell the members of a union apart: objects by the text under `key`, others by their type.

    Members are tagged `|` and that text, `|string` or `|array`; `|object` is for every object.
    """

    def tag_of(value: object) -> str | None:
        match value:
            case str():
                return _TAG + "string"
            case list():
                return _TAG + "array"
            case dict():
                found = value.get(key) if key else "object"
                return None if found is None else f"{_TAG}{found}"
            case BaseModel():
                return f"{_TAG}{getattr(value, key) if key else 'object'}"
            case _:
                return None

    return Discriminator(tag_of)


def refuse(message: str, code: str) -> PydanticCustomError:
    """Return what a validator raises; `PARAM` in the message becomes the parameter's name."""
    return PydanticCustomError("refused", "{message}", {"message": message, "code": code})


def to_param(location: Sequence[str | int]) -> str | None:
    """Return the name of a parameter, as in `tools[0].function.name`."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not part.startswith(_TAG) and part != "[key]":
            name += f".{part}" if name else part
    return clip(name) or None


def describe(value: object) -> str:
    """Return what kind of JSON value it is, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case dict():
            return "an object"
        case _:
            return "something else"


def _to_api_error(details: ErrorDetails, whole: object) -> ApiError:
    param = to_param(details["loc"])
    message, code = _explain(details, param or "body")
    if code == "missing_key":
        param = f"{param}.type" if param else "type"
        message, code = f"Missing required parameter: '{param}'.", "missing_required_parameter"
    return ApiError(400, message, param=param, code=code)


_EXPECTED = {
    "string": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "list": "an array",
    "dict": "an object",
    "model": "an object",
}


def _explain(details: ErrorDetails, param: str) -> tuple[str, str]:
    """Return the message of an error, and its code."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    match kind:
        case "missing":
            return f"Missing required parameter: '{param}'.", "missing_required_parameter"
        case "extra_forbidden":
            return f"Unknown parameter: '{param}'.", "unknown_parameter"
        case "refused":
            return str(context["message"]).replace("PARAM", param), str(context["code"])
        case "literal_error" | "enum":
            return _not_one_of(value, str(context["expected"])), "invalid_value"
        case "union_tag_not_found" | "union_tag_invalid":
            return _explain_union(value, context, param)
        case "string_too_long" | "string_too_short" | "too_long" | "too_short":
            return _explain_length(kind, value, context, param)
        case "greater_than_equal" | "less_than_equal" | "greater_than" | "less_than":
            return _explain_bound(kind, value, context, param)
        case "string_pattern_mismatch":
            return (
                f"Invalid '{param}': string does not match pattern. Expected a string that "
                f"matches the pattern '{context['pattern']}'."
            ), "invalid_value"
        case "string_unicode":
            return f"Invalid '{param}': not valid Unicode text.", "invalid_string"
    expected = _EXPECTED.get(kind.split("_")[0])
    if expected is None or not kind.endswith(("_type", "_parsing", "_from_float")):
        return f"Invalid '{param}': {details['msg']}.", "invalid_value"
    return _wrong_type(param, expected, value), "invalid_type"


def _wrong_type(param: str, expected: str, value: object) -> str:
    return f"Invalid type for '{param}': expected {expected}, but got {describe(value)} instead."


def _not_one_of(value: object, expected: str) -> str:
    shown = clip(value) if isinstance(value, str) else describe(value)
    return f"Invalid value: '{shown}'. Supported values are: {expected.replace(' or ', ' and ')}."


def _explain_union(value: object, context: Mapping[str, Any], param: str) -> tuple[str, str]:
    tag = str(context.get("tag", ""))
    if isinstance(value, dict) and not tag:
        return "", "missing_key"
    if isinstance(value, dict) and tag != _TAG + "object":
        tags = str(context["expected_tags"]).replace(_TAG, "")
        return _not_one_of(tag.removeprefix(_TAG), tags), "invalid_value"
    return _wrong_type(param, "one of the documented types", value), "invalid_type"


def _explain_length(
    kind: str, value: object, context: Mapping[str, Any], param: str
) -> tuple[str, str]:
    what = "string" if kind.startswith("string") else "array"
    bound = "maximum" if kind.endswith("long") else "minimum"
    limit = context.get("max_length", context.get("min_length"))
    got = len(value) if isinstance(value, str | list | dict) else "another"
    article = "an array" if what == "array" else "a string"
    word = "long" if bound == "maximum" else "short"
    side = "above_max" if bound == "maximum" else "below_min"
    return (
        f"Invalid '{param}': {what} too {word}. Expected {article} with {bound} length {limit}, "
        f"but got {article} with length {got} instead."
    ), f"{what}_{side}_length"


def _explain_bound(
    kind: str, value: object, context: Mapping[str, Any], param: str
) -> tuple[str, str]:
    whole = isinstance(value, int) or (isinstance(value, str) and value.lstrip("-").isdigit())
    what = "integer" if whole else "decimal"
    above = kind.startswith("less")
    limit = next(iter(context.values()))
    if isinstance(limit, float) and math.isfinite(limit) and limit == int(limit):
        limit = int(limit)
    return (
        f"Invalid '{param}': {what} {'above maximum' if above else 'below minimum'} value. "
        f"Expected a value {'<=' if above else '>='} {limit}, but got {clip(str(value), 50)} "
        "instead."
    ), f"{what}_{'above_max' if above else 'below_min'}_value"
