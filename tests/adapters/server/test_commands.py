import json
import stat
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ci_tools_kernels.environment import locked
from ci_tools_server.commands import application
from tests.adapters.server.processes import REAL, run


async def test_the_version_is_that_of_the_distribution(tmp_path: Path) -> None:
    code, out, _ = await run(tmp_path, "--version")

    assert (code, out) == (0, f"ci-tools {version('code-interpreter-tools')}\n")


async def test_a_token_is_printed_alone_on_stdout(tmp_path: Path) -> None:
    code, out, errors = await run(tmp_path, "token", "create", "--principal", "ada")

    assert code == 0
    assert out.startswith("cit_") and out.count("\n") == 1
    assert out.strip() not in errors


async def test_revoking_an_unknown_token_is_one_clear_line(tmp_path: Path) -> None:
    code, out, errors = await run(tmp_path, "token", "revoke", "tok_0")

    assert (code, out) == (1, "")
    assert errors.startswith("ci-tools: No token 'tok_0'") and errors.count("\n") == 1


async def test_erasing_a_principal_asks_first(tmp_path: Path) -> None:
    await run(tmp_path, "token", "create", "--principal", "ada")

    asked, _, _ = await run(tmp_path, "principal", "erase", "ada", input=b"n\n")
    kept = (await run(tmp_path, "token", "list"))[1]
    erased, _, _ = await run(tmp_path, "principal", "erase", "ada", "--yes")
    gone = (await run(tmp_path, "token", "list"))[1]

    assert (asked, erased) == (1, 0)
    assert "ada" in kept
    assert "ada" not in gone


async def test_the_doctor_finds_a_working_machine_and_says_what_isolation_is(
    tmp_path: Path,
) -> None:
    code, out, errors = await run(tmp_path, "doctor", command=REAL)

    assert (code, errors) == (0, "")
    states = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert "fail" not in states
    assert "ok   run code: " in out
    assert "ok   isolation: namespaces" in out
    assert "limit of memory: " in out
    assert "ok   kernel environment: " in out


async def test_the_doctor_says_that_nothing_separates_code_and_what_to_build(
    tmp_path: Path,
) -> None:
    _, bare, _ = await run(tmp_path, "doctor", command=REAL, CI_TOOLS_ISOLATION="none")
    _, unbuilt, _ = await run(tmp_path, "doctor", command=REAL, CI_TOOLS_KERNEL_PYTHON="")

    assert "warn isolation: none" in bare
    assert "warn kernel environment: not built" in unbuilt
    assert "ci-tools kernels install" in unbuilt
    assert not (tmp_path / "state" / "kernel-env").exists()


