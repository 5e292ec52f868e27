"""Outputs and the other parts of a step as JSON text; pure.

The text is ASCII: neither lone surrogates nor NUL, which user code may print and databases refuse,
appear in it unescaped. Unknown keys are ignored when reading, so that a store that a newer release
of the same schema wrote can be read.
"""

import json
from collections.abc import Sequence
from typing import Any, assert_never

from ci_tools.models import (
    ChangedFile,
    DisplayOutput,
    ErrorOutput,
    FullText,
    Json,
    KernelRef,
    Output,
    StepError,
    StreamOutput,
)


def to_text(value: Json) -> str:
    """Return compact ASCII JSON."""
    return json.dumps(value, separators=(",", ":"))


def from_text(text: str) -> Any:
    """Return the value that `to_text` wrote."""
    return json.loads(text)


def outputs_to_text(outputs: Sequence[Output]) -> str:
    """Return the outputs of a step as one JSON array."""
    return to_text([output_to_json(output) for output in outputs])


def outputs_from_text(text: str) -> tuple[Output, ...]:
    """Return the outputs that `outputs_to_text` wrote."""
    return tuple(output_from_json(item) for item in json.loads(text))


def output_to_json(output: Output) -> Json:
    """Return one output as a JSON object; `type` tells which it is."""
    match output:
        case StreamOutput():
            stream: dict[str, Json] = {"type": "stream", "name": output.name, "text": output.text}
            if output.omitted:
                stream["omitted"] = output.omitted
            return stream
        case DisplayOutput():
            return {
                "type": output.kind,
                "data": dict(output.data),
                "metadata": dict(output.metadata),
                "display_id": output.display_id,
                "execution_count": output.execution_count,
            }
        case ErrorOutput():
            return {
                "type": "error",
                "name": output.name,
                "message": output.message,
                "traceback": output.traceback,
            }
        case _:
            assert_never(output)


def output_from_json(item: dict[str, Any]) -> Output:
    """Return the output that `output_to_json` wrote."""
    match item["type"]:
        case "stream":
            return StreamOutput(
                name=item["name"], text=item["text"], omitted=item.get("omitted", 0)
            )
        case "result" | "display" as kind:
            return DisplayOutput(
                kind=kind,
                data=item["data"],
                metadata=item["metadata"],
                display_id=item["display_id"],
                execution_count=item["execution_count"],
            )
        case "error":
            return ErrorOutput(
                name=item["name"], message=item["message"], traceback=item["traceback"]
            )
        case other:
            raise ValueError(f"Unknown type of output: {other!r}.")


def file_to_json(file: ChangedFile) -> Json:
    """Return a changed file as a JSON object."""
    return {"path": file.path, "size": file.size, "sha256": file.sha256, "change": file.change}


def file_from_json(item: dict[str, Any]) -> ChangedFile:
    """Return the changed file that `file_to_json` wrote."""
    return ChangedFile(
        path=item["path"], size=item["size"], sha256=item["sha256"], change=item["change"]
    )


def error_to_json(error: StepError | None) -> Json:
    """Return a step's error as a JSON object, or None."""
    return None if error is None else {"code": error.code, "message": error.message}


def error_from_json(item: dict[str, Any] | None) -> StepError | None:
    """Return the error that `error_to_json` wrote."""
    return None if item is None else StepError(code=item["code"], message=item["message"])


def full_text_to_json(full_text: FullText | None) -> Json:
    """Return where a step's whole text is as a JSON object, or None."""
    return None if full_text is None else {"key": full_text.key, "size": full_text.size}


def full_text_from_json(item: dict[str, Any] | None) -> FullText | None:
    """Return what `full_text_to_json` wrote."""
    return None if item is None else FullText(key=item["key"], size=item["size"])


def kernel_to_json(kernel: KernelRef | None) -> Json:
    """Return a kernel reference as a JSON object, or None."""
    if kernel is None:
        return None
    return {
        "server": kernel.server,
        "kernel_id": kernel.kernel_id,
        "channel_id": kernel.channel_id,
        "kernelspec": kernel.kernelspec,
        "language": kernel.language,
    }


def kernel_from_json(item: dict[str, Any] | None) -> KernelRef | None:
    """Return the kernel reference that `kernel_to_json` wrote."""
    if item is None:
        return None
    return KernelRef(
        server=item["server"],
        kernel_id=item["kernel_id"],
        channel_id=item["channel_id"],
        kernelspec=item["kernelspec"],
        language=item["language"],
    )
