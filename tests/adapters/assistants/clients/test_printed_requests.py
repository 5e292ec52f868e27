"""The request samples of the published specifications, run as printed by what they are for.

One process a language runs all of them; the service compares its answers with the specifications.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.assistants.clients.environments import HERE, Environment, node, old_python
from tests.adapters.assistants.clients.printed import CODE_TOOL, answer
from tests.adapters.assistants.clients.printed_requests import (
    CORRECTIONS,
    FILES,
    NOT_ANSWERED,
    NOT_OFFERED,
    Sample,
    event_names,
    load_samples,
    make_ready,
    missing_keys,
)
from tests.adapters.assistants.clients.scripts import run_script
from tests.adapters.assistants.clients.serving import Served, make_keys, served_api
from tests.adapters.assistants.clients.test_samples import HERE_AND_NOW, SHELL
from tests.adapters.assistants.contract.world import World
from tests.adapters.assistants.scripted.script import CallTool, Request, Turn, turn

VERSIONS = ("v1", "v2", "containers")

ENDINGS = {"curl": ".sh", "python": ".py", "node.js": ".mjs", "javascript": ".mjs"}
"""How the names of files with samples end, by language."""

GIGABYTE = 1024**3

SETTINGS: dict[str, Any] = {
    "auth": "token",
    # What samples ask for: an upload of 2 GB, a container with 4 GB.
    "file_limit": 2 * GIGABYTE,
    "kernel_memory": 4 * GIGABYTE,
}


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A running service, and a key of one of its principals."""

    served: Served
    key: str

    def prepare(self, samples: list[Sample], folder: Path) -> None:
        """Write samples into a folder, ready to run, and forget what that asked of the service."""
        for name, content in FILES.items():
            (folder / name).write_bytes(content)
        for version in {sample.version for sample in samples}:
            with closing(World(self.served, version, key=self.key)) as world:
                for sample in samples:
                    if sample.version == version:
                        file = folder / f"{sample.label}{ENDINGS[sample.language]}"
                        file.write_text(make_ready(sample, world), encoding="utf-8")
        self.served.watch.problems.clear()
        self.served.watch.seen.clear()

    @property
    def variables(self) -> dict[str, str]:
        """What samples read from the environment."""
        return {**self.served.variables, "OPENAI_API_KEY": self.key}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("requests")
    [key] = make_keys(folder, "ada")
    with served_api(folder, call_functions, **SETTINGS) as served:
        yield Serving(served=served, key=key)


def call_functions(request: Request) -> Turn:
    """Call every function offered, if asked for one; else answer as to the printed samples."""
    functions = [name for name in request.tools if name != CODE_TOOL]
    asked = "weather" in request.last_text or "nickname" in request.last_text
    if not functions or not asked or request.tool_results:
        return answer(request)
    return turn(*(CallTool(name, {"location": "Los Angeles, CA"}) for name in functions))


CASES: dict[str, tuple[tuple[str, ...], Callable[[], Environment]]] = {
    "curl": (VERSIONS, lambda: SHELL),
    "python of version 1": (("v1",), old_python),
    "newest python": (("v2",), lambda: HERE_AND_NOW),
    "node.js of version 1": (("v1",), lambda: node("version_1")),
    "newest javascript": (("v2",), lambda: node("newest")),
}
"""The specifications whose samples run together, and what runs them; the language is a word of
the name."""


@pytest.mark.parametrize("case", CASES)
def test_printed_requests_are_answered_as_specified(
    serving: Serving, tmp_path: Path, case: str
) -> None:
    versions, environment = CASES[case]
    [language] = ENDINGS.keys() & case.split(" ")
    samples = [sample for version in versions for sample in load_samples(version, language)]
    serving.prepare(samples, tmp_path)

    runner = HERE / f"run_samples{ENDINGS[language]}"
    out = run_script(runner, tmp_path, environment(), serving.variables)

    outcomes = {Path(name).stem: problem for name, problem in json.loads(out).items()}
    assert outcomes.keys() == {sample.label for sample in samples}
    failed = {name: problem for name, problem in outcomes.items() if problem is not None}
    assert failed.keys() == outcomes.keys() & NOT_OFFERED.keys(), failed
    assert serving.served.watch.problems == []
    # Clients of version 1 say no version where there is but one: files, models.
    seen = {name.split(" ", 1)[1] for name in serving.served.watch.seen}
    answered = [sample for sample in samples if sample.label not in failed]
    assert {sample.route for sample in answered} - seen == set()
    if language == "curl":
        check_answers([sample for sample in answered if sample.response], tmp_path)


def check_answers(samples: list[Sample], folder: Path) -> None:
    """Compare what `curl` printed with the printed answers: events in order, keys of objects."""
    missing: set[tuple[str, str]] = set()
    for sample in samples:
        answer = (folder / f"{sample.label}.sh.out").read_text(encoding="utf-8")
        if names := event_names(sample.response):
            assert event_names(answer) == names, sample.label
        elif "/content" not in sample.route:
            missing |= missing_keys(sample, answer)
    assert missing == NOT_ANSWERED


def test_every_correction_corrects_something_printed() -> None:
    texts: dict[tuple[str, str], str] = {}
    for version in VERSIONS:
        for language in ENDINGS:
            for sample in load_samples(version, language):
                key = (sample.language, sample.operation)
                texts[key] = texts.get(key, "") + sample.text

    unused = [
        (key, correction.reason)
        for key, corrections in CORRECTIONS.items()
        for correction in corrections
        if correction.printed not in texts[key]
    ]
    assert unused == []
