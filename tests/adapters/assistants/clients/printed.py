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

DRAW_THREE = """\
import csv
import matplotlib.pyplot as plt

with open("/mnt/data/mydata.csv") as file:
    people = [int(row["population"]) for row in csv.DictReader(file)]
for draw in (plt.plot, plt.pie, plt.hist):
    draw(people)
    plt.show()
"""

DRAW_SINE = """\
import matplotlib.pyplot as plt
import numpy as np

x = np.linspace(0, 4 * np.pi, 1000)
plt.plot(x, np.sin(x))
plt.show()
"""

FIBONACCI = """\
numbers = [0, 1]
while len(numbers) < 20:
    numbers.append(numbers[-1] + numbers[-2])
numbers
"""

QUIZ = {
    "title": "Mathematics Quiz",
    "questions": [
        {"question_text": "What is a square root?", "question_type": "FREE_RESPONSE"},
        {
            "question_text": "What is 2 + 2?",
            "question_type": "MULTIPLE_CHOICE",
            "choices": ["3", "4"],
        },
    ],
}

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
        return _ask_functions(request)
    if "quiz" in text:
        quiz = turn(CallTool("display_quiz", QUIZ))
        return quiz if not results else turn(*words(f"You answered {results[0]}."))
    if "visualizations" in text:
        return _run(DRAW_THREE) if not results else turn(*words("Here are three pictures."))
    if "code that drew" in text:
        return turn(*words(DRAW_SINE))
    if "sinewave" in text:
        return _run(DRAW_SINE) if not results else turn(*words("Here is the sine wave."))
    if "fibonacci" in text:
        return _run(FIBONACCI) if not results else turn(*words(f"They are {results[0]}."))
    if "image" in text:
        return turn(*words(f"I was shown {_count_images(request)} images."))
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


def _ask_functions(request: Request) -> Turn:
    """Call every function that is offered, at once; then tell what came back."""
    results = request.tool_results
    if not results:
        names = [name for name in request.tools if name != CODE_TOOL]
        return turn(*(CallTool(name, {"location": "Los Angeles, CA"}) for name in names))
    if len(results) == 1:
        return turn(*words(f"It is {results[0]}."))
    first, second = results
    if "getNickname" in request.tools:
        return turn(*words(f"It is {first} in Los Angeles today, which people call {second}."))
    return turn(*words(f"It is {first} degrees, and the likelihood of rain is {second}."))


def _count_images(request: Request) -> int:
    parts = [part for message in request.messages for part in message.get("content") or ()]
    return sum(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)
