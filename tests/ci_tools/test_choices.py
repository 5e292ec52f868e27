"""What a host application may choose for one session: its network and its variables."""

from pathlib import Path

import pytest

from ci_tools import InvalidArgumentError, SessionService, Settings, open_service
from ci_tools.choices import choose_network, limit_network
from ci_tools.testing import FakeBackend
from ci_tools.wire import session_from_item, session_to_item

SECRET = "kept from readers"


def make_settings(**values: object) -> Settings:
    return Settings.model_validate(values)


def test_usual_network_is_the_settings() -> None:
    settings = make_settings(kernel_network="allowlist", kernel_network_hosts=("pypi.org",))

    assert choose_network(make_settings(), isolation="auto", wanted=None) == "none"
    assert choose_network(settings, isolation="auto", wanted=None) == "allowlist"
    assert choose_network(settings, isolation="auto", wanted="none") == "none"


def test_network_beyond_the_limit_is_refused() -> None:
    settings = make_settings(kernel_network_most="allowlist", kernel_network_hosts=("pypi.org",))

    assert choose_network(settings, isolation="namespaces", wanted="allowlist") == "allowlist"
    for usual in (settings, make_settings()):
        with pytest.raises(InvalidArgumentError, match="CI_TOOLS_KERNEL_NETWORK_MOST"):
            choose_network(usual, isolation="namespaces", wanted="on")


def test_list_of_hosts_that_is_empty_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="CI_TOOLS_KERNEL_NETWORK_HOSTS"):
        choose_network(
            make_settings(kernel_network_most="on"), isolation="auto", wanted="allowlist"
        )
    with pytest.raises(ValueError, match="kernel_network_hosts"):
        make_settings(kernel_network="allowlist")


def test_network_that_nobody_holds_is_said_as_it_is() -> None:
    assert choose_network(make_settings(), isolation="none", wanted=None) == "on"
    assert choose_network(make_settings(), isolation="remote", wanted=None) == "remote"
    for isolation in ("none", "remote"):
        with pytest.raises(InvalidArgumentError):
            choose_network(make_settings(), isolation=isolation, wanted="none")


def test_network_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        choose_network(make_settings(), isolation="auto", wanted="some")


def test_lowered_limit_holds_for_sessions_that_are_there() -> None:
    assert limit_network(make_settings(), "on") == "none"
    assert limit_network(make_settings(kernel_network_most="on"), "on") == "on"
    assert limit_network(make_settings(kernel_network_most="on"), "none") == "none"


async def test_variables_reach_code_and_commands_and_are_masked(service: SessionService) -> None:
    session = await service.create_session(environment={"TOKEN": SECRET, "MODE": "fast"})

    step = await service.run_code(
        session.id, "import os\nprint(os.environ['TOKEN'], os.environ['MODE'])"
    )
    command = await service.run_command(session.id, "echo $TOKEN $MODE")

    assert [output.text for output in step.outputs] == ["*** fast\n"]  # type: ignore[union-attr]
    assert command.stdout == "*** fast\n"


async def test_new_kernel_has_the_variables_again(service: SessionService) -> None:
    session = await service.create_session(environment={"MODE": "fast"})
    await service.run_code(session.id, "1")

    await service.restart_session(session.id)
    step = await service.run_code(session.id, "import os\nprint(os.environ['MODE'])")

    assert [output.text for output in step.outputs] == ["fast\n"]  # type: ignore[union-attr]


async def test_variables_survive_the_service_and_belong_to_one_session(
    settings: Settings, tmp_path: Path
) -> None:
    code = "import os\nprint(os.environ.get('MODE'))"
    async with open_service(settings, backend=FakeBackend(tmp_path / "one")) as service:
        session = await service.create_session(environment={"MODE": "fast"})
        other = await service.create_session()

    async with open_service(settings, backend=FakeBackend(tmp_path / "two")) as service:
        mine = await service.run_code(session.id, code)
        others = await service.run_code(other.id, code)

    assert mine.outputs[0].text == "fast\n"  # type: ignore[union-attr]
    assert others.outputs[0].text == "None\n"  # type: ignore[union-attr]


async def test_records_name_the_variables_and_hold_no_value(service: SessionService) -> None:
    created = await service.create_session(environment={"TOKEN": SECRET})

    found = await service.get_session(created.id)

    assert created.environment == found.environment == ("TOKEN",)
    assert SECRET not in repr(found)
    assert session_from_item(session_to_item(found)) == found


@pytest.mark.parametrize(
    "environment",
    [
        {"": "x"},
        {"A=B": "x"},
        {"1A": "x"},
        {"A": "null\0"},
        {"A": "x" * 40_000},
        {f"A{number}": "" for number in range(101)},
    ],
)
async def test_what_cannot_be_a_variable_is_refused(
    service: SessionService, environment: dict[str, str]
) -> None:
    with pytest.raises(InvalidArgumentError):
        await service.create_session(environment=environment)
