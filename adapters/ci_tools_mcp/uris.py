"""The addresses of our resources."""

from urllib.parse import quote

ABOUT = "ci://about"
"""What this server is and which kernels it has."""

FILE = "ci://sessions/{session_id}/files/{+path}"
"""A file of a session."""

STEP = "ci://sessions/{session_id}/steps/{step_id}"
"""A run step with its whole output, as JSON."""

IMAGE = "ci://sessions/{session_id}/steps/{step_id}/images/{name}"
"""An image of a step, by its number: `1.png`."""

NOTEBOOK = "ci://sessions/{session_id}/notebook.ipynb"
"""A session's history as a notebook."""

VARIABLES = "ci://sessions/{session_id}/variables"
"""The variables of a session's kernel, as JSON."""

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}
"""How the name of an image ends."""


def file_uri(session_id: str, path: str) -> str:
    """Return the address of a file in a session."""
    return f"ci://sessions/{session_id}/files/{quote(path)}"


def step_uri(session_id: str, step_id: str) -> str:
    """Return the address of a run step."""
    return f"ci://sessions/{session_id}/steps/{step_id}"


def image_uri(session_id: str, step_id: str, number: int, media_type: str) -> str:
    """Return the address of an image of a step."""
    return f"{step_uri(session_id, step_id)}/images/{number}.{EXTENSIONS[media_type]}"


def notebook_uri(session_id: str) -> str:
    """Return the address of a session's notebook."""
    return f"ci://sessions/{session_id}/notebook.ipynb"


def variables_uri(session_id: str) -> str:
    """Return the address of the variables of a session's kernel."""
    return f"ci://sessions/{session_id}/variables"
