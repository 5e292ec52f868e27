"""The commands but `mcp` (see stdio.py); each imports what it needs when it runs."""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ci_tools_server.client_config import DISTRIBUTION, Client

if TYPE_CHECKING:
    from ci_tools import SessionService

application = typer.Typer(
    name="ci-tools",
    help="Stateful code execution for agents on Jupyter kernels ('ci' is code interpreter).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
tokens = typer.Typer(no_args_is_help=True, help="Tokens of the HTTP service.")
principals = typer.Typer(no_args_is_help=True, help="Those whose sessions and files are kept.")
application.add_typer(tokens, name="token")
application.add_typer(principals, name="principal")
kernels = typer.Typer(no_args_is_help=True, help="The environment and sandbox of kernels.")
application.add_typer(kernels, name="kernels")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ci-tools {version(DISTRIBUTION)}")
        raise typer.Exit


@application.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@application.command(add_help_option=False)
def mcp() -> None:
    """Serve the Model Context Protocol on stdin and stdout, for desktop hosts."""
    # Only for the list of commands: `main` runs this one without typer.
    raise AssertionError


@application.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one [8765].")] = None,
    auth: Annotated[
        str | None, typer.Option(help="'token', or 'none' on loopback only (default: token).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="PROVIDER:MODEL that runs of the Assistants API ask, for every name that "
            "CI_TOOLS_MODELS does not have."
        ),
    ] = None,
) -> None:
    """Serve MCP over HTTP at /mcp and the Assistants API at /v1, with health and metrics."""
    from ci_tools import Settings
    from ci_tools_server.listening import listen

    # What is set elsewhere has its other entries merged in.
    models = None if model is None else {"default": model}
    given = {"host": host, "port": port, "auth": auth, "models": models}
    settings = Settings.model_validate({k: v for k, v in given.items() if v is not None})
    with listen(settings) as listener:
        from ci_tools_server.serve import serve as run

        run(settings, listener)


@application.command()
def demo(
    directory: Annotated[
        Path, typer.Option(help="Where the plot and the notebook are written.")
    ] = Path(),
    assistants: Annotated[
        bool,
        typer.Option("--assistants", help="Show the Assistants API, and its session over MCP."),
    ] = False,
) -> None:
    """Analyse real data through a real MCP client, and show every step."""
    if assistants:
        from ci_tools_server.demo.assistants import run_demo
    else:
        from ci_tools_server.demo import run_demo

    run_demo(directory)


@application.command()
def doctor() -> None:
    """Check what works on this machine, what is missing, and what to do."""
    from ci_tools import Settings
    from ci_tools_server.doctor import examine

    raise typer.Exit(examine(Settings()))


