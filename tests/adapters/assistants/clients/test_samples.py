"""The samples of the original documentation, unmodified, against real kernels.

Only the base URL and the key are ours, and the model, which a script plays.
"""

import csv
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.adapters.assistants.clients.environments import ROOT, Environment, node, old_python
from tests.adapters.assistants.clients.printed_calls import expected_calls, without_repetition
from tests.adapters.assistants.clients.scripts import run_script
from tests.adapters.assistants.clients.serving import KEY, Served, served_api
from tests.adapters.assistants.clients.sums import Handler, assert_equal_to_stored

EXAMPLES = ROOT / "examples" / "assistants"

HERE_AND_NOW = Environment(
    command=(sys.executable, "-W", "ignore::DeprecationWarning"), variables={}, modules=EXAMPLES
)
"""The tests' own environment has the newest Python client."""

SHELL = Environment(command=("/bin/sh",), variables={}, modules=EXAMPLES)

FOLDERS: dict[str, Callable[[], Environment]] = {
    "python": lambda: HERE_AND_NOW,
    "python_v1": old_python,
    "node": lambda: node("4"),
    "node_v1": lambda: node("version_1"),
    "node_new": lambda: node("newest"),
    "curl": lambda: SHELL,
}
"""What runs the samples of a folder."""

SAMPLES = sorted(
    str(path.relative_to(EXAMPLES))
    for folder in FOLDERS
    for path in (EXAMPLES / folder).iterdir()
    if path.suffix in (".py", ".mjs", ".sh")
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_api(tmp_path_factory.mktemp("samples"), real=True) as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("mydata.csv", "myimage.png"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", SAMPLES)
def test_a_printed_sample_runs(served: Served, folder: Path, name: str) -> None:
    kind, file = name.split("/")
    azure = {"AZURE_OPENAI_ENDPOINT": served.root, "AZURE_OPENAI_API_KEY": KEY}
    variables = azure if file.startswith("azure") else served.variables
    served.watch.calls.clear()

    out = run_script(EXAMPLES / name, folder, FOLDERS[kind](), variables)

    CHECKS[file.partition(".")[0].removesuffix("_v1")](out, folder)
    assert "\n".join(served.watch.problems) == ""
    expected = expected_calls(name)
    assert expected in (None, without_repetition(served.watch.calls))


@pytest.mark.filterwarnings(
    "ignore:deprecated:DeprecationWarning",
    "ignore:The Assistants API is deprecated:DeprecationWarning",
)
@pytest.mark.parametrize("text", ["Draw a graph", "Shuffle the rows"])
def test_deltas_of_real_code_add_up_to_what_is_stored(served: Served, text: str) -> None:
    code: Any = {"type": "code_interpreter"}
    handler = Handler()
    with OpenAI(base_url=served.url, api_key=KEY, _strict_response_validation=True) as client:
        file = client.files.create(file=EXAMPLES / "mydata.csv", purpose="assistants")
        attachments: Any = [{"file_id": file.id, "tools": [code]}]
        assistant = client.beta.assistants.create(model="gpt-4o", tools=[code])
        thread = client.beta.threads.create(
            messages=[{"role": "user", "content": text, "attachments": attachments}]
        )

        with client.beta.threads.runs.stream(
            thread_id=thread.id, assistant_id=assistant.id, event_handler=handler
        ) as stream:
            stream.until_done()
            run = stream.get_final_run()

        assert run.status == "completed", run.last_error
        assert_equal_to_stored(client, handler.sums, thread.id, run.id)
        [message] = client.beta.threads.messages.list(thread.id, run_id=run.id).data
    kinds = [part.type for part in message.content]
    assert kinds == (["image_file", "text"] if text == "Draw a graph" else ["text"])
    assert text == "Draw a graph" or message.attachments
    assert served.watch.problems == []


def check_math_tutor(out: str, folder: Path) -> None:
    assert "x = 1.0, Jane Doe." in out
    assert "I need to solve the equation `3x + 11 = 14`." in out
    assert "(14 - 11) / 3" in out
    assert re.search(r"logs > 1\.0|\"logs\": ?\"1\.0\"", out)


def check_math_tutor_stream(out: str, folder: Path) -> None:
    if "event: " in out:
        assert out.startswith("event: thread.created\n")
        assert out.endswith("event: done\ndata: [DONE]\n\n")
        return
    code, logs, text = out.split("assistant > ")[1:][0], out, out.rsplit("assistant > ", 1)[1]
    assert code.startswith("code_interpreter")
    assert "(14 - 11) / 3" in code
    assert re.search(r"output >\s+1\.0", logs)
    assert text == "The solution of the equation `3x + 11 = 14` is x = 1.0, Jane Doe.\n"


def check_raw_stream(out: str, folder: Path) -> None:
    assert "thread.run.created" in out
    assert "thread.run.step.delta" in out
    assert "thread.run.completed" in out
    assert "Jane" in out


def check_step_stream(out: str, folder: Path) -> None:
    code, rest = out.split("The code has run.")
    assert "(14 - 11) / 3" in code
    assert "Answer:" in rest
    assert "is x = 1.0, Jane Doe." in rest


def check_event_stream(out: str, folder: Path) -> None:
    assert "thread.run.created" in out
    assert "The solution of the equation `3x + 11 = 14` is x = 1.0, Jane Doe.\n" in out
    assert out.endswith("Run Result completed\n")


def check_quickstart_app(out: str, folder: Path) -> None:
    assert "sandbox:" not in out
    assert re.search(r"assistant: The rows .*\(/files/file-\w+\)", out, re.DOTALL)
    assert re.search(r"!\[image\]\(/files/file-\w+\)", out)
    assert "assistant: It is 22C." in out
    check_shuffled(folder)
    [image] = [path for path in folder.glob("*.png") if path.name != "myimage.png"]
    assert f"downloaded: {image.name}" in out
    assert image.read_bytes().startswith(b"\x89PNG\r\n")


def check_azure_math_tutor(out: str, folder: Path) -> None:
    assert "is x = 1.0, Jane Doe." in out


def check_azure_sinewave(out: str, folder: Path) -> None:
    assert "Status: completed" in out
    assert (folder / "sinewave.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert "np.sin(x)" in out


def check_azure_files(out: str, folder: Path) -> None:
    check_shuffled(folder)


def check_csv_shuffle(out: str, folder: Path) -> None:
    assert "sandbox:/mnt/data/shuffled_file.csv 167 202" in out
    assert "Click <here>" not in out or "[0] Click <here> to download shuffled_file.csv" in out
    check_shuffled(folder)


def check_shuffled(folder: Path) -> None:
    rows = [
        list(csv.reader((folder / name).read_text().splitlines()))
        for name in ("mydata.csv", "shuffled_file.csv")
    ]
    assert rows[0] != rows[1]
    assert rows[0][0] == rows[1][0]
    assert sorted(rows[0]) == sorted(rows[1])


def check_graph_image(out: str, folder: Path) -> None:
    assert "Here is the graph" in out
    assert (folder / "my-image.png").read_bytes().startswith(b"\x89PNG\r\n")


def check_functions(out: str, folder: Path) -> None:
    assert "It is 22C in Los Angeles today, which people call LA." in out


def check_temperature(out: str, folder: Path) -> None:
    assert "It is 57 degrees, and the likelihood of rain is 0.06." in out


def check_data_visualizer(out: str, folder: Path) -> None:
    if not out.startswith("{"):
        assert out.splitlines()[1].count("image_file") == 3
        assert "New instructions that override the Assistant instructions" in out
    else:
        assert out.count('"type":"image_file"') == 3
    assert out.endswith("completed\n")


def check_images(out: str, folder: Path) -> None:
    if "event: " in out:
        assert '"value":"I"' in out
        assert out.endswith("event: done\ndata: [DONE]\n\n")
        return
    assert out == "completed\nI was shown 1 images.\n"


def check_overview(out: str, folder: Path) -> None:
    lines = out.splitlines()
    assert lines[0] == "user: Could you explain linear algebra to me?"
    assert lines[4] == "assistant: Hello! How can I help you today?"
    assert "2584" in out
    assert '"type": "code_interpreter"' in out
    assert "display_quiz Mathematics Quiz" in out
    assert """assistant: You answered ["I don't know.", "I don't know."].""" in out


def check_files(out: str, folder: Path) -> None:
    if (folder / "shuffled_file.csv").exists():
        check_shuffled(folder)
        return
    size = (folder / "mydata.csv").stat().st_size
    assert f"mydata.csv {size} city,country,population" in out
    assert "notes.txt 23 Only this thread knows." in out
    assert re.search("of the (thread|message): [Tt]rue", out)
    assert re.search("deleted: [Tt]rue", out)
    assert "false" not in out.lower()


CHECKS: dict[str, Callable[[str, Path], None]] = {
    "math_tutor": check_math_tutor,
    "math_tutor_stream": check_math_tutor_stream,
    "csv_shuffle": check_csv_shuffle,
    "graph_image": check_graph_image,
    "functions": check_functions,
    "temperature": check_temperature,
    "temperature_stream": check_temperature,
    "files": check_files,
    "data_visualizer": check_data_visualizer,
    "images": check_images,
    "overview": check_overview,
    "raw_stream": check_raw_stream,
    "step_stream": check_step_stream,
    "event_stream": check_event_stream,
    "quickstart_app": check_quickstart_app,
    "azure_math_tutor": check_azure_math_tutor,
    "azure_sinewave": check_azure_sinewave,
    "azure_files": check_azure_files,
}
"""What a sample must have printed and downloaded, by its name."""


def test_the_folder_tells_of_every_sample() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")

    assert [name for name in SAMPLES if f"({name})" not in readme] == []


def test_only_the_application_is_free_in_the_order_of_its_calls() -> None:
    free = [name for name in SAMPLES if expected_calls(name) is None]

    assert free == ["node_new/quickstart_app.mjs"]
