"""The code interpreter as a tool of the model, and its code while the model still writes it."""

import re
from collections.abc import Collection, Sequence
from typing import Final

from ci_tools_assistants.models.arguments import load_object
from ci_tools_assistants.models.surrogates import join_halves
from ci_tools_assistants.objects import Object

CODE_TOOL: Final = "code_interpreter"
"""The name of the tool, unless a function of the assistant has it."""

_DESCRIPTION: Final = (
    "Run Python code in a stateful Jupyter session and get what it prints, the value of its last "
    "expression and its images. Variables, imports and files stay for later calls. "
    "Files are in /mnt/data; write files for the user there."
)

_KEY = re.compile(r'\s*\{\s*"code"\s*:\s*"')
"""How the arguments begin when the first key is the code, as it is for every known model."""

_LONGEST_KEY = 200
"""Characters after which arguments that do not begin so are no longer looked at."""

_PLAIN = re.compile(r'[^"\\]+')

_ESCAPES = {
    '"': '"',
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}


def create_code_tool(taken: Collection[str] = ()) -> Object:
    """Return the tool as the model sees it, under a name that no function has."""
    name: str = CODE_TOOL
    while name in taken:
        name = f"ci_{name}"
    code = {"type": "string", "description": "The Python code to run."}
    parameters = {"type": "object", "properties": {"code": code}, "required": ["code"]}
    function = {"name": name, "description": _DESCRIPTION, "parameters": parameters}
    return {"type": "function", "function": function}


def find_code_tool(tools: Sequence[Object]) -> str | None:
    """Return the name that the tool has among these, or None if it is not there."""
    for tool in tools:
        # A function of the assistant may have any name, but not this description.
        if tool["function"].get("description") == _DESCRIPTION:
            return str(tool["function"]["name"])
    return None


def find_code(arguments: str) -> str | None:
    """Return the code in a call's complete arguments, or None if there is none."""
    value = load_object(arguments)
    code = None if value is None else value.get("code")
    return join_halves(code) if isinstance(code, str) else None


class CodeArgumentDecoder:
    r"""Turns fragments of `{"code": "…"}` into pieces of the code as they come.

    A fragment may end anywhere, also inside of an escape or between the two halves of a surrogate
    pair; what is not complete waits for the next one. Arguments that begin with another key give
    no pieces: take the code from the complete arguments then, with `rest`.
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._inside = False
        self._finished = False
        self._sent: list[str] = []

    @property
    def code(self) -> str:
        """All code returned so far."""
        return "".join(self._sent)

    def add(self, fragment: str) -> str:
        """Return the code that a fragment adds; often empty."""
        if self._finished:
            return ""
        self._buffer += fragment
        if not self._inside:
            found = _KEY.match(self._buffer)
            if found is None:
                self._finished = len(self._buffer) > _LONGEST_KEY
                return ""
            self._inside = True
            self._buffer = self._buffer[found.end() :]
        piece = self._decode()
        if piece:
            self._sent.append(piece)
        return piece

    def rest(self, code: str) -> str:
        """Return what of the complete code has not been returned; it is known at the end only."""
        sent = self.code
        return code[len(sent) :] if code.startswith(sent) else ""

    def _decode(self) -> str:
        text, place, pieces = self._buffer, 0, []
        while place < len(text):
            character = text[place]
            if character == '"':
                self._finished = True
                place = len(text)
            elif character != "\\":
                plain = _PLAIN.match(text, place)
                assert plain is not None
                pieces.append(plain.group())
                place = plain.end()
            else:
                decoded, length = _decode_escape(text, place)
                if not length:
                    break
                pieces.append(decoded)
                place += length
        self._buffer = text[place:]
        return "".join(pieces)


def _decode_escape(text: str, place: int) -> tuple[str, int]:
    """Return the character of an escape and the escape's length, which is 0 if it is not whole."""
    kind = text[place + 1 : place + 2]
    if kind != "u":
        return (_ESCAPES.get(kind, kind), 2) if kind else ("", 0)
    unit = _unit(text, place)
    if unit is None:
        return "", 0
    if not 0xD800 <= unit < 0xDC00:
        return (chr(unit) if not 0xDC00 <= unit < 0xE000 else "\ufffd"), 6
    follows = text[place + 6 : place + 8]
    if not "\\u".startswith(follows):
        return "\ufffd", 6  # a half without its other half
    low = _unit(text, place + 6) if len(follows) == 2 else None
    if low is None:
        return "", 0
    if not 0xDC00 <= low < 0xE000:
        return "\ufffd", 6
    return chr(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)), 12


def _unit(text: str, place: int) -> int | None:
    digits = text[place + 2 : place + 6]
    if len(digits) < 4:
        return None
    try:
        return int(digits, 16)
    except ValueError:
        return 0xFFFD
