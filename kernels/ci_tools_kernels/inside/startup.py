"""What a Python kernel has ready for the code in it."""

from typing import Any


def prepare(app: Any) -> None:
    """Set up what must be there before the first execution."""
