"""The documentation says what the code does, where that can be compared."""

import json
import re
from pathlib import Path

import pytest

from ci_tools.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

DOCUMENTED = dict(re.findall(r"^\| `CI_TOOLS_([A-Z_]+)` \| (.+?) \|", CONFIGURATION, re.MULTILINE))
"""The cell with the default of each documented variable, by the variable's name."""


def test_every_setting_is_documented_and_no_other() -> None:
    assert sorted(DOCUMENTED) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_documented_default_is_the_real_one(name: str) -> None:
    field = Settings.model_fields[name]
    if name == "state_dir":
        return  # it depends on the platform, which the text says
    default = field.get_default(call_default_factory=True, validated_data={})
    cell = DOCUMENTED[name.upper()]

    match default:
        case None:
            assert not cell.startswith("`")
        case float() | int():
            assert float(cell.strip("`")) == default
        case dict():
            assert json.loads(cell.strip("`")) == default
        case str():
            assert cell == (f"`{default}`" if default else "empty")
        case _:
            assert not default.get_secret_value()
            assert cell == "empty"
