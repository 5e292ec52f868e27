"""What a Python kernel has ready for the code in it, and for those who read its output."""

import contextlib
import ctypes
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from ci_tools_kernels.inside import output
from ci_tools_kernels.inside.filesystem import find_packages

CONTEXT = 2
"""Lines of a cell shown before and after the one that failed."""

NO_NETWORK = (
    "This session has no network, so nothing can be installed. Use the packages that are there"
    " (`%pip list`), or ask the operator to allow network for sessions."
)

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

_BLAS_SETTERS = tuple(
    f"{prefix}openblas_set_num_threads{suffix}"
    for prefix in ("", "scipy_")
    for suffix in ("", "64_")
)

_blas_setters: list[Callable[[int], Any]] = []

_fonts: dict[str, bytes] = {}
"""Name and content of matplotlib's font lists, as the template found or made them."""


def remember_fonts(folder: str) -> None:
    """Keep the font lists of the template's cache, for the sandboxes that cannot see it."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if name.startswith("fontlist-"):
            with open(os.path.join(folder, name), "rb") as file:
                _fonts[name] = file.read()


def prepare(shell: Any, *, network: bool, hosts: list[str], cwd: str) -> None:
    """Set up what must be there before the first execution; `hosts` are all that it reaches."""
    _follow_folder(shell, cwd)
    packages = find_packages()
    folder = os.environ["MPLCONFIGDIR"]
    os.makedirs(folder, exist_ok=True)
    for name, content in _fonts.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    for name in ("CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"):
        os.environ.pop(name, None)  # readers get text, not terminal codes
    os.environ["TERM"] = "dumb"
    sys.path.append(packages)
    os.environ.setdefault("PYTHONPATH", packages)
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        pandas.set_option("display.width", 160, "display.max_columns", 40)
    output.install()
    tracebacks = _Tracebacks(shell)
    shell.InteractiveTB.structured_traceback = tracebacks.structured
    _tell_reasons(shell, tracebacks)
    shell.register_magic_function(lambda line: _show_variables(shell), "line", "variables")
    if not network or hosts:
        run_pip = shell.find_line_magic("pip")
        shell.register_magic_function(
            lambda line: _run_pip(shell, run_pip, line, hosts), "line", "pip"
        )


def _run_pip(shell: Any, run_pip: Callable[[str], None], line: str, hosts: list[str]) -> None:
    if not hosts and "install" in line.split()[:1]:
        print(NO_NETWORK)  # noqa: T201
        return
    run_pip(line)
    if hosts and shell.user_ns.get("_exit_code"):
        print(f"This session reaches these hosts only: {', '.join(hosts)}.")  # noqa: T201


def _follow_folder(shell: Any, cwd: str) -> None:
    """Go into the session's folder when it comes: a kernel can be made ahead of its session.

    It can come before this line: what is at the path then is the session's already, while this
    process is still in what the session's folder was mounted over.
    """
    first = os.stat(".")

    def enter_folder() -> None:
        if os.path.samestat(os.stat(cwd), first):
            return
        shell.events.unregister("pre_execute", enter_folder)
        if os.path.samestat(os.stat("."), first):
            os.chdir(cwd)

    # This event comes before silent executions too, as the service's first question is one.
    shell.events.register("pre_execute", enter_folder)


def _tell_reasons(shell: Any, tracebacks: "_Tracebacks") -> None:
    """Let code that is interrupted for a limit be told which."""
    handlers = shell.kernel.control_handlers
    interrupt = handlers["interrupt_request"]

    def interrupt_with_reason(stream: Any, ident: Any, parent: Any) -> Any:
        tracebacks.reason = str(parent["content"].get("reason") or "")
        return interrupt(stream, ident, parent)

    def forget_reason() -> None:
        tracebacks.reason = ""

    handlers["interrupt_request"] = interrupt_with_reason
    shell.events.register("pre_execute", forget_reason)


def find_blas() -> None:
    """Find the BLAS libraries that are loaded, before `set_blas_threads` is in a hurry."""
    with open("/proc/self/maps") as file:
        paths = {line.split()[-1] for line in file if "openblas" in line}
    for path in paths:
        library = ctypes.CDLL(path)
        for name in _BLAS_SETTERS:
            with contextlib.suppress(AttributeError):
                _blas_setters.append(getattr(library, name))


def set_blas_threads(number: int) -> None:
    """Let the BLAS libraries that the template loaded use this many threads.

    The template itself uses one, because it forks; they would not look at the environment again.
    """
    for set_threads in _blas_setters:
        set_threads(number)


def rehearse(shell: Any) -> None:
    """Do what most sessions do first, so that what it loads is known."""
    shell.run_cell(_REHEARSAL, store_history=True)


class _Tracebacks:
    """Tracebacks that show the cell's lines, and of libraries only the way in and the end."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.reason = ""
        """What the running code was interrupted for, if it was for a limit."""

    def structured(
        self,
        kind: type[BaseException],
        error: BaseException | None,
        tb: types.TracebackType | None,
        tb_offset: int | None = None,
        context: int = 5,
    ) -> list[str]:
        """Return the traceback of an error and of those that led to it, as lines."""
        if error is None:
            return traceback.format_exception_only(kind, error)
        if isinstance(error, KeyboardInterrupt) and self.reason and not error.args:
            error.args = (self.reason,)
        return [line for part in self._chain(error, tb, set()) for line in part.splitlines()]

    def _chain(
        self, error: BaseException, tb: types.TracebackType | None, seen: set[int]
    ) -> Iterator[str]:
        seen.add(id(error))
        earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if earlier is not None and id(earlier) not in seen:
            yield from self._chain(earlier, earlier.__traceback__, seen)
            yield "\nwhich led to:\n" if error.__cause__ else "\nand while that was handled:\n"
        yield "Traceback (most recent call last):"
        yield from self._frames(tb)
        yield from (line.rstrip("\n") for line in traceback.format_exception_only(error))

    def _frames(self, tb: types.TracebackType | None) -> Iterator[str]:
        frames = [
            (frame, line)
            for frame, line in traceback.walk_tb(tb)
            if "/IPython/core/" not in frame.f_code.co_filename
        ]
        summaries = traceback.StackSummary.extract(iter(frames), lookup_lines=False)
        library: list[traceback.FrameSummary] = []
        for summary in summaries:
            cell = self._shell.compile.format_code_name(summary.filename)
            # Compiled modules name their sources relatively.
            named = summary.filename
            if cell is None and ("-packages/" in named or not named.startswith("/")):
                library.append(summary)
                continue
            yield from _shorten(library)
            library = []
            yield from _describe(summary, f"{cell[0]} {cell[1]}" if cell else None)
        yield from _shorten(library)


