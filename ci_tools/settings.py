"""Every setting of the service, read once from `CI_TOOLS_…` variables and a TOML file."""

import difflib
import json
import os
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from ci_tools.errors import ConfigurationError

MEGABYTE = 1_000_000
"""Bytes; limits of text and memory are counted in these."""

MEBIBYTE = 1 << 20
"""Bytes; limits of files are counted in these, as the hosted tools did."""

SECRET_LENGTH = 8
"""Characters from which on a variable's value is taken for a secret, and not for a word."""

HOUR = 3600.0
"""Seconds."""

DAY = 24 * HOUR
"""Seconds."""

Network: TypeAlias = Literal["none", "allowlist", "on"]
"""What sandboxed code reaches besides its own loopback."""

NETWORKS: tuple[Network, ...] = ("none", "allowlist", "on")
"""From the least to the most."""

_PREFIX = "CI_TOOLS_"
"""How the variables begin."""

_OTHER_VARIABLES = (_PREFIX + "CONFIG", _PREFIX + "TOKEN")
"""Variables that are no settings: where the file is, and the token of `ci-tools mcp --server`."""


def default_state_dir() -> Path:
    """Return the platform's folder for a user's application state, with `ci-tools` appended."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "ci-tools"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "ci-tools"
    return Path(os.environ.get("XDG_STATE_HOME", home / ".local" / "state")) / "ci-tools"


class JupyterServerProfile(BaseModel):
    """A remote Jupyter Server, Kernel Gateway or Enterprise Gateway that sessions can run on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: HttpUrl
    """Its address with the base path, for example `https://lab.example.org/user/ada/`."""

    token: SecretStr = SecretStr("")
    """Its token; sent in the Authorization header only."""

    root: str = "ci-tools"
    """Folder for the sessions, relative to the server's root directory."""

    kernelspec: str | None = None
    """The kernelspec of sessions that name none; None takes the server's own default."""


