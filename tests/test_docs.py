"""The documentation says what the code does, where that can be compared."""

import json
import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from ci_tools import RunStep, SessionService, StepStatus
from ci_tools.settings import Settings
from ci_tools_mcp import create_server
from ci_tools_mcp.content import META_KEY, to_meta
from ci_tools_server.client_config import Client, to_launch, to_text
from ci_tools_server.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
CLIENTS = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

DOCUMENTED = dict(re.findall(r"^\| `CI_TOOLS_([A-Z_]+)` \| (.+?) \|", CONFIGURATION, re.MULTILINE))
"""The cell with the default of each documented variable, by the variable's name."""


def test_every_setting_is_documented_and_no_other() -> None:
    assert sorted(DOCUMENTED) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_documented_default_is_the_real_one(name: str) -> None:
    field = Settings.model_fields[name]
    if name == "state_dir":
        return  # it depends on the platform, which the text says
    default = field.get_default(call_default_factory=True, validated_data={})
    cell = DOCUMENTED[name.upper()]

    match default:
        case None:
            assert not cell.startswith("`")
        case bool() | dict() | tuple():
            found = json.loads(cell.strip("`"))
            assert found == (list(default) if isinstance(default, tuple) else default)
        case float() | int():
            assert float(cell.strip("`")) == default
        case str():
            assert cell == (f"`{default}`" if default else "empty")
        case _:
            assert not default.get_secret_value()
            assert cell == "empty"


def test_readme_and_server_json_name_the_same_server() -> None:
    marker = re.search(r"mcp-name: (io\.github\.([\w-]+)/[\w-]+)", README)
    assert marker is not None
    launch = to_launch(uvx=True, url=None)

    entry = json.loads(to_text(Client.SERVER_JSON, launch, owner=marker[2]))

    assert entry["name"] == marker[1]


@pytest.mark.parametrize("client", list(Client))
def test_every_client_has_its_documentation(client: Client) -> None:
    assert f"| `{client.value}` |" in CLIENTS


def test_every_metric_is_documented_and_no_other() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    text = Metrics().to_text(sessions=0, kernels=0, stored_bytes=0, unfinished_steps=0).decode()

    real = set(re.findall(r"^# TYPE (ci_tools_\w+)", text, re.MULTILINE))
    documented = set(re.findall(r"^\| `(ci_tools_\w+)", operations, re.MULTILINE))

    assert documented == {name for name in real if not name.endswith("_created")}


async def test_every_tool_resource_and_prompt_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    server = create_server(_never, default_session=True)
    names = {tool.name for tool in await server.list_tools()}
    names |= {prompt.name for prompt in await server.list_prompts()}
    names |= {str(resource.uri) for resource in await server.list_resources()}
    names |= {resource.uri_template for resource in await server.list_resource_templates()}

    documented = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))

    assert documented == names


def test_the_copy_of_a_step_for_programs_is_documented_as_it_is() -> None:
    page = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    step = RunStep(
        id="step_1",
        session_id="sess_1",
        principal="local",
        code="1",
        status=StepStatus.COMPLETED,
        epoch=1,
        timeout=1,
        created_at=0,
    )

    assert example is not None
    assert META_KEY in page
    assert list(json.loads(example[1])) == list(to_meta(step))


def _never() -> AbstractAsyncContextManager[SessionService]:
    raise AssertionError("opened")


def test_local_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_target_that_the_readme_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    texts = [README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")]

    named = {name for text in texts for name in re.findall(r"(?m)(?:^|`)make ([a-z]+)", text)}

    assert {"demo", "test"} <= named <= targets
