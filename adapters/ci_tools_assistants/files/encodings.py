"""Whether a text file's encoding is one that the hosted tools took: utf-8, utf-16 or ascii.

Other text is taken too and passes unchanged; the model is told, as code has to name the encoding.
The bytes are looked at as they pass by, so that no file is read twice.
"""

import codecs
from collections.abc import AsyncIterator
from typing import Literal, TypeAlias

Encoding: TypeAlias = Literal["ascii", "utf-8", "utf-16", "other"]

_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_SAMPLE = 4096
"""Bytes at the start that tell UTF-16 without a byte order mark."""


class EncodingProbe:
    """Reads a file's bytes in order, piece by piece."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._head = b""
        self._is_ascii = True
        self._is_utf8 = True

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if len(self._head) < _SAMPLE:
            self._head += chunk[: _SAMPLE - len(self._head)]
        self._is_ascii = self._is_ascii and chunk.isascii()
        if self._is_utf8:
            try:
                self._decoder.decode(chunk)
            except UnicodeDecodeError:
                self._is_utf8 = False

    async def watch(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass bytes on and look at them."""
        async for chunk in chunks:
            self.feed(chunk)
            yield chunk

    def encoding(self) -> Encoding:
        """Return what the bytes so far are."""
        if self._head.startswith(_BOMS) or self._is_wide():
            return "utf-16"
        if self._is_ascii:
            return "ascii"
        if self._is_utf8:
            try:
                self._decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                return "other"
            return "utf-8"
        return "other"

    def _is_wide(self) -> bool:
        """Tell whether every second byte is null, as in UTF-16 of mostly Latin text."""
        pairs = len(self._head) // 2
        if pairs < 2:
            return False
        return any(
            self._head[first::2].count(0) > pairs * 0.6
            and self._head[1 - first :: 2].count(0) < pairs * 0.1
            for first in (0, 1)
        )
