import re
from pathlib import Path

from ci_tools.settings import ModelEntry

PAGE = Path(__file__).parents[4] / "docs" / "models.md"


def test_every_key_of_an_entry_is_documented_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    entries = text[text.index("## Entries") : text.index("## Providers")]

    documented = re.findall(r"^\| `(\w+)` \|", entries, re.MULTILINE)

    assert sorted(documented) == sorted(ModelEntry.model_fields)
