"""The child process of `FakeBackend`: a small Python interpreter that speaks JSON lines.

It reads `{"id", "code"}` from file descriptor 3 and writes events to file descriptor 4. It offers
`display`, `update_display` and `clear_output` also as `IPython.display`, so that tests can run the
same code here and on ipykernel. Started as a file, it imports nothing of ours. `{"id", "list"}`
asks for its variables.
"""

import ast
import io
import json
import os
import runpy
import signal
import sys
import traceback
import types
import uuid
from collections.abc import Mapping
from typing import Any

VARIABLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "variables.py")


def main() -> None:
    """Serve until the request pipe is closed."""
    requests = os.fdopen(3, "r", encoding="utf-8", newline="\n")
    replies = os.fdopen(4, "w", encoding="utf-8", newline="\n")
    os.set_inheritable(3, False)
    os.set_inheritable(4, False)

    def send(**event: Any) -> None:
        replies.write(json.dumps(event) + "\n")
        replies.flush()

    class Stream(io.TextIOBase):
        def __init__(self, name: str) -> None:
            self._name = name
            self._pending = ""

        def write(self, text: str) -> int:
            self._pending += text
            if "\n" in text:
                self.flush()
            return len(text)

        def flush(self) -> None:
            text, self._pending = self._pending, ""
            for start in range(0, len(text), 65536):
                send(type="stream", name=self._name, text=text[start : start + 65536])

        def writable(self) -> bool:
            return True

    def bundle(value: Any, raw: bool = False) -> dict[str, Any]:
        if raw:
            return dict(value)
        data: dict[str, Any] = {"text/plain": repr(value)}
        html = getattr(value, "_repr_html_", None)
        if html is not None:
            data["text/html"] = html()
        return data

    def display(
        value: Any, *, raw: bool = False, display_id: Any = None, metadata: Any = None
    ) -> None:
        if display_id is True:
            display_id = uuid.uuid4().hex
        send(
            type="display",
            data=bundle(value, raw),
            metadata=metadata or {},
            display_id=display_id,
        )

    def update_display(
        value: Any, *, display_id: str, raw: bool = False, metadata: Any = None
    ) -> None:
        send(type="update", data=bundle(value, raw), metadata=metadata or {}, display_id=display_id)

    def clear_output(wait: bool = False) -> None:
        send(type="clear", wait=wait)

    class HTML:
        def __init__(self, data: str) -> None:
            self._data = data

        def __repr__(self) -> str:
            return "<IPython.core.display.HTML object>"

        def _repr_html_(self) -> str:
            return self._data

    def no_input(prompt: str = "") -> str:
        raise NotImplementedError("input() is not supported: nobody can answer it here.")

    module = types.ModuleType("IPython.display")
    vars(module).update(
        display=display, update_display=update_display, clear_output=clear_output, HTML=HTML
    )
    package = types.ModuleType("IPython")
    vars(package)["display"] = module
    sys.modules.update({"IPython": package, "IPython.display": module})
    sys.stdout, sys.stderr = Stream("stdout"), Stream("stderr")
    namespace: dict[str, Any] = {"__name__": "__main__", "display": display, "input": no_input}
    list_variables = runpy.run_path(VARIABLES)["list_variables"]
    hidden = dict(namespace)
    count = 0
    in_code = False

    def interrupt(*_: object) -> None:
        nonlocal in_code
        if in_code:
            in_code = False  # a second signal must not hit what reports the first
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    send(type="ready")
    for line in requests:
        request: Mapping[str, str] = json.loads(line)
        if "list" in request:
            send(type="variables", id=request["id"], rows=list_variables(namespace, hidden))
            continue
        count += 1
        status = "ok"
        try:
            in_code = True
            value = _run(request["code"], namespace)
            in_code = False
            sys.stdout.flush()
            if value is not None:
                send(type="result", data=bundle(value), execution_count=count)
        except BaseException as error:  # noqa: BLE001 - whatever code raises is its result
            in_code = False
            status = "error"
            send(
                type="error",
                name=type(error).__name__,
                message=str(error),
                traceback="".join(traceback.format_exception(error)),
            )
        sys.stdout.flush()
        sys.stderr.flush()
        send(type="done", id=request["id"], status=status, execution_count=count)


def _run(code: str, namespace: dict[str, Any]) -> Any:
    tree = ast.parse(code, "<cell>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), namespace)  # noqa: S102 - running code is its purpose
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)  # noqa: S307
    return None


if __name__ == "__main__":
    main()
