"""Mentions of files in a model's text, `sandbox:/mnt/data/…`, as annotations.

How this works: such a link ends nowhere in particular: names have spaces, parentheses and dots,
links stand in Markdown, in brackets or at the end of a sentence. So the files that exist decide:
of all ends that could be one, the mention is the longest that names a file. Indices count code
points (Python's own), `start` inclusive and `end` exclusive: `value[start:end] == annotation.text`.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from ci_tools_assistants.objects import Object

_LINK = re.compile(r"sandbox:(?://)?/mnt/data/")

_GOES_ON = re.compile(r"[A-Za-z0-9_%~]|[-./+@=](?=\w)")
"""What cannot follow the end of a mention: the name would be another one."""

_STOP = re.compile(r"[\n\r\t<>\"|]")
"""What no mention holds, even where a file could be named so."""

_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
"""A character that Markdown was told to take as it is."""

_ASCII = re.compile(r"[\x00-\x7f]*")
"""The beginning of a name that no normalization changes."""


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
    known = {unicodedata.normalize("NFC", path): path for path in paths}
    # Each byte may be written as %XX.
    longest = 3 * max((len(path.encode()) for path in known), default=0)
    position = 0
    while (link := _LINK.search(text, position)) is not None:
        # No farther than a name can reach: a text may be nothing but links.
        limit = _limit(text, link.end(), min(link.end() + longest, len(text)))
        found = _longest(text, link.end(), limit, known)
        if not is_final and limit == len(text) and _may_change(text, link.end(), found, known):
            return
        if found is None:
            position = link.end()
            continue
        end, path = found
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


def _longest(text: str, start: int, limit: int, known: Mapping[str, str]) -> tuple[int, str] | None:
    """Return the last end at which a known path has been read, and that path."""
    if not _may_begin(text[start:limit], known):
        return None
    for end in range(limit, start, -1):
        if _goes_on(text, end):
            continue
        for name in _readings(text[start:end]):
            if name in known:
                return end, known[name]
    return None


def _may_begin(written: str, known: Mapping[str, str]) -> bool:
    """Tell whether a path may be what stands at the beginning; most links are to none.

    What follows a path may change its last character, so that one does not count.
    """
    begins = tuple(_ASCII.match(name).group()[:-1] for name in known)  # type: ignore[union-attr]
    return any(reading.startswith(begins) for reading in _readings(written))


def _goes_on(text: str, end: int) -> bool:
    if _GOES_ON.match(text, end) is not None:
        return True
    # A letter of another script may follow a name at once where words have no spaces.
    return text[end : end + 1].isalpha() and not text[end - 1].isascii()


def _readings(written: str) -> Iterator[str]:
    """Return what a link may mean: as written, without Markdown's escapes, percent-decoded."""
    for plain in (written, _ESCAPED.sub(r"\1", written)):
        yield unicodedata.normalize("NFC", plain)
        if "%" in plain:
            yield unicodedata.normalize("NFC", unquote(plain))


def _may_change(
    text: str, start: int, found: tuple[int, str] | None, known: Mapping[str, str]
) -> bool:
    """Tell whether more text could make of this mention another one."""
    read = min(len(name) for name in _readings(text[start:]))
    longest = max(map(len, known), default=0)
    if found is None:
        return read <= longest
    end, path = found
    if end >= len(text) - 1:
        return True
    read_path = unicodedata.normalize("NFC", path)
    others = [name for name in known if name != read_path and name.startswith(read_path)]
    return any(read <= len(name) for name in others)
