"""The request samples that the published specifications print, made ready to run.

A sample is left as printed: only the address, and ids that never existed, become real ones. What
could never work as printed is told by name in `CORRECTIONS`, what is not offered in `NOT_OFFERED`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.adapters.assistants.contract.operations import (
    add_upload_part,
    create_assistant_file,
    new_container,
    new_container_file,
    new_upload,
)
from tests.adapters.assistants.contract.specification import LATER, METHODS, load
from tests.adapters.assistants.contract.world import FUNCTION, World

ADDRESS = "https://api.openai.com/v1"
"""What `curl` samples have in them; the official clients read theirs from the environment."""

MADE_UP = re.compile(
    r"\b(asst|thread|msg|run|step|call|file|upload|part|cntr|container|cfile)[_-]\w*\d\w*\b"
    r"|\b(VAR)_\w*model_id\b"
)
"""Ids that never existed; all of them have a digit, which no word of a sample has."""

FILES = {"mydata.jsonl": b'{"prompt": "a"}\n', "example.txt": b"An example.\n"}
"""What samples read from their folder."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One printed sample."""

    version: str
    operation: str
    """The id of its operation."""
    route: str
    """Its method and path, for example `GET /threads/{thread_id}`."""
    title: str
    language: str
    text: str
    response: str
    """The answer printed with it; empty for none."""

    @property
    def label(self) -> str:
        """The name of its file, without the ending."""
        words = (self.version, self.operation, self.title.replace(" ", "_"))
        return "-".join(word for word in words if word)


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Why a sample cannot work as it is printed, and what was meant."""

    reason: str
    printed: str
    meant: str


def load_samples(version: str, language: str) -> list[Sample]:
    """Return the samples of a specification in one language: `curl`, `python`, `node.js` …"""
    document = load(version).document
    return [
        Sample(
            version=version,
            operation=operation["operationId"],
            route=f"{method.upper()} {path}",
            title=example.get("title") or "",
            language=language,
            text=example["request"][language],
            response=example.get("response") or "",
        )
        for path, method, operation in _operations(document["paths"])
        for example in _examples(operation)
        if language in example["request"]
    ]


def _operations(paths: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in paths.items():
        if not path.startswith(LATER):
            yield from ((path, method, methods[method]) for method in METHODS if method in methods)


def _examples(operation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: Any = operation.get("x-oaiMeta", {}).get("examples", [])
    return found if isinstance(found, list) else [found]


def correct(sample: Sample) -> str:
    """Return the text of a sample without the mistakes that were printed."""
    text = sample.text
    for correction in CORRECTIONS.get((sample.language, sample.operation), ()):
        text = text.replace(correction.printed, correction.meant)
    return text


def make_ready(sample: Sample, world: World) -> str:
    """Return a sample that runs against the world's service, with objects made for it."""
    ids = _Ids(world, sample.operation)
    text = MADE_UP.sub(lambda match: ids.find(match[1] or match[2], match[0]), correct(sample))
    return text.replace(ADDRESS, world.served.url)


class _Ids:
    """Real ids for the made-up ones of one sample; the same again for the same."""

    def __init__(self, world: World, operation: str) -> None:
        self._world = world
        self._made: dict[str, str] = {}
        self._prepared = PREPARED[operation](world) if operation in PREPARED else {}

    def find(self, kind: str, made_up: str) -> str:
        if made_up not in self._made:
            prepared = self._prepared.get(made_up) or self._prepared.get(kind)
            self._made[made_up] = prepared or self._make(kind)
        return self._made[made_up]

    def _make(self, kind: str) -> str:
        world = self._world
        match kind:
            case "asst":
                return str(world.new_assistant(tools=[{"type": "code_interpreter"}])["id"])
            case "thread":
                return str(world.new_thread()["id"])
            case "file":
                return str(world.upload()["id"])
            case "cntr" | "container":
                return str(new_container(world)["id"])
            case "VAR":
                return "gpt-4o"
        raise AssertionError(f"nothing prepares a {kind}")


def _prepare_run(world: World) -> dict[str, str]:
    run = world.run
    return {"thread": run["thread_id"], "run": run["id"], "step": world.step["id"]}