@application.command()
def config(
    client: Annotated[Client, typer.Option(help="Who is to be configured.")],
    write: Annotated[
        Path | None,
        typer.Option(help="Write to this file (other servers in it are kept) or .mcpb bundle."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Use the `ci-tools serve` at this address.")
    ] = None,
    uvx: Annotated[
        bool,
        typer.Option(
            help="Start the released package with uvx; there is none before the first release."
        ),
    ] = False,
    owner: Annotated[
        str, typer.Option(help="The GitHub account that server.json is published from.")
    ] = "OWNER",
) -> None:
    """Print or write the configuration of a desktop host or registry."""
    from ci_tools_server.client_config import find_settings, to_launch, to_text, write_text

    settings, secrets = find_settings(os.environ)
    text = to_text(client, to_launch(uvx=uvx, url=url, settings=settings), owner=owner)
    if secrets and url is None:
        note = f"not written, for they hold secrets: {', '.join(secrets)}; give them to the host"
        typer.echo(note, err=True)
    if write is None:
        typer.echo(text, nl=False)
    else:
        write_text(client, text, write)
        typer.echo(f"wrote {write}", err=True)


@kernels.command("install")
def install_kernels(
    requirements: Annotated[
        Path | None, typer.Option(help="A requirements file of what it shall have besides.")
    ] = None,
    python_path: Annotated[
        Path | None, typer.Option(help="Use this interpreter, which has ipykernel; build nothing.")
    ] = None,
    prefix: Annotated[
        Path | None, typer.Option(help="Write a kernelspec to PREFIX/share/jupyter/kernels.")
    ] = None,
    user: Annotated[bool, typer.Option("--user", help="Write one for this user.")] = False,
    sys_prefix: Annotated[
        bool, typer.Option("--sys-prefix", help="Write one to this Python environment.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build it even if it is current.")] = False,
) -> None:
    """Build the environment for kernels; write a kernelspec for other Jupyter Servers."""
    from ci_tools import Settings
    from ci_tools_server.kernels import find_target, install

    install(
        Settings(),
        requirements=requirements,
        python=python_path,
        target=find_target(prefix=prefix, user=user, sys_prefix=sys_prefix),
        force=force,
    )


@kernels.command("status")
def show_kernels() -> None:
    """Show the isolation in force, how each limit is held, and the environment."""
    from ci_tools import Settings
    from ci_tools_server.kernels import show_status

    raise typer.Exit(show_status(Settings()))


@tokens.command("create")
def create_token(
    principal: Annotated[str, typer.Option(help="Whose sessions the token opens.")],
) -> None:
    """Make a token and print it, once."""

    async def create(service: "SessionService") -> None:
        token, secret = await service.act_as(principal).create_token()
        typer.echo(f"token {token.id} of {principal}, shown only now:", err=True)
        typer.echo(secret)

    _with_service(create)


@tokens.command("list")
def list_tokens() -> None:
    """List the tokens, without their secrets."""

    async def show(service: "SessionService") -> None:
        found = await service.list_tokens()
        width = max((len(token.id) for token in found), default=2)
        typer.echo(f"{'ID':{width}}  {'CREATED (UTC)':16}  {'STATE':7}  PRINCIPAL")
        for token in found:
            created = datetime.fromtimestamp(token.created_at, UTC)
            state = "active" if token.revoked_at is None else "revoked"
            typer.echo(f"{token.id}  {created:%Y-%m-%d %H:%M}  {state:7}  {token.principal}")

    _with_service(show)


@tokens.command("revoke")
def revoke_token(id: Annotated[str, typer.Argument(help="The id that `list` shows.")]) -> None:
    """Make a token useless, at once."""

    async def revoke(service: "SessionService") -> None:
        await service.revoke_token(id)
        typer.echo(f"revoked {id}", err=True)

    _with_service(revoke)


@principals.command("erase")
def erase_principal(
    name: Annotated[str, typer.Argument(help="Whose everything is erased.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase all sessions, files, steps and tokens of a principal."""
    from ci_tools_assistants.storage.records import open_records

    if not yes:
        typer.confirm(f"Erase all sessions, files, steps and tokens of {name!r}?", abort=True)

    async def erase(service: "SessionService") -> None:
        owner = service.act_as(name)
        service.on_erase((await open_records(service.database)).erase)
        # Tokens are listed for all principals, sessions of this one.
        known = any(token.principal == name for token in await service.list_tokens())
        known = known or bool(await owner.list_sessions())
        await owner.erase_principal()
        said = f"erased {name}" if known else f"nothing is kept of {name!r}: nothing was erased"
        typer.echo(said, err=True)

    _with_service(erase)


@application.command("usage")
def show_usage(
    principal: Annotated[str, typer.Option(help="Whose sessions of the code interpreter.")],
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Count from this day on (UTC).")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Count to before this day (UTC).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Count a principal's sessions of the code interpreter: one for each thread and hour of use."""
    from ci_tools_server.usage import measure, to_text

    async def show(service: "SessionService") -> None:
        report = await measure(service, principal, since=since, until=until)
        typer.echo(json.dumps(report, indent=2) if as_json else to_text(report))

    _with_service(show)


def _with_service(use: "Callable[[SessionService], Awaitable[None]]") -> None:
    import anyio

    from ci_tools import Settings, open_service
    from ci_tools_server.logs import configure_logs

    async def run() -> None:
        settings = Settings()
        configure_logs("error" if sys.stderr.isatty() else settings.log_level)
        async with open_service(settings) as service:
            await use(service)

    anyio.run(run)
