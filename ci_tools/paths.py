"""The rule for the names of files in a session."""

import os
import unicodedata

from ci_tools.errors import InvalidPathError

MOUNT = "/mnt/data"
"""What readers call a session's folder, wherever it is."""

_PART_LIMIT = 255
"""Bytes in the name of one file or folder, as on the usual file systems."""

_PATH_LIMIT = 1024
"""Bytes in a whole path, the least that the supported systems allow."""

DEPTH_LIMIT = 64
"""Folders on the way to a file; a listing keeps each of them open."""

TEMPORARY = ".ci-tools-part-"
"""How the names of unfinished files begin; they are neither listed nor reachable."""

WINDOWS = os.name == "nt"

_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"]
)
"""Names that open a device on Windows, in every folder and with every suffix."""

_JOINERS = "\u200c\u200d"
"""Format characters that some scripts and emoji need in names."""


def check_path(path: str) -> str:
    """Return `path` relative to /mnt/data, with forward slashes and composed characters (NFC).

    Accepts "a/b", "./a/b", "/mnt/data/a/b" and "sandbox:/mnt/data/a/b".

    Raises:
        InvalidPathError: It leaves the folder, or no file can or should have that name.
    """
    relative = path.removeprefix("sandbox:")
    if relative == MOUNT or relative.startswith(MOUNT + "/"):
        relative = relative[len(MOUNT) + 1 :].lstrip("/")
    elif relative.startswith("/"):
        raise InvalidPathError(path, f"it is absolute and not below {MOUNT}")
    if not (relative.isascii() and relative.isprintable()):
        _check_characters(path, relative)
        relative = unicodedata.normalize("NFC", relative)
    if "\\" in relative:
        raise InvalidPathError(path, "it has a backslash; folders are separated by /")
    if relative.endswith("/"):
        raise InvalidPathError(path, "it names a folder, not a file")
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if not parts:
        raise InvalidPathError(path, "it is empty")
    if len(parts) > DEPTH_LIMIT:
        raise InvalidPathError(path, f"it has more than {DEPTH_LIMIT} folders")
    for part in parts:
        _check_part(path, part)
    relative = "/".join(parts)
    if len(relative.encode()) > _PATH_LIMIT:
        raise InvalidPathError(path, f"it is longer than {_PATH_LIMIT} bytes")
    return relative


def _check_characters(path: str, relative: str) -> None:
    for character in relative:
        category = unicodedata.category(character)
        if category == "Cs":
            raise InvalidPathError(ascii(path), "it is not valid Unicode")
        if category == "Cc":
            raise InvalidPathError(path, "it has a control character")
        if category in ("Cf", "Zl", "Zp") and character not in _JOINERS:
            raise InvalidPathError(path, "it has an invisible formatting character")


def _check_part(path: str, part: str) -> None:
    if part == "..":
        raise InvalidPathError(path, "it leaves the folder")
    if len(part.encode()) > _PART_LIMIT:
        raise InvalidPathError(path, f"a part of it is longer than {_PART_LIMIT} bytes")
    if part.startswith(TEMPORARY):
        raise InvalidPathError(path, f"names that begin with {TEMPORARY!r} are reserved")
    if WINDOWS:
        if any(character in '<>:"|?*' for character in part) or part[-1] in ". ":
            raise InvalidPathError(path, "Windows does not allow such a name")
        if part.split(".")[0].rstrip(" ").lower() in _DEVICES:
            raise InvalidPathError(path, "it names a device on Windows")


def is_listed(name: str) -> bool:
    """Tell whether `check_path` would take this name of a file or folder."""
    if name.isascii() and name.isprintable() and not WINDOWS:
        return "\\" not in name and not name.startswith(TEMPORARY)
    try:
        return check_path(name) == unicodedata.normalize("NFC", name)
    except InvalidPathError:
        return False
