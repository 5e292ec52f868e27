import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from ci_tools.settings import ModelEntry, Settings
from ci_tools_assistants.models import ModelNotConfigured, open_registry
from ci_tools_assistants.models import registry as registry_module
from tests.adapters.assistants.api import open_client
from tests.adapters.assistants.models.rig import entry_for, finish, open_model
from tests.adapters.assistants.scripted.script import turn
from tests.adapters.assistants.scripted.server import ScriptedServer

FACTORIES = "tests.adapters.assistants.models.factories"


async def test_name_is_answered_by_its_entry(server: ScriptedServer) -> None:
    server.follow([turn("Hi")])

    async with open_registry({"gpt-4o": entry_for("ollama", server)}) as registry:
        await finish(registry.resolve("gpt-4o"))

    assert server.requests[0].model == "qwen3"


async def test_every_other_name_is_answered_by_the_default(server: ScriptedServer) -> None:
    entries = {"gpt-4o": entry_for("ollama", server), "default": entry_for("chat", server)}

    async with open_registry(entries) as registry:
        assert registry.resolve("whatever") is registry.resolve("default")
        assert registry.resolve("whatever") is not registry.resolve("gpt-4o")


async def test_model_is_made_once(server: ScriptedServer) -> None:
    async with open_registry({"m": entry_for("chat", server)}) as registry:
        first = await registry.get_model("m")

        assert await registry.get_model("m") is first
        assert registry.resolve("m") is first


async def test_star_passes_the_name_on(server: ScriptedServer) -> None:
    server.follow([turn("a"), turn("b")])
    entry = ModelEntry(use="openai:*", base_url=server.url)

    async with open_registry({"default": entry}) as registry:
        await finish(registry.resolve("llama-3"))
        await finish(registry.resolve("org/qwen-3"))

    assert [request.model for request in server.requests] == ["llama-3", "org/qwen-3"]


async def test_names_that_clients_invent_do_not_fill_the_memory(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "KEPT_NAMES", 3)
    entry = ModelEntry(use="ollama:*", base_url=server.root)

    async with open_registry({"default": entry}) as registry:
        for number in range(5):
            registry.resolve(f"m{number}")

        assert len(registry._passed_on) == 3
        with pytest.raises(ModelNotConfigured):
            registry.resolve("m" * 1000)


async def test_message_says_how_to_set_a_model_up() -> None:
    async with open_registry({}) as registry:
        with pytest.raises(ModelNotConfigured) as caught:
            registry.resolve("gpt-4o")

    error = caught.value.to_object()
    assert error["code"] == "server_error"
    assert """CI_TOOLS_MODELS='{"gpt-4o": "openai:gpt-5"}'""" in error["message"]
    assert "The model 'gpt-4o' is not configured." in error["message"]


async def test_name_beside_others_needs_an_entry_too(server: ScriptedServer) -> None:
    async with open_registry({"m": entry_for("chat", server)}) as registry:
        with pytest.raises(ModelNotConfigured, match="no entry default"):
            await registry.get_model("gpt-4o")


@pytest.mark.parametrize(
    ("attribute", "options", "answer"),
    [
        ("create_model", {}, "Hello from a factory"),
        ("create_model", {"answer": "Grüezi"}, "Grüezi"),
        ("MODEL", {}, "Hello from an object"),
    ],
)
async def test_factory_is_found_by_its_import_path(
    attribute: str, options: dict[str, Any], answer: str
) -> None:
    entry = ModelEntry(use=f"{FACTORIES}:{attribute}", options=options)

    async with open_model(entry) as model:
        done = await finish(model)

    assert done.text == answer
    assert done.usage.is_estimated


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (f"{FACTORIES}:create_nothing", "returned no LangChain chat model"),
        (f"{FACTORIES}:missing", "AttributeError"),
        ("no_such_place:m", "no provider and no module 'no_such_place'"),
        ("fireworks:m", "pip install langchain-fireworks"),
    ],
)
async def test_entry_that_cannot_work_says_why(use: str, words: str) -> None:
    async with open_registry({"m": ModelEntry(use=use)}) as registry:
        with pytest.raises(ModelNotConfigured) as caught:
            registry.resolve("m")

    assert words in caught.value.message


