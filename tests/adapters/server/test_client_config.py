import json
import tomllib
import zipfile
from pathlib import Path
from typing import get_args

import pytest

from ci_tools import ConfigurationError, Settings
from ci_tools_server.client_config import Client, find_settings, to_launch, to_text, write_text

HERE = to_launch(uvx=False, url=None)
THERE = to_launch(uvx=False, url="https://ci.example.org/mcp/")


@pytest.mark.parametrize("client", [Client.CLAUDE, Client.CURSOR])
def test_a_desktop_host_starts_this_installation_by_its_whole_path(client: Client) -> None:
    entry = json.loads(to_text(client, HERE, owner="x"))["mcpServers"]["ci-tools"]

    assert Path(entry["command"]).is_absolute()
    assert entry["args"][-1] == "mcp"


def test_the_released_package_is_started_through_uv() -> None:
    entry = json.loads(to_text(Client.CLAUDE, to_launch(uvx=True, url=None), owner="x"))

    assert entry["mcpServers"]["ci-tools"] == {
        "command": "uvx",
        "args": ["--from", "code-interpreter-tools[mcp,data]", "ci-tools", "mcp"],
    }


def test_claude_reaches_a_service_through_a_bridge() -> None:
    entry = json.loads(to_text(Client.CLAUDE, THERE, owner="x"))["mcpServers"]["ci-tools"]

    assert entry["args"][-3:] == ["mcp", "--server", "https://ci.example.org"]
    assert list(entry["env"]) == ["CI_TOOLS_TOKEN"]


def test_hosts_that_speak_http_get_the_address_and_no_secret() -> None:
    cursor = json.loads(to_text(Client.CURSOR, THERE, owner="x"))["mcpServers"]["ci-tools"]
    vscode = json.loads(to_text(Client.VSCODE, THERE, owner="x"))

    assert cursor["url"] == "https://ci.example.org/mcp"
    assert vscode["servers"]["ci-tools"]["url"] == "https://ci.example.org/mcp"
    assert vscode["inputs"][0]["password"] is True


def test_claude_code_gets_a_command_to_type() -> None:
    assert to_text(Client.CLAUDE_CODE, HERE, owner="x").startswith("claude mcp add ci-tools -- /")
    assert "--transport http" in to_text(Client.CLAUDE_CODE, THERE, owner="x")


def test_the_registry_entry_is_within_its_limits() -> None:
    entry = json.loads(to_text(Client.SERVER_JSON, HERE, owner="ada"))

    assert entry["name"] == "io.github.ada/ci-tools"
    assert len(entry["description"]) <= 100
    assert entry["packages"][0]["version"] == entry["version"]


def test_writing_keeps_the_other_servers_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "host" / "config.json"
    path.parent.mkdir()
    path.write_text('{"mcpServers": {"other": {"command": "x"}}, "theme": "dark"}')

    write_text(Client.CLAUDE, to_text(Client.CLAUDE, HERE, owner="x"), path)
    write_text(Client.CLAUDE, to_text(Client.CLAUDE, HERE, owner="x"), path)

    content = json.loads(path.read_text())
    assert content["theme"] == "dark"
    assert sorted(content["mcpServers"]) == ["ci-tools", "other"]


def test_a_file_that_is_not_json_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("// comment\n{}")

    with pytest.raises(ConfigurationError, match="comments"):
        write_text(Client.VSCODE, to_text(Client.VSCODE, HERE, owner="x"), path)

    assert path.read_text() == "// comment\n{}"


def test_settings_without_secrets_are_passed_on_by_every_host() -> None:
    given = {
        "CI_TOOLS_STATE_DIR": "/srv/a b",
        "CI_TOOLS_JUPYTER_URL": "https://lab.example.org/?token=hidden",
        "CI_TOOLS_KERNEL_ENVIRONMENT": '{"API_KEY": "hidden"}',
        "CI_TOOLS_MODELS": '{"default": {"use": "openai:x", "api_key": "hidden"}}',
        "CI_TOOLS_UNKNOWN": "1",
        "PATH": "/bin",
    }

    settings, secrets = find_settings(given)
    launch = to_launch(uvx=False, url=None, settings=settings)

    assert settings == {"CI_TOOLS_STATE_DIR": "/srv/a b"}
    assert secrets == ["CI_TOOLS_JUPYTER_URL", "CI_TOOLS_KERNEL_ENVIRONMENT"]
    assert "--env 'CI_TOOLS_STATE_DIR=/srv/a b' -- " in to_text(
        Client.CLAUDE_CODE, launch, owner="x"
    )
    vscode = json.loads(to_text(Client.VSCODE, launch, owner="x"))
    assert vscode["servers"]["ci-tools"]["env"] == settings


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="file"):
        write_text(Client.CURSOR, "{}", tmp_path / "file" / "x.json")


def test_a_bundle_has_what_its_manifest_names(tmp_path: Path) -> None:
    write_text(Client.MCPB, "", tmp_path / "ci-tools.mcpb")

    with zipfile.ZipFile(tmp_path / "ci-tools.mcpb") as bundle:
        manifest = json.loads(bundle.read("manifest.json"))
        project = tomllib.loads(bundle.read("pyproject.toml").decode())
        compile(bundle.read(manifest["server"]["entry_point"]), "server.py", "exec")
    assert project["project"]["version"] == manifest["version"]


def test_bundle_and_registry_let_the_user_choose_the_isolation(tmp_path: Path) -> None:
    write_text(Client.MCPB, "", tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    script = (tmp_path / "bundle" / "src" / "server.py").read_text()
    entry = json.loads(to_text(Client.SERVER_JSON, HERE, owner="ada"))

    asked = manifest["user_config"]["isolation"]
    given = manifest["server"]["mcp_config"]["env"]["CI_TOOLS_ISOLATION"]
    variables = {one["name"]: one for one in entry["packages"][0]["environmentVariables"]}
    variable = variables["CI_TOOLS_ISOLATION"]
    default = Settings.model_fields["isolation"]
    assert given == "${user_config.isolation}"
    assert (asked["default"], variable["default"]) == (default.default, default.default)
    assert tuple(variable["choices"]) == get_args(default.annotation)
    assert "your rights" in asked["description"] and "your rights" in variable["description"]
    assert '"CI_TOOLS_ISOLATION"' in script  # left out if it is left empty
