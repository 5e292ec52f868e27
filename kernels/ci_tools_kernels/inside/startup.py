"""What a Python kernel has ready for the code in it."""

import os
from typing import Any

_REHEARSAL = """
import sys
if "pandas" in sys.modules:
    import pandas
    display(pandas.DataFrame({"a": [1.5, 2.5]}).describe())
if "matplotlib.pyplot" in sys.modules:
    from matplotlib import pyplot
    pyplot.plot([1, 2])
    pyplot.show()
print(1)
1 / 0
"""

_fonts: dict[str, bytes] = {}
"""Name and content of matplotlib's font lists, as the template found or made them."""


def remember_fonts(folder: str) -> None:
    """Keep the font lists of the template's cache, for the sandboxes that cannot see it."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if name.startswith("fontlist-"):
            with open(os.path.join(folder, name), "rb") as file:
                _fonts[name] = file.read()


def prepare(shell: Any) -> None:
    """Set up what must be there before the first execution."""
    folder = os.environ["MPLCONFIGDIR"]
    os.makedirs(folder, exist_ok=True)
    for name, content in _fonts.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)


def rehearse(shell: Any) -> None:
    """Do what most sessions do first, so that what it loads is known."""
    shell.run_cell(_REHEARSAL, store_history=True)
