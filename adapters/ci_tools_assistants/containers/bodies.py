"""What clients send about containers."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, Tag

from ci_tools_assistants.http.requests import Body, Query, by

FILES_LIMIT = 50
"""Files that a container can be created with."""


class ExpiresAfter(Body):
    """When a container may be deleted; here it is the service's setting that says it."""

    anchor: Literal["last_active_at"]
    minutes: int = Field(ge=1)


class NetworkDisabled(Body):
    """No network."""

    type: Literal["disabled"]


class DomainSecret(Body):
    """A secret that only requests to one domain would carry."""

    domain: str
    name: str
    value: str


class NetworkAllowlist(Body):
    """Some domains only, which the operator must have allowed."""

    type: Literal["allowlist"]
    allowed_domains: list[str] = Field(min_length=1)
    domain_secrets: list[DomainSecret] | None = None


NetworkPolicy: TypeAlias = Annotated[
    Annotated[NetworkDisabled, Tag("|disabled")] | Annotated[NetworkAllowlist, Tag("|allowlist")],
    by("type"),
]


class ContainerBody(Body):
    """A container to create."""

    name: str | None = None
    file_ids: list[str] | None = Field(default=None, max_length=FILES_LIMIT)
    expires_after: ExpiresAfter | None = None
    memory_limit: Literal["1g", "4g", "16g", "64g"] | None = None
    network_policy: NetworkPolicy | None = None
    skills: list[object] | None = None

    server: str | None = None
    """Ours: the profile of the Jupyter Server."""

    kernelspec: str | None = None
    """Ours: the kind of kernel."""

    network: str | None = None
    """Ours: `none`, `allowlist` or `on`, as the service calls it."""

    environment: dict[str, str] | None = None
    """Ours: variables of its code."""

    reuse: bool = False
    """Ours: return the oldest container of that name, if there is one."""


class FileIdBody(Body):
    """A kept file that is to be copied into a container."""

    file_id: str
    path: str | None = None
    """Ours: where it is to be; by default under its own name."""


class PathBody(Body):
    """Ours: one file of a container."""

    path: str


class RunStepBody(Body):
    """Ours: code to run."""

    code: str
    timeout: float | None = None
    id: str | None = None
    """Made by the client; under one id the code runs once, however often it is sent."""

    background: bool = False
    """Whether to answer at once, with the step as it is then."""

    wait: float | None = Field(default=None, ge=0)
    """Seconds after which to answer with the step as it is; by default the answer is the end."""

    stream: bool = False


class CommandBody(Body):
    """Ours: a shell command."""

    command: str
    timeout: float = 60.0
    output_limit: int = 1_000_000
    cwd: str = "/mnt/data"
    stream: bool = False


class RestartBody(Body):
    """Ours: how to restart."""

    replay: bool = False


class TicketBody(Body):
    """Ours: what a short-lived link is to allow."""

    path: str
    action: Literal["upload", "download"]


class PageQuery(Query):
    """A page of a list."""

    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class ContainersQuery(PageQuery):
    """Which containers."""

    name: str | None = None


class RunStepsQuery(Query):
    """Ours: a page of run steps, the newest first."""

    limit: int = Field(default=20, ge=0, le=100)
    before: str | None = None


class WaitQuery(Query):
    """Ours: how long to wait for the end of a step."""

    wait: Annotated[float, Field(ge=0, le=3600)] | None = None


class StatQuery(Query):
    """Ours: whether the SHA-256 is wanted."""

    digest: bool = True


class PathsQuery(Query):
    """Ours: how many files to list."""

    limit: int = Field(default=1000, ge=0)


class NewFileQuery(Query):
    """Ours: the name of a file that is in no container."""

    path: str


class KernelSpecsQuery(Query):
    """Ours: which server."""

    server: str | None = None
