"""Containers: sessions over plain HTTP."""

from collections.abc import Sequence

from starlette.responses import Response

from ci_tools import InvalidArgumentError, Session
from ci_tools.wire import (
    kernelspec_to_item,
    restarted_to_item,
    step_to_item,
    ticket_to_item,
    variable_to_item,
)
from ci_tools_assistants.containers.bodies import (
    ContainerBody,
    ContainersQuery,
    KernelSpecsQuery,
    NetworkAllowlist,
    NetworkDisabled,
    RestartBody,
    TicketBody,
)
from ci_tools_assistants.containers.failures import told
from ci_tools_assistants.containers.shapes import GIGABYTE, cut_page, to_container, to_list
from ci_tools_assistants.containers.streams import answer
from ci_tools_assistants.errors import NoSuchObject, clip, invalid_value
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.objects import Object


async def create(call: Call) -> Response:
    """Create a session and copy files into it."""
    body = call.body_as(ContainerBody)
    _check(body, call)
    service = call.service
    if body.reuse:
        session = await _reuse(body, call)
    else:
        session = await service.create_session(
            name=body.name,
            server=body.server,
            kernelspec=body.kernelspec,
            network=_network_of(body, call),
            environment=body.environment,
        )
    try:
        for file_id in body.file_ids or ():
            await service.uploads.stage(session.id, file_id)
    except BaseException:
        if not body.reuse:
            await service.close_session(session.id)
        raise
    return answer(_to_container(session, call))


async def _reuse(body: ContainerBody, call: Call) -> Session:
    others = (body.server, body.kernelspec, body.network, body.network_policy, body.environment)
    if body.name is None or any(other is not None for other in others):
        raise InvalidArgumentError("reuse: give the name that is looked for, and nothing else.")
    return await call.service.find_or_create_session(body.name)


def _network_of(body: ContainerBody, call: Call) -> str | None:
    """Return what the service calls the network policy that is asked for."""
    match body.network_policy:
        case None:
            return body.network
        case NetworkDisabled():
            return "none"
        case NetworkAllowlist() as policy:
            if policy.domain_secrets:
                raise invalid_value(
                    "network_policy.domain_secrets", "Secrets of domains are not available here."
                )
            allowed = call.service.settings.kernel_network_hosts
            for domain in policy.allowed_domains:
                if domain not in allowed:
                    raise invalid_value(
                        "network_policy.allowed_domains",
                        f"'{clip(domain)}' is not among the hosts that the operator of this "
                        "service allows (CI_TOOLS_KERNEL_NETWORK_HOSTS).",
                    )
            return "allowlist"


def _check(body: ContainerBody, call: Call) -> None:
    """Refuse what a session cannot be given one by one."""
    if body.skills:
        raise invalid_value("skills", "Skills are not available here.")
    memory = call.service.settings.kernel_memory
    if body.memory_limit and int(body.memory_limit.removesuffix("g")) * GIGABYTE > memory:
        raise invalid_value(
            "memory_limit",
            f"Sessions of this service have {memory} bytes of memory: its operator can set "
            "CI_TOOLS_KERNEL_MEMORY.",
        )


async def list_containers(call: Call) -> Response:
    """List the principal's sessions by the time of their creation."""
    query = call.query_as(ContainersQuery)
    sessions = [
        session
        for session in await call.service.list_sessions()
        if query.name is None or session.name == query.name
    ]
    sessions.sort(key=lambda session: session.created_at, reverse=query.order == "desc")
    is_cursor = (lambda session: session.id == query.after) if query.after else None
    page = cut_page(sessions, is_cursor=is_cursor, limit=query.limit)
    if page is None:
        raise NoSuchObject("container", query.after or "")
    found, has_more = page
    return answer(to_list([_to_container(item, call) for item in found], has_more=has_more))


async def retrieve(call: Call) -> Response:
    """Describe a session."""
    return answer(_to_container(await call.service.get_session(_id(call)), call))


async def delete(call: Call) -> Response:
    """Close a session and delete all of it."""
    await call.service.close_session(_id(call))
    return answer({"id": _id(call), "object": "container.deleted", "deleted": True})


async def warm(call: Call) -> Response:
    """Start the kernel in the background."""
    await call.service.warm_session(_id(call))
    return answer(_to_container(await call.service.get_session(_id(call)), call))


