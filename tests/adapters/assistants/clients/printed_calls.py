"""Which operations the printed samples call, in their order, as read in the original guides.

What a guide leaves to its reader, such as waiting for a run, is one call here however often it is
made; so are the pages of a list.
"""

from collections.abc import Iterable, Mapping

_RUN = "createThread createMessage createRun"
_ANSWER = "getRun listMessages"

CALLS: Mapping[str, str] = {
    # Assistants guide: quickstart, code interpreter, deep dive, function calling.
    "math_tutor": f"createAssistant {_RUN} {_ANSWER} listRunSteps",
    "math_tutor_stream": f"createAssistant {_RUN}",
    "csv_shuffle": f"createFile createAssistant createThread createRun {_ANSWER} downloadFile",
    "graph_image": f"createAssistant createThread createRun {_ANSWER} downloadFile",
    "functions": f"createAssistant {_RUN} getRun submitToolOuputsToRun {_ANSWER}",
    "temperature": f"createAssistant {_RUN} getRun submitToolOuputsToRun {_ANSWER}",
    "temperature_stream": f"createAssistant {_RUN} submitToolOuputsToRun",
    "files": f"createFile createAssistant createFile createThread createRun {_ANSWER} getThread "
    "modifyAssistant retrieveFile deleteFile",
    "data_visualizer": f"createFile createAssistant createThread createRun {_ANSWER} "
    "createRun getRun",
    "images": "createAssistant createFile createThread createRun getRun "
    f"createThread createRun {_ANSWER}",
    # The message annotations of the deep dive are printed for Python only.
    "python/csv_shuffle.py": f"createFile createAssistant createThread createRun {_ANSWER} "
    "downloadFile getMessage retrieveFile",
    "python_v1/csv_shuffle.py": f"createFile createAssistant createThread createRun {_ANSWER} "
    "downloadFile getMessage retrieveFile",
    # Version 1 had endpoints for the files of assistants and messages.
    **dict.fromkeys(
        ("python_v1/files.py", "node_v1/files.mjs"),
        f"createFile createAssistant createFile createThread createRun {_ANSWER} "
        "listMessageFiles listAssistantFiles deleteAssistantFile retrieveFile deleteFile",
    ),
    # For curl, what the guides print one by one and the reference prints as a whole.
    **dict.fromkeys(
        ("curl/files.sh", "curl/files_v1.sh"),
        "createFile createAssistant createThread createMessage createRun getRun listRunSteps "
        "listMessages downloadFile",
    ),
    "curl/math_tutor_stream.sh": "createAssistant createThreadAndRun",
    "curl/graph_image.sh": f"createAssistant createThreadAndRun {_ANSWER} downloadFile",
    "curl/functions.sh": "createAssistant createThreadAndRun getRun submitToolOuputsToRun "
    f"{_ANSWER}",
    "curl/data_visualizer.sh": f"createFile createAssistant createThread createRun {_ANSWER}",
    "curl/images.sh": "createAssistant createFile createThread createRun",
    # The cookbook's overview.
    "overview": f"createAssistant {_RUN} {_RUN} {_ANSWER} {_ANSWER} createMessage createRun "
    f"{_ANSWER} modifyAssistant {_RUN} {_ANSWER} listRunSteps modifyAssistant {_RUN} getRun "
    f"submitToolOuputsToRun {_ANSWER}",
    # The examples of the clients, and the application of the quickstart.
    "python/raw_stream.py": f"createAssistant {_RUN} deleteAssistant",
    "python_v1/raw_stream.py": f"createAssistant {_RUN} deleteAssistant",
    "raw_stream": "createAssistant createThread createRun",
    "event_stream": "createAssistant createThread createRun",
    "step_stream": "createAssistant createThread createRun deleteAssistant",
    # Azure's quickstart, its getting started, and its code interpreter.
    "azure_math_tutor": f"createAssistant {_RUN} {_ANSWER}",
    "azure_sinewave": "createAssistant createThread createMessage listMessages createRun "
    f"{_ANSWER} downloadFile createMessage createRun {_ANSWER}",
    "azure_files_v1": f"createFile createAssistant {_RUN} {_ANSWER} downloadFile",
}
"""The operations by their ids, for a sample or else for all of that name."""


def expected_calls(name: str) -> str | None:
    """Return what a sample (`folder/name.ending`) must call, or None if its order is open."""
    stem = name.split("/")[1].partition(".")[0]
    return CALLS.get(name, CALLS.get(stem, CALLS.get(stem.removesuffix("_v1"))))


def without_repetition(calls: Iterable[str]) -> str:
    """Return calls as one text; the same ones in a row are one."""
    kept: list[str] = []
    for call in calls:
        if kept[-1:] != [call]:
            kept.append(call)
    return " ".join(kept)
