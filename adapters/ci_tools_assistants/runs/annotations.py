"""Mentions of files in a model's text, `sandbox:/mnt/data/…`, as annotations.

How this works: such a link ends nowhere in particular: names have spaces, parentheses and dots,
links stand in Markdown, in brackets or at the end of a sentence. So the files that exist decide:
of all ends that could be one, the mention is the longest that names a file. What follows a link is
read as a whole in each way it may be meant, names that it begins with are looked up, and only for
these is the place in the text found at which they end: the time is linear in the text, whatever is
in it. Indices count code points (Python's own), `start` inclusive and `end` exclusive:
`value[start:end] == annotation.text`.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from ci_tools_assistants.objects import Object

_LINK = re.compile(r"sandbox:(?://)?/mnt/data/")

_GOES_ON = re.compile(r"[A-Za-z0-9_%~]|[-./+@=](?=\w)")
"""What cannot follow the end of a mention: the name would be another one."""

_STOP = re.compile(r"[\n\r\t<>\"|]")
"""What no mention holds, even where a file could be named so."""


@dataclass(frozen=True)
class _Decoding:
    """One way in which a name is written differently: `decode` is given what `pattern` matches."""

    mark: str
    """What is in every match."""

    pattern: re.Pattern[str]
    decode: Callable[[str], str]

    def apply(self, written: str) -> str:
        """Return what is meant by all of it."""
        return self.pattern.sub(lambda match: self.decode(match[0]), written)

    def find_end(self, written: str, length: int) -> int | None:
        """Return where that which means the first `length` characters ends, None if nowhere."""
        start = done = 0
        for match in self.pattern.finditer(written):
            plain = match.start() - start
            if length <= done + plain:
                break
            start = match.end()
            done += plain + len(self.decode(match[0]))
            if length < done:
                return None
        return start + length - done


def _decompose(text: str) -> str:
    return unicodedata.normalize("NFD", text)


_MARKDOWN = _Decoding("\\", re.compile(r"\\[!-/:-@\[-`{-~]"), lambda escaped: escaped[1])
"""A character that Markdown was told to take as it is."""

_PERCENT = _Decoding("%", re.compile(r"(?:%[0-9A-Fa-f]{2})+"), unquote)

_UNICODE = _Decoding("", re.compile(r"[^\x00-\x7f]"), _decompose)
"""How many characters each becomes is what counts: only together can they be put in order."""

_MEANINGS: Sequence[Sequence[_Decoding]] = ((), (_PERCENT,), (_MARKDOWN,), (_MARKDOWN, _PERCENT))
"""What may have been done to a name in a link, from the last to the first."""


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A file's link in a text: `text` is what stands from `start` to `end`."""

    start: int
    end: int
    text: str
    path: str
    """The file's path relative to /mnt/data, as it was given."""


def find_mentions(text: str, paths: Iterable[str], *, is_final: bool = True) -> Iterator[Mention]:
    """Find every mention of a file in `paths` (relative to /mnt/data), in order.

    With `is_final` false the text may go on: it ends before the first mention that more text
    could change.
    """
    known = _Names(paths)
    position = 0
    while (link := _LINK.search(text, position)) is not None:
        # No farther than a name can reach: a text may be nothing but links.
        limit = _limit(text, link.end(), min(link.end() + known.longest_link, len(text)))
        found = _longest(text, link.end(), limit, known)
        if not is_final and limit == len(text) and _may_change(text, link.end(), found, known):
            return
        if found is None:
            position = link.end()
            continue
        end, name = found
        path = known.paths[name]
        yield Mention(start=link.start(), end=end, text=text[link.start() : end], path=path)
        position = end


def annotate(text: str, files: Mapping[str, str], *, is_final: bool = True) -> list[Object]:
    """Return one `file_path` annotation for each mention; `files` maps paths to file ids."""
    return [
        {
            "type": "file_path",
            "text": mention.text,
            "file_path": {"file_id": files[mention.path]},
            "start_index": mention.start,
            "end_index": mention.end,
        }
        for mention in find_mentions(text, files, is_final=is_final)
    ]


def _limit(text: str, start: int, end: int) -> int:
    """Return where a mention that starts here ends at the latest, which is not behind `end`."""
    found = (_STOP.search(text, start, end), _LINK.search(text, start, end))
    return min((match.start() for match in found if match is not None), default=end)


class _Names:
    """The names of files, decomposed: what is canonically the same is one text then."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = {_decompose(path): path for path in paths}
        # Each byte may be written as %XX.
        self.longest_link = 3 * max((len(path.encode()) for path in self.paths), default=0)
        self._sorted = sorted(self.paths)
        self._shorter: list[int] = []
        """For each the place of the longest other that it begins with, -1 for none."""

        begun: list[int] = []
        for place, name in enumerate(self._sorted):
            while begun and not name.startswith(self._sorted[begun[-1]]):
                begun.pop()
            self._shorter.append(begun[-1] if begun else -1)
            begun.append(place)

    def beginnings(self, text: str) -> Iterator[str]:
        """Return the names that a text begins with, the longest first."""
        # Whatever is sorted between such a name and the text begins with that name.
        place = bisect_right(self._sorted, text) - 1
        while place >= 0:
            if text.startswith(self._sorted[place]):
                yield self._sorted[place]
            place = self._shorter[place]


class _Reading:
    """What a text means after some decodings, and where in the text which part of it is."""

    def __init__(self, written: str, decodings: Sequence[_Decoding]) -> None:
        self._decodings = decodings
        self._stages = [written]
        for decoding in decodings:
            self._stages.append(decoding.apply(self._stages[-1]))
        self.text = _decompose(self._stages[-1])

    def find_end(self, length: int) -> int | None:
        """Return where in the text the first `length` characters of what it means end."""
        last = self._stages[-1]
        end = length if last.isascii() else _UNICODE.find_end(last, length)
        for written, decoding in zip(self._stages[-2::-1], reversed(self._decodings), strict=True):
            end = None if end is None else decoding.find_end(written, end)
        return end


def _readings(written: str) -> Iterator[_Reading]:
    """Return what a link may mean: as written, without Markdown's escapes, percent-decoded."""
    for decodings in _MEANINGS:
        if all(decoding.mark in written for decoding in decodings):
            yield _Reading(written, decodings)


def _longest(text: str, start: int, limit: int, known: _Names) -> tuple[int, str] | None:
    """Return the last end at which a known name has been read, and that name."""
    found: tuple[int, str] | None = None
    for reading in _readings(text[start:limit]):
        for name in known.beginnings(reading.text):
            end = reading.find_end(len(name))
            if end is not None and not _goes_on(text, start + end):
                if found is None or start + end > found[0]:
                    found = start + end, name
                break
    return found


def _goes_on(text: str, end: int) -> bool:
    if _GOES_ON.match(text, end) is not None:
        return True
    after = text[end : end + 1]
    # A letter of another script may follow a name at once where words have no spaces.
    return (after.isalpha() and not text[end - 1].isascii()) or (
        after != "" and unicodedata.combining(after) > 0
    )


def _may_change(text: str, start: int, found: tuple[int, str] | None, known: _Names) -> bool:
    """Tell whether more text could make of this mention another one."""
    read = min(len(reading.text) for reading in _readings(text[start:]))
    if found is None:
        return read <= max(map(len, known.paths), default=0)
    end, read_name = found
    if end >= len(text) - 1:
        return True
    return any(
        read <= len(name)
        for name in known.paths
        if name != read_name and name.startswith(read_name)
    )