def _prepare_waiting_run(world: World) -> dict[str, str]:
    run = world.wait(world.new_run("Ask for a nickname", tools=[FUNCTION]))
    assert run["status"] == "requires_action", run
    [call] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    return {"thread": run["thread_id"], "run": run["id"], "call": call["id"]}


def _prepare_message(world: World) -> dict[str, str]:
    thread = world.new_thread()
    body = {"role": "user", "content": "Look.", **world.of_file(world.file)}
    message = world.post(f"/threads/{thread['id']}/messages", body)
    return {"thread": thread["id"], "msg": message["id"], "file": world.file["id"]}


def _prepare_assistant_file(world: World) -> dict[str, str]:
    made = create_assistant_file(world)
    return {"asst": made["assistant_id"], "file": made["id"]}


def _prepare_upload(world: World) -> dict[str, str]:
    # The part that a sample adds has 44 characters.
    return {"upload": new_upload(world, b"." * 44)["id"]}


def _prepare_parts(world: World) -> dict[str, str]:
    upload = new_upload(world, b"half of it")
    first, second = (add_upload_part(world, upload, data) for data in (b"half ", b"of it"))
    return {"upload": upload["id"], "part_def456": first["id"], "part_ghi789": second["id"]}


def _prepare_container_file(world: World) -> dict[str, str]:
    container = new_container(world)
    file = new_container_file(world, container)["id"]
    return {"cntr": container["id"], "container": container["id"], "file": file, "cfile": file}


PREPARED: Mapping[str, Callable[[World], Mapping[str, str]]] = {
    **dict.fromkeys(
        ("listRuns", "getRun", "modifyRun", "listRunSteps", "getRunStep"), _prepare_run
    ),
    **dict.fromkeys(("cancelRun", "submitToolOuputsToRun"), _prepare_waiting_run),
    **dict.fromkeys(
        ("getMessage", "modifyMessage", "deleteMessage", "listMessageFiles", "getMessageFile"),
        _prepare_message,
    ),
    **dict.fromkeys(
        ("listAssistantFiles", "getAssistantFile", "deleteAssistantFile"),
        _prepare_assistant_file,
    ),
    **dict.fromkeys(("addUploadPart", "cancelUpload"), _prepare_upload),
    "completeUpload": _prepare_parts,
    **dict.fromkeys(
        (
            "ListContainerFiles",
            "RetrieveContainerFile",
            "DeleteContainerFile",
            "RetrieveContainerFileContent",
        ),
        _prepare_container_file,
    ),
}
"""Ids of objects that belong together, by the operation whose samples name them.

Each is there for a kind of id, or for one that a sample prints.
"""

_KEY = '-H "Authorization: Bearer $OPENAI_API_KEY"'

_SINGLE_QUOTES = Correction(
    reason="the shell puts no key between single quotes, and a quotation mark follows it",
    printed="""-H 'Authorization: Bearer $OPENAI_API_KEY"'""",
    meant=_KEY,
)

_NO_END = Correction(
    reason="the call ends like a curl sample, and nothing calls it",
    printed="""      },
    }
  }'""",
    meant="""      },
    }
  );

  console.log(message);
}

main();""",
)

_NO_STREAM = Correction(
    reason="the events are waited for, but never asked for",
    printed="""        },
      ],
    }
  );

  for await""",
    meant="""        },
      ],
      stream: true,
    }
  );

  for await""",
)