async def restart(call: Call) -> Response:
    """Give the session a new kernel."""
    body = call.body_as(RestartBody)
    restarted = await call.service.restart_session(_id(call), replay=body.replay)
    return answer({"object": "container.restarted", **restarted_to_item(restarted)})


async def interrupt(call: Call) -> Response:
    """Cancel the step that runs now."""
    step = await call.service.interrupt_session(_id(call))
    return answer(
        {"object": "container.interrupted", "step": None if step is None else step_to_item(step)}
    )


async def export_notebook(call: Call) -> Response:
    """Return the session as a notebook."""
    return answer(await call.service.export_notebook(_id(call)))


async def list_variables(call: Call) -> Response:
    """List the variables of the kernel."""
    variables = await call.service.list_variables(_id(call))
    return answer({"object": "list", "data": [variable_to_item(item) for item in variables]})


async def create_ticket(call: Call) -> Response:
    """Make a short-lived right to move one file."""
    body = call.body_as(TicketBody)
    ticket, secret = await call.service.create_ticket(_id(call), body.path, body.action)
    return answer({"object": "container.ticket", "secret": secret, **ticket_to_item(ticket)})


async def list_kernelspecs(call: Call) -> Response:
    """List the kinds of kernel of a server."""
    specs = await call.service.list_kernelspecs(call.query_as(KernelSpecsQuery).server)
    return answer({"object": "list", "data": [kernelspec_to_item(spec) for spec in specs]})


async def list_servers(call: Call) -> Response:
    """Name the servers that sessions can run on."""
    return answer({"object": "list", "data": list(call.service.list_servers())})


def _id(call: Call) -> str:
    return call.params["container_id"]


def _to_container(session: Session, call: Call) -> Object:
    return to_container(session, call.service.settings)


def operations() -> Sequence[Operation]:
    """List the operations."""
    one = "/containers/{container_id}"
    return (
        Operation(
            method="POST",
            path="/containers",
            handler=told(create),
            body=ContainerBody,
            response="ContainerResource",
            summary="Create container",
            tags=("Containers",),
        ),
        Operation(
            method="GET",
            path="/containers",
            handler=told(list_containers),
            query=ContainersQuery,
            response="ContainerListResource",
            summary="List containers",
            tags=("Containers",),
        ),
        Operation(
            method="GET",
            path=one,
            handler=told(retrieve),
            response="ContainerResource",
            summary="Retrieve container",
            tags=("Containers",),
        ),
        Operation(
            method="DELETE",
            path=one,
            handler=told(delete),
            summary="Delete a container",
            tags=("Containers",),
        ),
        Operation(
            method="POST",
            path=one + "/warm",
            handler=told(warm),
            response="ContainerResource",
            summary="Start the container's kernel in the background",
            tags=("Sessions",),
        ),
        Operation(
            method="POST",
            path=one + "/restart",
            handler=told(restart),
            body=RestartBody,
            summary="Give the container a new kernel, and run its steps again if asked to",
            tags=("Sessions",),
        ),
        Operation(
            method="POST",
            path=one + "/interrupt",
            handler=told(interrupt),
            summary="Cancel the run step that runs now",
            tags=("Sessions",),
        ),
        Operation(
            method="GET",
            path=one + "/notebook",
            handler=told(export_notebook),
            summary="Export the container as a notebook",
            tags=("Sessions",),
        ),
        Operation(
            method="GET",
            path=one + "/variables",
            handler=told(list_variables),
            summary="List the variables of the container's kernel",
            tags=("Sessions",),
        ),
        Operation(
            method="POST",
            path=one + "/tickets",
            handler=told(create_ticket),
            body=TicketBody,
            summary="Make a short-lived right to upload or download one file",
            tags=("Sessions",),
        ),
        Operation(
            method="GET",
            path="/kernelspecs",
            handler=told(list_kernelspecs),
            query=KernelSpecsQuery,
            summary="List the kinds of kernel of a server",
            tags=("Sessions",),
        ),
        Operation(
            method="GET",
            path="/servers",
            handler=told(list_servers),
            summary="List the servers that containers can run on",
            tags=("Sessions",),
        ),
    )
