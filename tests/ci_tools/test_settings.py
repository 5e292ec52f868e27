from pathlib import Path

import pytest
from pydantic import ValidationError

from ci_tools import ConfigurationError, Settings, open_service
from ci_tools.runtime import load_backend, make_state_dir


def test_variables_win_over_the_file_and_the_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'step_timeout = 7\nport = 1\n[jupyter_servers.lab]\nurl = "https://lab.example.org/base/"\n'
    )
    monkeypatch.setenv("CI_TOOLS_CONFIG", str(file))
    monkeypatch.setenv("CI_TOOLS_PORT", "2")

    settings = Settings()

    assert (settings.step_timeout, settings.port, settings.interrupt_grace) == (7, 2, 5)
    assert str(settings.jupyter_servers["lab"].url) == "https://lab.example.org/base/"


def test_jupyter_servers_can_be_given_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_TOOLS_JUPYTER_SERVERS", '{"lab": {"url": "http://h:1", "token": "t"}}')

    profile = Settings().jupyter_servers["lab"]

    assert profile.token.get_secret_value() == "t"
    assert "'t'" not in repr(profile)


def test_variable_that_should_be_json_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI_TOOLS_MODELS", "openai:gpt-5")

    with pytest.raises(ConfigurationError, match="CI_TOOLS_MODELS must be JSON") as refused:
        Settings()
    assert "gpt-5" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [("CI_TOOLS_STEP_TIMOUT", "CI_TOOLS_STEP_TIMEOUT"), ("CI_TOOLS_XYZZY", "CI_TOOLS_XYZZY")],
)
def test_misspelt_variable_is_refused_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, variable: str, hint: str
) -> None:
    monkeypatch.setenv(variable, "5")

    with pytest.raises(ConfigurationError, match=hint):
        Settings()


@pytest.mark.parametrize("content", [None, "step_timeout = [", "step_timout = 5"])
def test_settings_file_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "settings.toml"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("CI_TOOLS_CONFIG", str(file))

    with pytest.raises(ConfigurationError, match="settings.toml"):
        Settings()


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError):
        Settings(step_timeout=10, step_timeout_max=5)


def test_state_directory_is_closed_to_others(tmp_path: Path) -> None:
    open_to_all = tmp_path / "state"
    open_to_all.mkdir(mode=0o755)

    make_state_dir(open_to_all)

    assert open_to_all.stat().st_mode & 0o777 == 0o700


def test_state_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="CI_TOOLS_STATE_DIR"):
        make_state_dir(tmp_path / "file" / "state")


async def test_unknown_backend_is_said_with_what_is_installed(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, backend="abacus")

    with pytest.raises(ConfigurationError, match="abacus"):
        load_backend(settings)
    with pytest.raises(ConfigurationError, match="abacus"):
        async with open_service(settings):
            pass


def test_only_long_variables_of_code_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_TOOLS_KERNEL_ENVIRONMENT", '{"KEY": "long enough", "MODE": "fast"}')

    settings = Settings()

    assert settings.secrets == ("long enough",)
    assert "long enough" not in repr(settings)
