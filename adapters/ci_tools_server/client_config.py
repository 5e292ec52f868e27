"""Configurations with which desktop hosts and registries find `ci-tools`.

Formats: the hosts' own documentation; https://github.com/modelcontextprotocol/mcpb (manifest 0.4);
https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json.
"""

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import metadata, version
from pathlib import Path
from typing import TypeAlias

from ci_tools import ConfigurationError, Settings

_Json: TypeAlias = "None | bool | int | str | list[_Json] | dict[str, _Json]"

DISTRIBUTION = "code-interpreter-tools"
"""Our name on the Python package index."""

_DESCRIPTION = "Runs Python in live Jupyter kernels: state, files, plots and history are kept."
"""What it is in at most 100 characters (the registry's limit)."""

_URL_SETTING = "CI_TOOLS_JUPYTER_URL"
_ISOLATION_SETTING = "CI_TOOLS_ISOLATION"

_SECRET = frozenset(
    {
        "CI_TOOLS_DATABASE_URL",
        "CI_TOOLS_JUPYTER_SERVERS",
        "CI_TOOLS_JUPYTER_TOKEN",
        "CI_TOOLS_KERNEL_ENVIRONMENT",
        "CI_TOOLS_OBJECT_STORE_OPTIONS",
        "CI_TOOLS_OBJECT_STORE_URL",
    }
)
"""Settings that hold secrets, or may."""

_FOR_THE_SERVICE = frozenset(
    {"CI_TOOLS_MODELS", "CI_TOOLS_RUN_WEBHOOK_SECRET", "CI_TOOLS_RUN_WEBHOOK_URL"}
)
"""Settings of the Assistants API, often with keys in them: `ci-tools mcp` does not read them."""

_CREDENTIALS = re.compile(r"://[^/\s]*@|[?&](token|password|secret|key)=", re.IGNORECASE)
"""Addresses that hold a secret."""

_TOKEN_SETTING = "CI_TOOLS_JUPYTER_TOKEN"  # noqa: S105 - the name of a setting


_ISOLATION = (
    "What separates code from this computer. 'auto': a sandbox, which there is on Linux only; on "
    "macOS and Windows code is refused then. 'none': nothing; what the model writes runs with your "
    "rights, and can read, change and delete your files and use your network."
)
"""What a user must know who chooses."""


class Client(StrEnum):
    """A host or registry that wants a configuration."""

    CLAUDE = "claude"
    CLAUDE_CODE = "claude-code"
    CURSOR = "cursor"
    VSCODE = "vscode"
    MCPB = "mcpb"
    SERVER_JSON = "server.json"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a host starts the stdio server, or the address of one that runs already."""

    command: str
    arguments: tuple[str, ...]
    url: str | None = None
    """The address of a `ci-tools serve` (without /mcp); None starts one on this machine."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that the host sets for it; none of them is a secret."""

    @property
    def stdio(self) -> "dict[str, _Json]":
        """The entry of a host that only starts processes."""
        joined = ("--server", self.url) if self.url else ()
        entry: dict[str, _Json] = {
            "command": self.command,
            "args": [*self.arguments, *joined],
        }
        if self.url:
            entry["env"] = {"CI_TOOLS_TOKEN": "PUT THE TOKEN HERE"}
        elif self.settings:
            entry["env"] = dict(self.settings)
        return entry