async def test_kernels_are_installed_for_another_server(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"

    code, _, errors = await run(
        tmp_path, "kernels", "install", "--python-path", sys.executable, "--prefix", str(prefix)
    )
    status, out, _ = await run(tmp_path, "kernels", "status")

    assert code == 0, errors
    (spec,) = prefix.glob("share/jupyter/kernels/*/kernel.json")
    written = json.loads(spec.read_text())
    assert written["argv"][0] == sys.executable
    assert written["metadata"]["kernel_provisioner"]["provisioner_name"] == "ci-tools-sandbox"
    assert status == 0
    assert "isolation: namespaces" in out
    assert "memory: " in out


async def test_the_doctor_fails_if_the_interpreter_of_kernels_is_not_there(tmp_path: Path) -> None:
    code, out, _ = await run(tmp_path, "doctor", command=REAL, CI_TOOLS_KERNEL_PYTHON="/no/python")

    assert code == 1
    assert "fail kernel environment: /no/python is not there" in out
    assert "→ Set CI_TOOLS_KERNEL_PYTHON" in out


@pytest.mark.skipif(sys.platform == "win32", reason="modes of folders are POSIX's")
def test_a_state_directory_that_a_build_makes_is_closed_to_other_users(tmp_path: Path) -> None:
    with locked(tmp_path / "state" / "kernel-env"):
        pass

    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


async def test_what_kernels_cannot_use_is_one_clear_line(tmp_path: Path) -> None:
    asked = ("kernels", "install", "--python-path")
    absent = await run(tmp_path, *asked, str(tmp_path / "python"))
    twice = await run(tmp_path, *asked, sys.executable, "--user", "--sys-prefix")

    for code, out, errors in (absent, twice):
        assert (code, out) == (1, "")
        assert errors.startswith("ci-tools: ") and errors.count("\n") == 1


async def test_the_doctor_says_which_models_runs_can_have(tmp_path: Path) -> None:
    models = '{"default": {"use": "openai:x", "api_key": "hidden"}, "gpt-4o": "nobody:x"}'

    none, without, _ = await run(tmp_path, "doctor")
    code, out, errors = await run(tmp_path, "doctor", CI_TOOLS_MODELS=models)

    assert (none, code) == (0, 1)
    assert "warn Assistants API: has no model" in without and "CI_TOOLS_MODELS" in without
    assert "ok   model 'default': openai:x" in out
    assert "fail model 'gpt-4o': " in out and "nobody" in out
    assert "hidden" not in out + errors


async def test_the_doctor_names_servers_that_cannot_be_reached(tmp_path: Path) -> None:
    code, out, _ = await run(
        tmp_path,
        "doctor",
        command=REAL,
        CI_TOOLS_JUPYTER_URL="http://127.0.0.1:9/",
        CI_TOOLS_JUPYTER_TOKEN="hidden",
    )

    assert code == 1
    assert "fail Jupyter Server 'default'" in out
    assert out.count("fail ") == 1
    assert "isolation:" not in out
    assert "hidden" not in out


async def test_erasing_somebody_unknown_says_so(tmp_path: Path) -> None:
    code, _, errors = await run(tmp_path, "principal", "erase", "nobody", "--yes")

    assert code == 0
    assert errors == "nothing is kept of 'nobody': nothing was erased\n"


async def test_the_list_of_tokens_has_a_header(tmp_path: Path) -> None:
    _, out, _ = await run(tmp_path, "token", "list")

    assert out.split() == ["ID", "CREATED", "(UTC)", "STATE", "PRINCIPAL"]


async def test_the_configuration_takes_the_settings_along_but_no_secret(tmp_path: Path) -> None:
    code, out, errors = await run(
        tmp_path,
        "config",
        "--client=claude",
        CI_TOOLS_JUPYTER_URL="https://lab.example.org/",
        CI_TOOLS_JUPYTER_TOKEN="hidden",
        CI_TOOLS_DATABASE_URL="postgresql://ada:hidden@db/x",
    )

    assert code == 0
    assert json.loads(out)["mcpServers"]["ci-tools"]["env"] == {
        "CI_TOOLS_JUPYTER_URL": "https://lab.example.org/",
        "CI_TOOLS_KERNEL_PYTHON": sys.executable,
        "CI_TOOLS_STATE_DIR": str(tmp_path / "state"),
    }
    assert "CI_TOOLS_JUPYTER_TOKEN" in errors
    assert "CI_TOOLS_DATABASE_URL" in errors
    assert "hidden" not in out + errors


async def test_the_doctor_says_what_is_wrong_with_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")

    code, out, _ = await run(tmp_path, "doctor")

    assert code == 1
    assert "fail state directory" in out
    assert "CI_TOOLS_STATE_DIR" in out


@pytest.mark.parametrize(
    "command", ["serve", "demo", "doctor", "kernels", "token", "principal", "config"]
)
def test_every_command_explains_itself(command: str) -> None:
    done = CliRunner().invoke(application, [command, "--help"], prog_name="ci-tools")

    assert done.exit_code == 0
    assert f"ci-tools {command}" in done.output


async def test_the_stdio_server_explains_itself_too(tmp_path: Path) -> None:
    code, out, _ = await run(tmp_path, "mcp", "--help")

    assert code == 0
    assert "--no-default-session" in out
    assert " mcp " in CliRunner().invoke(application, ["--help"]).output


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CI_TOOLS_MODELS", '{"default": ', "The variable CI_TOOLS_MODELS must be JSON"),
        ("CI_TOOLS_CONFIG", "/no/such.toml", "The file /no/such.toml that CI_TOOLS_CONFIG names"),
        (
            "CI_TOOLS_MODELS",
            '{"default": {"use": "openai:x", "base_ur": "y"}}',
            "setting CI_TOOLS_MODELS, default → base_ur: There is no such key",
        ),
    ],
)
async def test_a_wrong_setting_is_one_line_in_our_words(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    variables: dict[str, Any] = {name: value}

    code, _, errors = await run(tmp_path, "token", "list", **variables)

    assert code == 1
    assert errors.startswith(f"ci-tools: {said}")
