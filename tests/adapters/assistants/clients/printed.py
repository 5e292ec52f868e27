"""The model's side of the samples that the original documentation printed, as a script."""

import re

from tests.adapters.assistants.scripted.script import CallTool, Request, Turn, turn, words

CODE_TOOL = "code_interpreter"
"""The name under which the model is offered the code interpreter."""

SHUFFLE = """\
import csv, random

with open("/mnt/data/mydata.csv") as file:
    header, *rows = csv.reader(file)
random.Random(7).shuffle(rows)
with open("/mnt/data/shuffled_file.csv", "w", newline="") as file:
    csv.writer(file).writerows([header, *rows])
"""

SHUFFLED = (
    "The rows of the CSV file have been shuffled and saved to a new CSV file. You can download the "
    "shuffled CSV file from the following link:\n\n"
    "[Download Shuffled CSV File](sandbox:/mnt/data/shuffled_file.csv)"
)
"""The reference prints this text, with the link from character 167 to 202."""

DRAW = """\
import matplotlib.pyplot as plt
import numpy as np

x = np.linspace(-5, 5, 100)
plt.plot(x, x**2)
plt.show()
"""

READ = """\
from pathlib import Path

for path in sorted(Path("/mnt/data").iterdir()):
    print(path.name, len(path.read_bytes()), path.read_text().splitlines()[0])
"""


def answer(request: Request) -> Turn:
    """Answer as the assistant of a printed sample does; what it says is told by its tools."""
    text, results = request.last_text, request.tool_results
    if "equation" in text:
        return _solve(results)
    if "Shuffle" in text:
        return _run(SHUFFLE) if not results else turn(*words(SHUFFLED))
    if "graph" in text:
        return _run(DRAW) if not results else turn(*words("Here is the graph of y = x squared."))
    if "weather" in text:
        return _ask_functions(results)
    if "files" in text:
        return _run(READ) if not results else turn(*words(f"I have these files: {results[0]}"))
    return turn(*words("Hello! How can I help you today?"))


def _run(code: str) -> Turn:
    return turn(CallTool(CODE_TOOL, {"code": code}))


def _solve(results: list[str]) -> Turn:
    if not results:
        return _run("# 3x + 11 = 14\nx = (14 - 11) / 3\nx")
    found = re.search(r"\d+\.\d+", results[-1])
    value = found[0] if found else "unknown"
    return turn(*words(f"The solution of the equation `3x + 11 = 14` is x = {value}, Jane Doe."))


def _ask_functions(results: list[str]) -> Turn:
    if not results:
        return turn(
            CallTool("getCurrentWeather", {"location": "Los Angeles, CA"}),
            CallTool("getNickname", {"location": "Los Angeles, CA"}),
        )
    weather, nickname = results
    return turn(*words(f"It is {weather} in Los Angeles today, which people call {nickname}."))
