"""What a message tells users to type must work where they are: the index may not have us."""

import json
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from ci_tools.extras import install_command


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (
            {"url": "file:///srv/a%20clone", "dir_info": {"editable": True}},
            f"pip install -e '{Path('/srv/a clone')}[otel]'",
        ),
        ({"url": "file:///srv/clone", "dir_info": {}}, f"pip install '{Path('/srv/clone')}[otel]'"),
        (
            {"url": "https://example.org/a.whl", "archive_info": {}},
            "pip install 'code-interpreter-tools[otel]'",
        ),
        (None, "pip install 'code-interpreter-tools[otel]'"),
    ],
)
def test_an_extra_is_installed_from_where_the_rest_came_from(
    monkeypatch: pytest.MonkeyPatch, record: dict[str, object] | None, command: str
) -> None:
    class Installed(Distribution):
        def read_text(self, filename: str) -> str | None:
            return None if record is None else json.dumps(record)

        def locate_file(self, path: object) -> Path:
            raise NotImplementedError

    monkeypatch.setattr(Distribution, "from_name", lambda _: Installed())

    assert install_command("otel") == command