class ModelEntry(BaseModel):
    """How the model of one name is reached, and what it can take.

    A flag that is None is taken from what is known of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: str
    """`provider:model` (`openai:gpt-5`; `openai:*` passes on whatever name was asked for), or
    `module:factory`, which is called with `options` and returns a LangChain chat model."""

    base_url: str | None = None
    """The address of the provider's API, if it is not the provider's own."""

    api_key: SecretStr | None = None
    """The key of the provider."""

    api_key_env: str | None = None
    """The variable that holds the key of the provider; without either, the provider's usual one."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Further parameters of the provider's class, or of the factory."""

    timeout: float = Field(default=300.0, gt=0)
    """Seconds that the model may be silent, before its answer and in the middle of it."""

    max_retries: int = Field(default=2, ge=0, le=10)
    """How often a request is repeated if it failed before the first word of the answer."""

    stream: bool = True
    """Whether the answer is fetched in pieces."""

    stream_usage: bool = True
    """Whether an OpenAI-compatible server is asked for the usage of a streamed answer."""

    context_window: int | None = Field(default=None, ge=256)
    """Tokens that prompt and answer may have together."""

    images: bool | None = None
    """Whether the model can look at images."""

    image_urls: bool | None = None
    """Whether the provider fetches images from addresses."""

    tool_images: Literal["tool", "user", "none"] | None = None
    """Where images that code made are shown to the model: in the tool's result, in a user message
    after it, or not at all."""

    tools: bool | None = None
    """Whether the model can call tools."""

    tool_choice: bool | None = None
    """Whether the model can be made to call a tool."""

    parallel_tool_calls: bool | None = None
    """Whether calls of several tools at once can be forbidden."""

    strict: bool | None = None
    """Whether the tools' parameter `strict` is known."""

    temperature: bool | None = None
    """Whether the model takes `temperature` and `top_p`."""

    response_format: bool | None = None
    """Whether the provider takes a JSON format; else it is asked for in words."""

    reasoning: bool | None = None
    """Whether the model takes `reasoning_effort`."""

    @model_validator(mode="before")
    @classmethod
    def _take_text(cls, value: object) -> object:
        return {"use": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_use(self) -> "ModelEntry":
        place, colon, name = self.use.partition(":")
        if not (place and colon and name):
            raise ValueError("use: write 'provider:model' or 'module:factory'")
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("api_key and api_key_env: give one of them")
        return self

    def find_api_key(self) -> SecretStr | None:
        """Return the key, or None to leave it to the provider's package.

        Raises:
            ConfigurationError: The variable that `api_key_env` names is not set.
        """
        if self.api_key_env is None:
            return self.api_key
        value = os.environ.get(self.api_key_env)
        if not value:
            raise ConfigurationError(f"The variable {self.api_key_env} (api_key_env) is not set.")
        return SecretStr(value)


class Settings(BaseSettings):
    """The settings of one service process.

    Each field is the variable `CI_TOOLS_` + its name in capitals, or a key of the TOML file that
    `CI_TOOLS_CONFIG` names; variables win. Times are seconds, sizes are bytes.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    state_dir: Path = Field(default_factory=default_state_dir)
    """The one directory that holds everything the service keeps (mode 0700)."""

    database_url: SecretStr | None = None
    """Where records are kept: `sqlite:///…` or `postgresql://…`; None: a file in `state_dir`."""

    object_store_url: SecretStr | None = None
    """Where bytes are kept: `file:///…`, `s3://bucket/…` or `memory:///`; None: in `state_dir`."""

    object_store_options: dict[str, str] = Field(default_factory=dict)
    """Options of the object store, for example `{"endpoint": "…", "access_key_id": "…"}` for S3."""

    backend: str = "jupyter"
    """The entry point in `ci_tools.backends` that runs code."""

    jupyter_url: HttpUrl | None = None
    """The Jupyter Server of the profile `default`; None runs code on an embedded server."""

    jupyter_token: SecretStr = SecretStr("")
    """The token of the profile `default`."""

    jupyter_servers: dict[str, JupyterServerProfile] = Field(default_factory=dict)
    """More Jupyter Servers by name, as JSON: `{"lab": {"url": "…", "token": "…"}}`."""

    kernelspec: str = ""
    """The kernelspec of new sessions that name none; empty takes the server's own default."""

    isolation: Literal["auto", "namespaces", "bubblewrap", "none"] = "auto"
    """What separates code on the embedded server from this machine; `auto` is the best sandbox that
    works here, and never `none`, with which code has the rights of the service."""

    kernel_python: Path | None = None
    """The interpreter of the embedded server's kernels, with ipykernel; None takes the environment
    in `state_dir`, built when it is missing, or with isolation `none` the service's own."""

    kernel_requirements: Path | None = None
    """A requirements file with what the environment for kernels shall have besides."""

    kernel_network: Network = "none"
    """What sandboxed code reaches, where a session says nothing else: nothing, the hosts of
    `kernel_network_hosts`, or all that this machine does, its loopback and neighbours included."""

    kernel_network_most: Network | None = None
    """The most that a host application may give a session; None for `kernel_network`."""

    kernel_network_hosts: tuple[str, ...] = ()
    """The hosts of the network `allowlist`, as JSON: `["pypi.org", "*.example.org:8443"]`; without
    a port 80 and 443. No name leads to a private address; an address in the list may be one."""

    kernel_environment: dict[str, SecretStr] = Field(default_factory=dict)
    """Variables of code on the embedded server, as JSON; values of 8 and more characters are
    replaced by `***` in what is kept of outputs."""

    kernel_memory: int = Field(default=2048 * MEBIBYTE, ge=64 * MEBIBYTE)
    """Bytes of memory of one sandboxed session."""

    kernel_processes: int = Field(default=256, ge=16)
    """Processes and threads of one sandboxed session."""

    kernel_cpus: float = Field(default=2.0, gt=0)
    """Processors' worth of time of one sandboxed session, where control groups can be had."""

    kernel_disk: int = Field(default=1024 * MEBIBYTE, ge=MEBIBYTE)
    """Bytes in the /mnt/data of one sandboxed session."""

    kernel_file_size: int = Field(default=1024 * MEBIBYTE, ge=MEBIBYTE)
    """Bytes of one file that sandboxed code writes."""

    kernel_pool: int = Field(default=1, ge=0, le=100)
    """Sandboxed kernels that are kept ready for new sessions, at least; 0 for none at all."""

    kernel_pool_most: int = Field(default=16, ge=0, le=200)
    """The most that are kept ready for some minutes after so many were wanted at once."""

    kernel_preload: tuple[str, ...] = ("numpy", "pandas", "matplotlib.pyplot")
    """Modules that sandboxed kernels have imported when they start, as JSON."""

    session_retention: float = Field(default=30 * DAY, gt=0)
    """Seconds after its last use that a session, its files and steps are kept."""

    session_lifetime: float | None = Field(default=None, gt=0)
    """Seconds after its creation that a session ends whatever its use; None for no such end."""

    kernel_idle_timeout: float = Field(default=HOUR, gt=0)
    """Seconds without use after which a session's kernel is stopped; the session stays."""

    step_timeout: float = Field(default=300.0, gt=0)
    """Seconds that a step may run if its caller names no limit."""

    step_timeout_max: float = Field(default=4 * HOUR, gt=0)
    """The longest limit in seconds that a caller may name for a step."""

    interrupt_grace: float = Field(default=5.0, gt=0)
    """Seconds that interrupted code has to stop before its kernel is restarted."""

    text_limit: int = Field(default=1 * MEGABYTE, ge=1000)
    """Characters of text kept in a step for readers: the head and the tail of more."""

    display_limit: int = Field(default=20 * MEGABYTE, ge=0)
    """Bytes of images and other rich output kept in a step; further ones are left out, and said."""

    full_text_limit: int = Field(default=100 * MEGABYTE, ge=1000)
    """Bytes of text that a step may print; beyond, it is interrupted and fails."""

    file_limit: int = Field(default=512 * MEBIBYTE, ge=1)
    """The largest file in bytes that can be uploaded."""

    sessions_per_principal: int = Field(default=1000, ge=1)
    """Sessions that one principal may have."""

    bytes_per_principal: int = Field(default=20 * 1024 * MEBIBYTE, ge=1)
    """Bytes of files and of full texts that one principal may keep."""

    steps_per_principal: int = Field(default=32, ge=1)
    """Steps that one principal may have queued or running at once."""

    requests_per_minute: int = Field(default=6000, ge=1)
    """Calls that one principal may make in a minute, counted in each service process."""

    lease_time: float = Field(default=15.0, ge=1)
    """Seconds without a sign of life after which another process settles a process's steps."""

    ticket_time: float = Field(default=900.0, gt=0)
    """Seconds that an upload or download link is valid."""

    host: str = "127.0.0.1"
    """The address that `ci-tools serve` listens on."""

    port: int = Field(default=8765, ge=0, le=65535)
    """The port that `ci-tools serve` listens on; 0 takes a free one."""

    body_timeout: float = Field(default=60.0, gt=0)
    """Seconds that the body of a request to `ci-tools serve` may stand still."""

    public_url: HttpUrl | None = None
    """The address under which clients reach `ci-tools serve`, if a proxy stands before it."""

    auth: Literal["token", "none"] = "token"
    """Who may use the HTTP face: bearers of a token, or (loopback only) everybody."""

    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the Assistants API, as JSON: `["https://app.example"]`."""

    step_call_name: Literal["code_interpreter", "code"] = "code_interpreter"
    """What a run step calls a call of the code interpreter; `code` is what an old guide printed."""

    models: dict[str, ModelEntry] = Field(default_factory=dict)
    """The models that runs of the Assistants API use, by the name that clients ask for, as JSON;
    the entry `default` answers to every other name."""

    run_lifetime: float = Field(default=600.0, ge=1)
    """Seconds after its creation that a run of the Assistants API expires, also while it waits for
    tool outputs."""

    run_rounds: int = Field(default=50, ge=1)
    """Rounds of tool calls that a run may have before its answer."""

    thread_queue_time: float = Field(default=0.0, ge=0)
    """Seconds that a new message or run waits for the active run of its thread; 0 refuses it at
    once, as the original did."""

    run_webhook_url: HttpUrl | None = None
    """Where to tell each end of a run, and each wait for tool outputs, with a POST."""

    run_webhook_secret: SecretStr = SecretStr("")
    """The secret that webhooks are signed with (`whsec_…`, or any text)."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe log line written to stderr."""

    @model_validator(mode="after")
    def _check_limits(self) -> "Settings":
        if self.step_timeout > self.step_timeout_max:
            raise ValueError("step_timeout is larger than step_timeout_max")
        if self.run_webhook_url is not None and not self.run_webhook_secret.get_secret_value():
            raise ValueError("run_webhook_url is set, and run_webhook_secret is empty")
        if "embedded" in self.jupyter_servers or "default" in self.jupyter_servers:
            raise ValueError("jupyter_servers: the names 'embedded' and 'default' are taken")
        if NETWORKS.index(self.most_network) < NETWORKS.index(self.kernel_network):
            raise ValueError("kernel_network is more than kernel_network_most")
        if self.kernel_network == "allowlist" and not self.kernel_network_hosts:
            raise ValueError("kernel_network is 'allowlist', and kernel_network_hosts is empty")
        return self

    @property
    def most_network(self) -> Network:
        """The most that a session may have, with `kernel_network_most` filled in."""
        return self.kernel_network_most or self.kernel_network

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values of `kernel_environment` that outputs must not show."""
        return to_secrets(value.get_secret_value() for value in self.kernel_environment.values())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments first, then variables, then the TOML file.

        Raises:
            ConfigurationError: A variable or key means nothing, or the file cannot be read. What
                is misspelt must not leave a default in force, of all things one about safety.
        """
        known = settings_cls.model_fields
        for variable in os.environ:
            name = variable.removeprefix(_PREFIX)
            if variable.startswith((_PREFIX + "TEST_", *_OTHER_VARIABLES)) or name == variable:
                continue
            if name.lower() not in known:
                raise _unknown(f"variable {variable}", name.lower(), known, _PREFIX)
        variables = _Variables(settings_cls)
        file = os.environ.get(_PREFIX + "CONFIG")
        if not file:
            return init_settings, variables
        try:
            with Path(file).open("rb") as opened:
                keys = tomllib.load(opened)
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(
                f"The file {file} that CI_TOOLS_CONFIG names cannot be read: {error}."
            ) from error
        for key in keys:
            if key not in known:
                raise _unknown(f"key {key!r} in {file}", key, known, "")
        toml = TomlConfigSettingsSource(settings_cls, toml_file=file)
        return init_settings, variables, toml


class _Variables(EnvSettingsSource):
    """The `CI_TOOLS_…` variables; one that should be JSON and is not is named."""

    def __call__(self) -> dict[str, Any]:
        try:
            return super().__call__()
        except SettingsError as error:
            # Ours is a ValueError, which the library wraps in words that name no variable.
            if isinstance(error.__cause__, ConfigurationError):
                raise error.__cause__ from None
            raise

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except json.JSONDecodeError as error:
            # Not the value: it may hold a key or a token.
            raise ConfigurationError(
                f"The variable {_PREFIX}{field_name.upper()} must be JSON, and is not: {error}. "
                "docs/configuration.md has an example."
            ) from error


def to_secrets(values: Iterable[str]) -> tuple[str, ...]:
    """Return those values of code's variables that outputs must not show."""
    return tuple(value for value in values if len(value) >= SECRET_LENGTH)


def _unknown(what: str, name: str, known: Iterable[str], prefix: str) -> ConfigurationError:
    [*close] = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {prefix + (close[0].upper() if prefix else close[0])}?" if close else ""
    return ConfigurationError(f"There is no setting for the {what}{hint}")
