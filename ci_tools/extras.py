"""How to install more of this distribution, in the words that fit how it was installed."""

import json
from importlib.metadata import Distribution, PackageNotFoundError
from urllib.parse import urlsplit

_NAME = "code-interpreter-tools"


def install_command(extra: str) -> str:
    """Return the `pip install …` that adds an extra, from the clone if we run from one.

    Where an installation came from is in its `direct_url.json` (PEP 610); what came from a package
    index has none.
    """
    # Imported here: it brings http and ssl along, and this is for messages only.
    from urllib.request import url2pathname

    try:
        record = json.loads(Distribution.from_name(_NAME).read_text("direct_url.json") or "{}")
        address = urlsplit(record.get("url", ""))
        folder = url2pathname(address.path) if "dir_info" in record else ""
        is_editable = bool(folder and record["dir_info"].get("editable"))
    except (PackageNotFoundError, ValueError):
        folder, is_editable = "", False
    option = "-e " if is_editable else ""
    return f"pip install {option}'{folder or _NAME}[{extra}]'"