def _shorten(library: list[traceback.FrameSummary]) -> Iterator[str]:
    for number, summary in enumerate(library):
        if number in (0, len(library) - 1):
            package = summary.filename.rpartition("-packages/")[2]
            yield f"  {package}, line {summary.lineno}, in {summary.name}: {summary.line}"
        elif number == 1:
            yield f"  ... {len(library) - 2} more ..."


def _describe(summary: traceback.FrameSummary, cell: str | None) -> Iterator[str]:
    import linecache  # loaded with traceback anyway

    where = cell or summary.filename
    yield f"  {where}, line {summary.lineno}, in {summary.name}".replace(", in <module>", "")
    line = summary.lineno or 1
    for number in range(max(1, line - CONTEXT), line + CONTEXT + 1):
        text = linecache.getline(summary.filename, number).rstrip()
        if text:
            yield f"  {'-->' if number == line else '   '} {number:3} {text}"


def _show_variables(shell: Any) -> None:
    """List the session's variables, for readers and as JSON."""
    from IPython.display import display  # type: ignore[attr-defined, unused-ignore]

    found = [
        {"name": name, "type": type(value).__name__, "detail": _detail(value)}
        for name, value in sorted(shell.user_ns.items())
        if not name.startswith("_")
        and name not in shell.user_ns_hidden
        and not isinstance(value, types.ModuleType)
    ]
    widths = [max([len(item[key]) for item in found], default=0) for key in ("name", "type")]
    text = "\n".join(
        f"{item['name']:{widths[0]}}  {item['type']:{widths[1]}}  {item['detail']}".rstrip()
        for item in found
    )
    bundle = {"text/plain": text or "No variables yet.", VARIABLES_TYPE: {"variables": found}}
    display(bundle, raw=True)  # type: ignore[no-untyped-call, unused-ignore]


VARIABLES_TYPE = "application/vnd.ci-tools.variables+json"
"""The MIME type of a list of variables: `{"variables": [{"name", "type", "detail"}, …]}`."""


SHAPED = ("numpy", "pandas", "polars", "pyarrow", "scipy", "torch", "xarray")
"""Packages whose objects are asked for their shape and size."""

SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, range)


def _detail(value: Any) -> str:
    """Describe a value in the words of the service's own listing; no code of the user's runs."""
    kind = type(value)
    if kind in (bool, float, complex) or (kind is int and value.bit_length() < 200):
        return repr(value)
    if str(kind.__module__).partition(".")[0] in SHAPED:
        try:
            return ", ".join(_measure(value))
        except Exception:  # noqa: BLE001 -- a library's own, or half made
            return ""
    if kind in (str, bytes, bytearray):
        return f"length {len(value)}, {sys.getsizeof(value)} bytes"
    return f"length {len(value)}" if kind in SIZED else ""


def _measure(value: Any) -> Iterator[str]:
    shape = getattr(value, "shape", None)
    if shape is not None:
        yield f"shape ({', '.join(str(int(length)) for length in shape)})"
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        yield str(dtype)
    size = getattr(value, "nbytes", None)
    if size is None and hasattr(value, "memory_usage"):
        used = value.memory_usage()
        size = used.sum() if hasattr(used, "sum") else used
    if size is not None:
        yield f"{size} bytes"
