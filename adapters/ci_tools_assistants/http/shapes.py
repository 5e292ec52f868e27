"""The parts that several request bodies share: metadata, tools, tool resources, formats."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, Tag

from ci_tools_assistants.http.requests import Body, JsonObject, by, refuse

METADATA_PAIRS = 16
METADATA_KEY = 64
"""Characters."""

METADATA_VALUE = 512
"""Characters."""

TOOLS_PER_ASSISTANT = 128
TOOLS_PER_RUN = 20
FILES_PER_TOOL = 20


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > METADATA_PAIRS:
        raise refuse(
            "Invalid 'PARAM': too many properties. Expected an object with at most "
            f"{METADATA_PAIRS} properties, but got an object with {len(metadata)} properties "
            "instead.",
            "object_above_max_properties",
        )
    for key, value in metadata.items():
        for what, text, limit in (("key", key, METADATA_KEY), ("value", value, METADATA_VALUE)):
            if len(text) > limit:
                raise refuse(
                    f"Invalid 'PARAM': {what} too long. Expected {what}s with maximum length "
                    f"{limit}, but got one with length {len(text)} instead.",
                    "string_above_max_length",
                )
    return metadata


Metadata: TypeAlias = Annotated[dict[str, str], AfterValidator(_check_metadata)]


class CodeInterpreterTool(Body):
    """The tool that runs code."""

    type: Literal["code_interpreter"]


class RankingOptions(Body):
    """How results of a file search are ranked."""

    ranker: Literal["auto", "default_2024_08_21"] | None = None
    score_threshold: float = Field(ge=0, le=1)


class FileSearchOptions(Body):
    """Options of a file search."""

    max_num_results: int | None = Field(default=None, ge=1, le=50)
    ranking_options: RankingOptions | None = None


class FileSearchTool(Body):
    """The tool that searches files."""

    type: Literal["file_search"]
    file_search: FileSearchOptions | None = None


class FunctionDefinition(Body):
    """A function that the client runs; `parameters` is a JSON schema."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FunctionTool(Body):
    """A tool that the client runs."""

    type: Literal["function"]
    function: FunctionDefinition


Tool: TypeAlias = Annotated[
    Annotated[CodeInterpreterTool, Tag("|code_interpreter")]
    | Annotated[FileSearchTool, Tag("|file_search")]
    | Annotated[FunctionTool, Tag("|function")],
    by("type"),
]

AttachmentTool: TypeAlias = Annotated[
    Annotated[CodeInterpreterTool, Tag("|code_interpreter")]
    | Annotated[FileSearchTool, Tag("|file_search")],
    by("type"),
]


class CodeInterpreterResources(Body):
    """Files for the code interpreter."""

    file_ids: list[str] | None = Field(default=None, max_length=FILES_PER_TOOL)


class StoreToMake(Body):
    """A vector store that is to be made with what it is attached to."""

    file_ids: list[str] | None = Field(default=None, max_length=10_000)
    chunking_strategy: JsonObject | None = None
    metadata: Metadata | None = None


class FileSearchResources(Body):
    """Vector stores for the file search."""

    vector_store_ids: list[str] | None = Field(default=None, max_length=1)
    vector_stores: list[StoreToMake] | None = Field(default=None, max_length=1)


class ToolResources(Body):
    """What the tools of an assistant or a thread have."""

    code_interpreter: CodeInterpreterResources | None = None
    file_search: FileSearchResources | None = None


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Body):
    """A JSON schema and its name."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
    description: str | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Body):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat: TypeAlias = Annotated[
    Annotated[Literal["auto"], Tag("|string")]
    | Annotated[TextFormat, Tag("|text")]
    | Annotated[JsonObjectFormat, Tag("|json_object")]
    | Annotated[JsonSchemaFormat, Tag("|json_schema")],
    by("type"),
]

ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def to_plain(value: Any) -> Any:
    """Return what was sent, of a model or a list of them: no key is added or lost."""
    if isinstance(value, Body):
        return value.model_dump(exclude_unset=True, by_alias=True)
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    return value