def find_settings(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the settings that a host should pass on, and the names of those that hold secrets.

    Hosts do not have the shell's environment, and their files are no place for secrets.
    """
    found: dict[str, str] = {}
    secrets: list[str] = []
    for name in sorted(f"CI_TOOLS_{key.upper()}" for key in Settings.model_fields):
        value = environment.get(name, "")
        if not value or name in _FOR_THE_SERVICE:
            continue
        if name in _SECRET or _CREDENTIALS.search(value):
            secrets.append(name)
        elif name == "CI_TOOLS_STATE_DIR":
            found[name] = str(Path(value).expanduser().absolute())  # hosts start elsewhere
        else:
            found[name] = value
    return found, secrets


def to_launch(*, uvx: bool, url: str | None, settings: Mapping[str, str] | None = None) -> Launch:
    """Return how to start this installation, or (`uvx`) the released package through uv."""
    settings = settings or {}
    if url is not None:
        url = url.rstrip("/").removesuffix("/mcp")
    if uvx:
        source = ("--from", f"{DISTRIBUTION}[mcp,data]", "ci-tools", "mcp")
        return Launch(command="uvx", arguments=source, url=url, settings=settings)
    # Hosts do not have the shell's PATH: the whole path of this installation's script.
    script = Path(sys.executable).with_name("ci-tools")
    found = shutil.which("ci-tools", path=str(script.parent))
    if found is not None:
        return Launch(command=found, arguments=("mcp",), url=url, settings=settings)
    module = ("-m", "ci_tools_server", "mcp")
    return Launch(command=sys.executable, arguments=module, url=url, settings=settings)


def to_text(client: Client, launch: Launch, *, owner: str) -> str:
    """Return the configuration, as the text of its file or as the command to type."""
    match client:
        case Client.CLAUDE:
            return _dump({"mcpServers": {"ci-tools": launch.stdio}})
        case Client.CURSOR:
            return _dump({"mcpServers": {"ci-tools": _cursor_entry(launch)}})
        case Client.CLAUDE_CODE:
            return _claude_code_command(launch)
        case Client.VSCODE:
            return _dump(_vscode(launch))
        case Client.MCPB:
            return _dump(_manifest())
        case Client.SERVER_JSON:
            return _dump(_server_json(owner))


def write_text(client: Client, text: str, path: Path) -> None:
    """Write the configuration to `path`, keeping other servers that its file names.

    For `mcpb` the path is a folder, or a bundle if it ends with `.mcpb`.

    Raises:
        ConfigurationError: The file that is there is not one of the kind, or cannot be written.
    """
    try:
        if client is Client.MCPB:
            _write_bundle(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_merge(client, text, path), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error.strerror or error}.") from error


def _merge(client: Client, text: str, path: Path) -> str:
    if client not in (Client.CLAUDE, Client.CURSOR, Client.VSCODE) or not path.exists():
        return text
    present_text = path.read_text(encoding="utf-8")
    try:
        present = json.loads(present_text or "{}")
    except ValueError as error:
        present = None
        if re.search(r"//|/\*|,\s*[}\]]", present_text):
            raise ConfigurationError(
                f"{path} has comments or commas that plain JSON does not know, which could not be "
                "kept. Nothing was changed: leave --write out and add what is printed by hand."
            ) from error
    if not isinstance(present, dict):
        raise ConfigurationError(
            f"{path} is not a JSON object. Nothing was changed: correct it, or write elsewhere."
        )
    for section, content in json.loads(text).items():
        old = present.get(section)
        if isinstance(content, dict) and isinstance(old, dict):
            present[section] = old | content
        elif isinstance(content, list) and isinstance(old, list):
            present[section] = old + [entry for entry in content if entry not in old]
        else:
            present[section] = content
    return _dump(present)


def _cursor_entry(launch: Launch) -> "dict[str, _Json]":
    if launch.url is None:
        return launch.stdio
    return {
        "url": f"{launch.url}/mcp",
        "headers": {"Authorization": "Bearer ${env:CI_TOOLS_TOKEN}"},
    }


def _vscode(launch: Launch) -> "dict[str, _Json]":
    if launch.url is None:
        return {"servers": {"ci-tools": {"type": "stdio", **launch.stdio}}}
    return {
        "inputs": [
            {
                "type": "promptString",
                "id": "ci-tools-token",
                "description": "Token of ci-tools",
                "password": True,
            }
        ],
        "servers": {
            "ci-tools": {
                "type": "http",
                "url": f"{launch.url}/mcp",
                "headers": {"Authorization": "Bearer ${input:ci-tools-token}"},
            }
        },
    }


def _claude_code_command(launch: Launch) -> str:
    if launch.url is not None:
        return (
            f"claude mcp add --transport http ci-tools {_quote(launch.url + '/mcp')} "
            '--header "Authorization: Bearer $CI_TOOLS_TOKEN"\n'
        )
    settings = "".join(f"--env {_quote(f'{k}={v}')} " for k, v in launch.settings.items())
    words = [launch.command, *launch.arguments]
    return f"claude mcp add ci-tools {settings}-- {' '.join(_quote(word) for word in words)}\n"


def _quote(word: str) -> str:
    import shlex

    return shlex.quote(word)


def _write_bundle(path: Path) -> None:
    files = {
        "manifest.json": _dump(_manifest()),
        "pyproject.toml": _BUNDLE_PROJECT.format(version=version(DISTRIBUTION)),
        "src/server.py": _BUNDLE_SERVER,
    }
    if path.suffix == ".mcpb":
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, text in files.items():
                bundle.writestr(name, text)
        return
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")


_BUNDLE_PROJECT = """\
[project]
name = "ci-tools-bundle"
version = "{version}"
requires-python = ">=3.11"
dependencies = ["code-interpreter-tools[mcp,data]=={version}"]
"""

_BUNDLE_SERVER = '''\
"""Start `ci-tools mcp`; settings that the user left empty are left out."""

import os
import sys

for name in ("CI_TOOLS_JUPYTER_URL", "CI_TOOLS_JUPYTER_TOKEN", "CI_TOOLS_ISOLATION"):
    if not os.environ.get(name):
        os.environ.pop(name, None)

from ci_tools_server.__main__ import main

sys.argv = ["ci-tools", "mcp"]
main()
'''


def _manifest() -> "dict[str, _Json]":
    return {
        "manifest_version": "0.4",
        "name": "ci-tools",
        "display_name": "Code interpreter",
        "version": version(DISTRIBUTION),
        "description": _DESCRIPTION,
        "long_description": (
            "Sessions are live Jupyter kernels with a /mnt/data folder. On Linux, code runs on "
            "this computer in a sandbox without network. On macOS and Windows there is no sandbox: "
            "name a Jupyter Server that it shall run on, or allow it in the settings to run here "
            "without one, with all your rights."
        ),
        "author": {"name": "The ci-tools authors"},
        "license": metadata(DISTRIBUTION)["License-Expression"] or "BSD-3-Clause",
        "keywords": ["python", "jupyter", "data", "code interpreter"],
        "server": {
            "type": "uv",
            "entry_point": "src/server.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", "src/server.py"],
                "env": {
                    _URL_SETTING: "${user_config.jupyter_url}",
                    _TOKEN_SETTING: "${user_config.jupyter_token}",
                    _ISOLATION_SETTING: "${user_config.isolation}",
                },
            },
        },
        "tools_generated": True,
        "prompts_generated": True,
        "user_config": {
            "jupyter_url": {
                "type": "string",
                "title": "Jupyter Server",
                "description": (
                    "Address of a Jupyter Server to run on; empty: this computer, see Isolation"
                ),
                "required": False,
                "default": "",
            },
            "jupyter_token": {
                "type": "string",
                "title": "Jupyter token",
                "description": "The token of that Jupyter Server",
                "required": False,
                "sensitive": True,
                "default": "",
            },
            "isolation": {
                "type": "string",
                "title": "Isolation",
                "description": _ISOLATION,
                "required": False,
                "default": "auto",
            },
        },
        "compatibility": {
            "platforms": ["darwin", "linux", "win32"],
            "runtimes": {"python": ">=3.11"},
        },
    }


def _server_json(owner: str) -> "dict[str, _Json]":
    release = version(DISTRIBUTION)
    return {
        "$schema": ("https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"),
        "name": f"io.github.{owner}/ci-tools",
        "title": "Code interpreter",
        "description": _DESCRIPTION,
        "version": release,
        "packages": [
            {
                "registryType": "pypi",
                "identifier": DISTRIBUTION,
                "version": release,
                "runtimeHint": "uvx",
                "transport": {"type": "stdio"},
                "runtimeArguments": [
                    {
                        "type": "named",
                        "name": "--from",
                        "value": f"{DISTRIBUTION}[mcp,data]=={release}",
                    }
                ],
                "packageArguments": [
                    {"type": "positional", "value": "ci-tools"},
                    {"type": "positional", "value": "mcp"},
                ],
                "environmentVariables": [
                    {
                        "name": _URL_SETTING,
                        "description": "Address of a Jupyter Server to run on, instead of here",
                        "isRequired": False,
                        "isSecret": False,
                    },
                    {
                        "name": _TOKEN_SETTING,
                        "description": "The token of that Jupyter Server",
                        "isRequired": False,
                        "isSecret": True,
                    },
                    {
                        "name": _ISOLATION_SETTING,
                        "description": _ISOLATION,
                        "isRequired": False,
                        "isSecret": False,
                        "default": "auto",
                        "choices": ["auto", "namespaces", "bubblewrap", "none"],
                    },
                ],
            }
        ],
    }


def _dump(content: "Mapping[str, _Json]") -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