CORRECTIONS: Mapping[tuple[str, str], tuple[Correction, ...]] = {
    ("curl", "createAssistantFile"): (_SINGLE_QUOTES,),
    ("curl", "getAssistantFile"): (_SINGLE_QUOTES,),
    ("curl", "createFile"): (
        Correction(
            reason="the command ends before its last two lines",
            printed="""-F file="@mydata.jsonl"
  -F expires_after[anchor]="created_at"
""",
            meant="""-F file="@mydata.jsonl" \\
  -F expires_after[anchor]="created_at" \\
""",
        ),
    ),
    ("curl", "cancelUpload"): (
        Correction(
            reason="without a method it is a GET, and without a key nobody's",
            printed="/cancel",
            meant=f"/cancel -X POST {_KEY}",
        ),
    ),
    ("curl", "completeUpload"): (
        Correction(
            reason="the command ends before its body, and has no key",
            printed="/complete",
            meant=f"/complete {_KEY} \\",
        ),
    ),
    ("curl", "addUploadPart"): (
        Correction(
            reason="the command ends before its form, and has no key",
            printed="/parts",
            meant=f"/parts {_KEY} \\",
        ),
    ),
    ("node.js", "modifyMessage"): (_NO_END,),
    ("node.js", "submitToolOuputsToRun"): (_NO_STREAM,),
    ("javascript", "modifyMessage"): (
        _NO_END,
        Correction(
            reason="two ids one after the other were the calls of an older client",
            printed="""    "thread_abc123",
    "msg_abc123",
    {
""",
            meant="""    "msg_abc123",
    {
      thread_id: "thread_abc123",
""",
        ),
    ),
    ("javascript", "deleteMessage"): (
        Correction(
            reason="nothing calls it",
            printed="  console.log(deletedMessage);\n}",
            meant="  console.log(deletedMessage);\n}\n\nmain();",
        ),
    ),
    ("javascript", "submitToolOuputsToRun"): (_NO_STREAM,),
    ("curl", "CreateContainer"): (
        Correction(
            reason="there are no skills, and no network without a sandbox, as errors say",
            printed=""""memory_limit": "4g",
        "skills": [
          {
            "type": "skill_reference",
            "skill_id": "skill_4db6f1a2c9e73508b41f9da06e2c7b5f"
          },
          {
            "type": "skill_reference",
            "skill_id": "openai-spreadsheets",
            "version": "latest"
          }
        ],
        "network_policy": {
          "type": "allowlist",
          "allowed_domains": ["api.buildkite.com"]
        }
""",
            meant=""""memory_limit": "4g"
""",
        ),
    ),
}
"""What is mended before a sample runs, by its language and operation."""

NOT_OFFERED: Mapping[str, str] = {
    "v1-deleteModel": "models are set up by the operator, and no client deletes one",
    "v2-deleteModel": "models are set up by the operator, and no client deletes one",
    "v2-createAssistant-Files": "there are no vector stores yet",
}
"""Samples that are refused, by their label, and why."""

NOT_ANSWERED = frozenset(
    {
        # A run of the schemas has no such key, as no assistant's files are a run's.
        ("v2-createThreadAndRun-Default", "tool_resources"),
        ("v2-listRuns", "tool_resources"),
        ("v2-modifyRun", "tool_resources"),
        ("v2-cancelRun", "tool_resources"),
        # Version 1's, left in an answer of version 2.
        ("v2-modifyMessage", "file_ids"),
        # No model has one, and no file that was made without one.
        ("v2-listModels", "shutdown_date"),
        ("v2-retrieveModel", "shutdown_date"),
        ("v2-retrieveFile", "expires_at"),
        # There are none without a sandbox.
        ("containers-ListContainers", "memory_limit"),
        ("containers-CreateContainer", "memory_limit"),
        ("containers-CreateContainer", "network_policy"),
        ("containers-RetrieveContainer", "memory_limit"),
    }
)
"""Keys of printed answers that ours do not have: the sample's label, and the key."""


def missing_keys(sample: Sample, answer: str) -> set[tuple[str, str]]:
    """Return the keys that the printed answer has and ours has not, itself or its first item.

    Nothing is missing from what is printed with dots for the rest, and so is no JSON.
    """
    try:
        printed = json.loads(re.sub(r",(\s*[}\]])", r"\1", sample.response))
    except ValueError:
        return set()
    ours = json.loads(answer)
    return {(sample.label, key) for key in _keys(printed) - _keys(ours)}


def _keys(value: Any) -> set[str]:
    items = value.get("data") if isinstance(value.get("data"), list) else []
    return set(value) | {key for item in items[:1] for key in item}


def event_names(stream: str) -> list[str]:
    """Return the names of the events of a stream in order; of deltas in a row there is one."""
    names = re.findall("^event: (.*)$", stream, re.MULTILINE)
    return [name for number, name in enumerate(names) if names[:number][-1:] != [name]]
