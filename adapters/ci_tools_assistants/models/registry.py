"""The models of one server by the names that clients ask for."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio

from ci_tools.settings import ModelEntry
from ci_tools_assistants.models.capabilities import find_capabilities
from ci_tools_assistants.models.failures import ModelNotConfigured
from ci_tools_assistants.models.providers import ANY_NAME, close_model, create_model, load_package
from ci_tools_assistants.models.turn import ChatModel
from ci_tools_assistants.objects import Object

DEFAULT: Final = "default"
"""The entry that answers to every name without an entry of its own."""

LONGEST_NAME: Final = 256
"""Characters of a model's name; longer ones are no model's."""

KEPT_NAMES: Final = 32
"""Names that are passed on to a provider and kept as models at once."""

_HOW_TO: Final = (
    "Set it up and restart the server, for example with OpenAI: "
    """export CI_TOOLS_MODELS='{{"{name}": "openai:gpt-5"}}' OPENAI_API_KEY=… """
    "or with a server of your own: "
    """export CI_TOOLS_MODELS='{{"default": {{"use": "openai:qwen3", """
    """"base_url": "http://127.0.0.1:8000/v1"}}}}' """
    "(the entry default answers to every name). See docs/models.md."
)


class ModelRegistry:
    """Finds models by name and makes each once; opened by `open_registry`."""

    def __init__(self, entries: Mapping[str, ModelEntry]) -> None:
        self._entries = entries
        self._made: dict[str, ChatModel] = {}
        self._passed_on: OrderedDict[str, ChatModel] = OrderedDict()
        self._making = anyio.Lock()

    def resolve(self, name: str) -> ChatModel:
        """Return the model that answers to a name.

        Raises:
            ModelNotConfigured: None does, or its entry cannot work; the text says what to do.
        """
        entry = self.find_entry(name)
        if entry is None:
            raise _not_configured(name, has_others=bool(self._entries))
        if entry.use.endswith(f":{ANY_NAME}"):
            return self._pass_on(name, entry)
        key = name if name in self._entries else DEFAULT
        if key not in self._made:
            self._made[key] = _make(key, entry)
        return self._made[key]

    async def get_model(self, name: str) -> ChatModel:
        """Do the same without holding up other requests: packages take seconds to load.

        Raises:
            ModelNotConfigured: As from `resolve`.
        """
        if (made := self._made.get(name) or self._passed_on.get(name)) is not None:
            return made
        async with self._making:
            return await anyio.to_thread.run_sync(self.resolve, name)

    async def load_packages(self) -> None:
        """Import what the models of the settings need before a run has to wait for it.

        In a thread, and one after the other: requests are answered meanwhile.
        """
        for entry in self._entries.values():
            await anyio.to_thread.run_sync(load_package, entry, abandon_on_cancel=True)

    def find_entry(self, name: str) -> ModelEntry | None:
        """Return the entry that answers to a name, or None."""
        if not name or len(name) > LONGEST_NAME:
            return None
        return self._entries.get(name, self._entries.get(DEFAULT))

    def list_models(self) -> list[Object]:
        """Return the names of the settings as objects of the API."""
        return [to_object(name, entry) for name, entry in self._entries.items()]

    async def close(self) -> None:
        """Close the connections of every model that was made."""
        for made in (*self._made.values(), *self._passed_on.values()):
            await close_model(made.model)
        self._made.clear()
        self._passed_on.clear()

    def _pass_on(self, name: str, entry: ModelEntry) -> ChatModel:
        """Make a model of a name that clients invented; only some of them are kept."""
        if name not in self._passed_on:
            self._passed_on[name] = _make(name, entry)
        self._passed_on.move_to_end(name)
        while len(self._passed_on) > KEPT_NAMES:
            # A run may still use it: without a reference, its connections end with the run.
            self._passed_on.popitem(last=False)
        return self._passed_on[name]


@asynccontextmanager
async def open_registry(entries: Mapping[str, ModelEntry]) -> AsyncIterator[ModelRegistry]:
    """Open the models of the settings; none is made before a run needs it."""
    registry = ModelRegistry(entries)
    try:
        yield registry
    finally:
        await registry.close()


def to_object(name: str, entry: ModelEntry) -> Object:
    """Return a model as the API shows it; when it was made is unknown, which is 0."""
    owner = entry.use.partition(":")[0]
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _make(name: str, entry: ModelEntry) -> ChatModel:
    model = create_model(name, entry)
    return ChatModel(name, model, entry, find_capabilities(model, entry))


def _not_configured(name: str, *, has_others: bool) -> ModelNotConfigured:
    shown = name[:100]
    why = "has no entry, and there is no entry default" if has_others else "is not configured"
    return ModelNotConfigured(f"The model '{shown}' {why}. {_HOW_TO.format(name=shown)}")
