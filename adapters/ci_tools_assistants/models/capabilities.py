"""What a model can take, from its provider's package, its profile and the operator's entry.

How this works: a family is a provider's package, found in the class's ancestors, so that a
subclass or a model made by a factory is known too. The profile is LangChain's table of known
models; a name it does not know has none, and then the entry of the settings has to say what the
model can do, or the careful guess is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel

from ci_tools.settings import ModelEntry
from ci_tools_assistants.objects import Object

ToolImages: TypeAlias = Literal["tool", "user", "none"]
"""Where images of a tool go: into its result, a user message after it, or nowhere."""


class Family(StrEnum):
    """Whose words a model understands."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    OLLAMA = "ollama"
    OTHER = "other"


_PACKAGES = {
    "langchain_openai": Family.OPENAI,
    "langchain_anthropic": Family.ANTHROPIC,
    "langchain_google_genai": Family.GOOGLE,
    "langchain_google_vertexai": Family.GOOGLE,
    "langchain_ollama": Family.OLLAMA,
}

_OWN_HOSTS = ("openai.com", "azure.com")
"""Hosts that speak the newest form of OpenAI's API; others may know only older names."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one model can take; prompts and requests are made to fit."""

    family: Family = Family.OTHER
    responses: bool = False
    """Whether it is asked through OpenAI's Responses."""
    foreign: bool = False
    """Whether it is a server that imitates OpenAI's chat completions."""
    window: int | None = None
    """Tokens of prompt and answer together; None: unknown."""
    max_output: int | None = None
    images: bool = True
    image_urls: bool = True
    tool_images: ToolImages = "none"
    tools: bool = True
    tool_choice: bool = True
    parallel_switch: bool = True
    """Whether parallel calls can be forbidden."""
    strict: bool = True
    temperature: bool = True
    response_format: bool = True
    efforts: Sequence[str] | None = None
    """Levels of reasoning; empty: it has none; None: unknown, what is asked for is sent."""


def find_capabilities(model: BaseChatModel, entry: ModelEntry) -> Capabilities:
    """Return what a model can take; what the entry says wins over the profile."""
    profile: dict[str, Any] = dict(getattr(model, "profile", None) or {})
    family = find_family(model)
    responses = family is Family.OPENAI and _uses_responses(model)
    images = _first(entry.images, profile.get("image_inputs"), True)
    return Capabilities(
        family=family,
        responses=responses,
        foreign=family is Family.OPENAI and not responses and _is_foreign(model),
        window=entry.context_window or profile.get("max_input_tokens"),
        max_output=profile.get("max_output_tokens"),
        images=images,
        image_urls=images
        and _first(entry.image_urls, profile.get("image_url_inputs"), family is not Family.OLLAMA),
        tool_images=entry.tool_images or _guess_tool_images(profile, family, responses, entry),
        tools=_first(entry.tools, profile.get("tool_calling"), True),
        tool_choice=_first(entry.tool_choice, profile.get("tool_choice"), True),
        parallel_switch=_first(entry.parallel_tool_calls, None, _can_forbid_parallel(family)),
        strict=_first(entry.strict, None, True),
        temperature=_first(entry.temperature, profile.get("temperature"), True),
        response_format=_first(entry.response_format, None, family is not Family.OTHER),
        efforts=_find_efforts(entry, profile, family),
    )


def find_family(model: BaseChatModel) -> Family:
    """Return whose words a model understands."""
    for ancestor in type(model).__mro__:
        family = _PACKAGES.get(ancestor.__module__.split(".")[0])
        if family is not None:
            return family
    return Family.OTHER


def _first(said: bool | None, known: object, otherwise: bool) -> bool:
    if said is not None:
        return said
    return known if isinstance(known, bool) else otherwise


def _can_forbid_parallel(family: Family) -> bool:
    return family in (Family.OPENAI, Family.ANTHROPIC)


def _guess_tool_images(
    profile: dict[str, Any], family: Family, responses: bool, entry: ModelEntry
) -> ToolImages:
    looks = entry.images if entry.images is not None else profile.get("image_inputs")
    if not looks:
        return "none"  # unknown models are not sent images that nobody asked them to look at
    if family is Family.OPENAI and not responses:
        return "user"  # its schema has no image in a message of the role tool
    return "tool" if profile.get("image_tool_message") else "user"


def _find_efforts(
    entry: ModelEntry, profile: dict[str, Any], family: Family
) -> Sequence[str] | None:
    if entry.reasoning is not None:
        return None if entry.reasoning else ()
    if levels := profile.get("reasoning_effort_levels"):
        return tuple(levels)
    # A known model without levels refuses them, but for OpenAI's older ones.
    is_known = bool(profile) and (
        family is not Family.OPENAI or not profile.get("reasoning_output")
    )
    return () if is_known else None


def _uses_responses(model: BaseChatModel) -> bool:
    # LangChain decides for each request, by the model's name and options, where nobody said it.
    decide = getattr(model, "_use_responses_api", None)
    tools: list[Object] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    return bool(decide({"tools": tools})) if callable(decide) else False


def _is_foreign(model: BaseChatModel) -> bool:
    address = getattr(model, "openai_api_base", None)
    if not address or getattr(model, "azure_endpoint", None):
        return False
    host = urlsplit(str(address)).hostname or ""
    return not any(host == own or host.endswith(f".{own}") for own in _OWN_HOSTS)