async def test_what_a_factory_says_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with open_registry({"m": ModelEntry(use=f"{FACTORIES}:fail")}) as registry:
        with pytest.raises(ModelNotConfigured) as caught:
            registry.resolve("m")

    assert "42" not in caught.value.message
    assert "42" in caplog.text


async def test_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ci_tools_assistants.models.openai_client", None)
    monkeypatch.delattr("ci_tools_assistants.models.openai_client", raising=False)

    async with open_registry({"m": ModelEntry(use="openai:m")}) as registry:
        with pytest.raises(ModelNotConfigured, match="pip install langchain-openai"):
            registry.resolve("m")


async def test_missing_variable_of_a_key_is_named(server: ScriptedServer) -> None:
    entry = entry_for("chat", server, api_key_env="NO_SUCH_VARIABLE")

    async with open_registry({"m": entry}) as registry:
        with pytest.raises(ModelNotConfigured, match="NO_SUCH_VARIABLE"):
            registry.resolve("m")


async def test_missing_key_of_the_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_VERSION", raising=False)
    azure = ModelEntry(use="azure_openai:a", base_url="http://127.0.0.1:9")

    async with open_registry({"m": ModelEntry(use="openai:gpt-5"), "azure": azure}) as registry:
        with pytest.raises(ModelNotConfigured, match="OPENAI_API_KEY.* variable[.] See"):
            registry.resolve("m")
        with pytest.raises(ModelNotConfigured, match="api_version"):
            registry.resolve("azure")


async def test_names_are_listed_as_models(server: ScriptedServer) -> None:
    entries = {"gpt-4o": entry_for("ollama", server), "default": entry_for("chat", server)}

    async with open_registry(entries) as registry:
        listed = registry.list_models()

    assert listed == [
        {"id": "gpt-4o", "object": "model", "created": 0, "owned_by": "ollama"},
        {"id": "default", "object": "model", "created": 0, "owned_by": "openai"},
    ]


async def test_closed_model_can_be_made_again(server: ScriptedServer) -> None:
    for shape in ("chat", "anthropic", "ollama"):
        server.follow([turn("a"), turn("b")])
        for _ in range(2):
            async with open_model(entry_for(shape, server)) as model:
                await finish(model)

        assert len(server.requests) == 2


def test_variable_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"gpt-4o": "openai:gpt-5", "default": {"use": "ollama:qwen3", "timeout": 60}}
    monkeypatch.setenv("CI_TOOLS_MODELS", json.dumps(entries))

    models = Settings().models

    assert models["gpt-4o"] == ModelEntry(use="openai:gpt-5")
    assert models["default"].timeout == 60


@pytest.mark.parametrize(
    "entry",
    [
        "gpt-4o",
        {"use": "openai:"},
        {"use": "openai:m", "unknown": 1},
        {"use": "openai:m", "api_key": "a", "api_key_env": "B"},
        {},
    ],
)
def test_entry_that_means_nothing_is_refused(entry: Any) -> None:
    with pytest.raises(ValidationError):
        ModelEntry.model_validate(entry)


async def test_packages_are_loaded_before_a_run_needs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded: dict[str, int] = {}
    all_loaded = threading.Event()

    def note(entry: ModelEntry) -> None:
        loaded[entry.use] = threading.get_ident()
        if len(loaded) == 2:
            all_loaded.set()

    monkeypatch.setattr(registry_module, "load_package", note)

    async with open_client(tmp_path, models={"a": "openai:x", "b": f"{FACTORIES}:create_model"}):
        with anyio.fail_after(30):
            await anyio.to_thread.run_sync(all_loaded.wait, 20)

    assert set(loaded) == {"openai:x", f"{FACTORIES}:create_model"}
    assert threading.get_ident() not in loaded.values()


@pytest.mark.parametrize(
    ("use", "module"),
    [("openai:x", "langchain_openai"), ("ollama:x", "langchain_ollama"), ("nobody:x", "")],
)
def test_loading_a_package_imports_it_or_says_nothing(use: str, module: str) -> None:
    script = (
        "import sys\nfrom ci_tools.settings import ModelEntry\n"
        "from ci_tools_assistants.models.providers import load_package\n"
        f"load_package(ModelEntry(use={use!r}))\nassert not {module!r} or {module!r} in sys.modules"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
