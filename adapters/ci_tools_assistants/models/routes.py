"""The endpoints of models: the names that the settings have.

https://platform.openai.com/docs/api-reference/models
"""

from collections.abc import Sequence
from typing import Final

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.models.registry import to_object
from ci_tools_assistants.objects import Object

_TAGS: Final = ("Models",)


def operations() -> Sequence[Operation]:
    """Return the operations on models."""
    return (
        Operation(
            method="GET",
            path="/models",
            handler=_list,
            response="ListModelsResponse",
            summary="List the models of the settings.",
            tags=_TAGS,
        ),
        Operation(
            method="GET",
            path="/models/{model:path}",
            handler=_get,
            response="Model",
            summary="Get a model; the entry `default` stands for every name without an entry.",
            tags=_TAGS,
        ),
        Operation(
            method="DELETE",
            path="/models/{model:path}",
            handler=_delete,
            response="DeleteModelResponse",
            summary="Refused: models are set up by the server's operator.",
            tags=_TAGS,
        ),
    )


async def _list(call: Call) -> Object:
    return {"object": "list", "data": call.api.models.list_models()}


async def _get(call: Call) -> Object:
    name = call.params["model"]
    entry = call.api.models.find_entry(name)
    if entry is None:
        raise _unknown(name)
    return to_object(name, entry)


async def _delete(call: Call) -> Object:
    name = call.params["model"]
    if call.api.models.find_entry(name) is None:
        raise _unknown(name)
    raise ApiError(
        403,
        "Models are set up by the operator of this server (CI_TOOLS_MODELS) and cannot be deleted.",
        param="model",
        code="model_not_deletable",
    )


def _unknown(name: str) -> ApiError:
    return ApiError(
        404,
        f"The model '{name[:100]}' does not exist or you do not have access to it.",
        param="model",
        code="model_not_found",
    )
