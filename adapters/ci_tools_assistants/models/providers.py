"""Chat models made from an entry of the settings; each provider's package loads on first use."""

import importlib
import importlib.util
import inspect
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr, ValidationError

from ci_tools import ConfigurationError
from ci_tools.settings import ModelEntry
from ci_tools_assistants.models.failures import ModelNotConfigured

logger = logging.getLogger(__name__)

ANY_NAME: Final = "*"
"""The model of an entry that passes on the name it is asked for."""

_NO_KEY: Final = SecretStr("none")
"""What is sent to a server of one's own that has no key; the variable of the provider's own key
is not looked at then, for that key is for the provider alone."""

_OPENAI: Final = frozenset({"openai", "azure_openai"})
_WITH_KEY: Final = frozenset({"openai", "anthropic", "mistralai", "groq", "deepseek", "xai"})

_shares = itertools.count(1)


def create_model(name: str, entry: ModelEntry) -> BaseChatModel:
    """Return the chat model of an entry; `name` is what the client asked for.

    Raises:
        ModelNotConfigured: The entry cannot work; the text says what is missing.
    """
    place, _, model = entry.use.partition(":")
    create = _find_provider(place)
    try:
        if create is not None:
            wanted = name if model == ANY_NAME else model
            return create(wanted, entry)
        return _call_factory(place, model, entry)
    except ModelNotConfigured:
        raise
    except ImportError as error:
        raise _cannot(name, entry, str(error)) from error
    except ConfigurationError as error:
        raise _cannot(name, entry, str(error)) from error
    except Exception as error:  # foreign code; whatever it is, the run must say it
        logger.exception("model %s cannot be made", name)
        raise _cannot(name, entry, f"{type(error).__name__}; the log says more") from error


def load_package(entry: ModelEntry) -> None:
    """Import what an entry needs, which takes seconds; what fails, a run says when it needs it."""
    place = entry.use.partition(":")[0]
    try:
        if place in _OPENAI:
            from ci_tools_assistants.models import openai_client  # noqa: F401 - only to import it
        elif _find_provider(place) is not None:
            from langchain.chat_models import base

            importlib.import_module(base._BUILTIN_PROVIDERS[place][0])
    except Exception as error:  # noqa: BLE001 - foreign code, and nobody waits for it
        logger.info("the package of %s is not loaded: %s", place, error)


async def close_model(model: BaseChatModel) -> None:
    """Close the connections of a model, as far as its package lets us."""
    for name in ("root_async_client", "_async_client"):
        # What a package made only if it was needed must not be made now.
        client = model.__dict__.get(name) or (model.__pydantic_private__ or {}).get(name)
        close = getattr(client, "close", None)
        if close is not None and inspect.iscoroutinefunction(close):
            with suppress(Exception):  # its loop may be gone; then so are the connections
                await close()


def _find_provider(place: str) -> Callable[[str, ModelEntry], BaseChatModel] | None:
    if place in _OPENAI:
        return _create_openai
    try:
        # It is in langchain, which the extra `assistants` has, and not in langchain-core.
        from langchain.chat_models import base
    except ImportError:
        return None
    if place not in getattr(base, "_BUILTIN_PROVIDERS", ()):
        return None
    return _create_by_name


def _create_openai(model: str, entry: ModelEntry) -> BaseChatModel:
    try:
        from openai import OpenAIError

        from ci_tools_assistants.models import openai_client
    except ImportError as error:
        raise ImportError("pip install langchain-openai") from error
    options = _common_options(entry, key=True)
    options["http_async_client"] = openai_client.create_http_client(entry.timeout)
    options["stream_usage"] = entry.stream_usage
    # Silence is measured for every provider in the same way, in turn.py.
    options["stream_chunk_timeout"] = None
    try:
        if entry.use.startswith("azure_openai:"):
            if entry.base_url is not None:
                options["azure_endpoint"] = options.pop("base_url")
            return openai_client.AzureModel(**{"model": model, **options, **entry.options})
        return openai_client.OpenAIModel(**{"model": model, **options, **entry.options})
    except OpenAIError as error:  # no key; the text names the variable
        raise ConfigurationError(str(error)) from error
    except ValidationError as error:  # without what was given, which may be a secret
        texts = [str(problem["msg"]) for problem in error.errors(include_input=False)]
        raise ConfigurationError("; ".join(texts)) from error


def _create_by_name(model: str, entry: ModelEntry) -> BaseChatModel:
    from langchain.chat_models import init_chat_model

    provider = entry.use.partition(":")[0]
    options = _common_options(entry, key=provider in _WITH_KEY)
    if provider == "ollama":
        options["client_kwargs"] = {"timeout": options.pop("timeout")}
        del options["max_retries"]
    if provider == "anthropic":
        # The package shares HTTP clients by address and time-out, even after they were closed:
        # a time-out of its own keeps one for each model, which can then be closed with it.
        options["timeout"] += next(_shares) * 1e-6

    def create(options: dict[str, Any]) -> BaseChatModel:
        chosen = {**options, **entry.options}
        made = init_chat_model(model, model_provider=provider, **chosen)
        assert isinstance(made, BaseChatModel)  # nothing is configurable
        return made

    try:
        return create(options)
    except (TypeError, ValueError):
        # A class without these parameters; if something else was wrong, it says so once more.
        return create({k: v for k, v in options.items() if k not in ("timeout", "max_retries")})


def _common_options(entry: ModelEntry, *, key: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"timeout": entry.timeout, "max_retries": 0}
    if entry.base_url is not None:
        options["base_url"] = entry.base_url
    secret = entry.find_api_key()
    if secret is None and entry.base_url is not None and key:
        secret = _NO_KEY
    if secret is not None:
        options["api_key"] = secret
    return options


def _call_factory(place: str, attribute: str, entry: ModelEntry) -> BaseChatModel:
    if importlib.util.find_spec(place.split(".")[0]) is None:
        raise ImportError(
            f"there is no provider and no module '{place}'; providers are openai, anthropic, "
            "ollama, google_genai and the others of LangChain's init_chat_model, which needs "
            "pip install langchain"
        )
    found: Any = importlib.import_module(place)
    for part in attribute.split("."):
        found = getattr(found, part)
    made = found if isinstance(found, BaseChatModel) else found(**entry.options)
    if not isinstance(made, BaseChatModel):
        raise ConfigurationError(f"{entry.use} returned no LangChain chat model")
    return made


def _cannot(name: str, entry: ModelEntry, why: str) -> ModelNotConfigured:
    return ModelNotConfigured(
        f"The model '{name[:100]}' ({entry.use}) cannot be used: {why.strip().rstrip('.')}. "
        "See CI_TOOLS_MODELS."
    )
