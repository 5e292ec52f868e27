"""Multipart forms as streams: a file in one is read as it arrives and is never whole in memory.

https://www.rfc-editor.org/rfc/rfc7578
"""

import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TypeAlias

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from ci_tools_assistants.errors import ApiError

FIELD_LIMIT = 64 * 1024
"""Bytes of a form's field that is no file."""

PARTS_LIMIT = 100
"""Parts of one form."""

OVERHEAD = 1 << 20
"""Bytes that a form may have beside its file: boundaries, headers and other fields."""

_HTML_ESCAPES = {"%22": '"', "%0A": "\n", "%0D": "\r"}
"""What browsers and HTTP clients escape in a file name, and nothing else."""

_HTML_ESCAPE = re.compile("%22|%0A|%0D")


@dataclass(frozen=True)
class _Begin:
    headers: dict[bytes, bytes]


@dataclass(frozen=True)
class _Data:
    chunk: bytes


@dataclass(frozen=True)
class _End:
    pass


_Event: TypeAlias = _Begin | _Data | _End


class FormPart:
    """One part of a form; its bytes can be read once, before the next part is asked for."""

    def __init__(self, name: str, filename: str | None, form: "_Form") -> None:
        self.name = name
        self.filename = filename
        """None for a field that is no file."""

        self._form = form

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes as they arrive."""
        while isinstance(event := await self._form.next_event(), _Data):
            yield event.chunk

    async def text(self) -> str:
        """Return a field's value.

        Raises:
            ApiError: It is too long.
        """
        value = b""
        async for chunk in self.chunks():
            value += chunk
            if len(value) > FIELD_LIMIT:
                raise ApiError(400, f"The field '{self.name}' is too long.", param=self.name)
        return value.decode("utf-8", errors="replace")


async def read_form(request: Request) -> AsyncGenerator[FormPart, None]:
    """Iterate over the parts of a multipart request; what a part did not read is skipped.

    Raises:
        ApiError: The request is no form, or a broken one.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(
            400,
            "The request must be a multipart/form-data form with a boundary, not "
            f"'{kind.decode('latin-1')[:100]}'.",
        )
    form = _Form(request, boundary)
    for _ in range(PARTS_LIMIT):
        part = await form.next_part()
        if part is None:
            return
        yield part
    raise ApiError(400, f"A form has at most {PARTS_LIMIT} parts.")


def check_declared_size(request: Request, limit: int) -> None:
    """Refuse a form that says it is larger than a file of `limit` bytes needs.

    Raises:
        ApiError: 413, before anything of it was read.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit + OVERHEAD:
        raise ApiError(
            413, f"The file is larger than the limit of {limit} bytes.", code="file_too_large"
        )


class _Form:
    """The parser, fed with one chunk of the request after another when events run out."""

    def __init__(self, request: Request, boundary: bytes) -> None:
        self._chunks = request.stream()
        self._events: deque[_Event] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise ApiError(400, "The form's boundary cannot be used.") from error

    async def next_event(self) -> _Event | None:
        """Return what the parser saw next; None at the end of the form."""
        while not self._events:
            if self._ended:
                return None
            chunk = await anext(self._chunks, None)
            try:
                if chunk is None:
                    self._parser.finalize()
                    break
                self._parser.write(chunk)
            except FormParserError as error:
                raise ApiError(400, "The multipart form is broken.") from error
        if not self._events:
            raise ApiError(400, "The multipart form ends before its closing boundary.")
        return self._events.popleft()

    async def next_part(self) -> FormPart | None:
        """Skip the rest of the part before, and return the next."""
        while (event := await self.next_event()) is not None:
            if isinstance(event, _Begin):
                return _to_part(event.headers, self)
        return None

    def _on_part_begin(self) -> None:
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        self._events.append(_Begin(self._headers))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(_Data(data[start:end]))

    def _on_part_end(self) -> None:
        self._events.append(_End())

    def _on_end(self) -> None:
        self._ended = True


def _to_part(headers: dict[bytes, bytes], form: _Form) -> FormPart:
    # Latin-1 keeps each byte through the parser of options; names are UTF-8.
    disposition = headers.get(b"content-disposition", b"").decode("latin-1")
    _, options = parse_options_header(disposition)
    filename = options.get(b"filename")
    return FormPart(
        options.get(b"name", b"").decode("utf-8", errors="replace"),
        None if filename is None else _to_filename(filename),
        form,
    )


def _to_filename(written: bytes) -> str:
    """Return the last part of a file's name: some clients send the path on their machine."""
    name = written.decode("utf-8", errors="replace")
    name = _HTML_ESCAPE.sub(lambda found: _HTML_ESCAPES[found.group()], name)
    return name.rsplit("/", 1)[-1]
