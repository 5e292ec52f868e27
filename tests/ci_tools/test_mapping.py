import pytest

from ci_tools import DisplayOutput, ErrorOutput, StreamOutput
from ci_tools.mapping import PathMapper, mask

ROOT = "/var/state/sessions/sess_abc/data"


@pytest.mark.parametrize(
    ("code", "mapped"),
    [
        ("open('/mnt/data/a.csv')", f"open('{ROOT}/a.csv')"),
        ("cd /mnt/data", f"cd {ROOT}"),
        ("'sandbox:/mnt/data/x'", f"'{ROOT}/x'"),
        ("'/mnt/database'", "'/mnt/database'"),
        ("'/home/mnt/data/x'", "'/home/mnt/data/x'"),
        ("'/mnt/data.old'", "'/mnt/data.old'"),
        ("x = 1", "x = 1"),
    ],
)
def test_literal_paths_in_code_are_mapped(code: str, mapped: str) -> None:
    assert PathMapper(ROOT).to_code(code) == mapped


def test_nothing_is_mapped_where_the_folder_is_bound() -> None:
    mapper = PathMapper("/mnt/data")

    assert mapper.to_code("open('/mnt/data/a')") == "open('/mnt/data/a')"


def test_real_path_in_every_kind_of_output_is_mapped_back() -> None:
    mapper = PathMapper(ROOT)

    assert mapper.to_event(StreamOutput(name="stdout", text=f"{ROOT}/a\n")) == StreamOutput(
        name="stdout", text="/mnt/data/a\n"
    )
    assert mapper.to_event(
        DisplayOutput(kind="result", data={"text/html": f"<a>{ROOT}</a>", "application/json": 1})
    ) == DisplayOutput(kind="result", data={"text/html": "<a>/mnt/data</a>", "application/json": 1})
    assert mapper.to_event(
        ErrorOutput(name="E", message=ROOT, traceback=f"File {ROOT}/x.py")
    ) == ErrorOutput(name="E", message="/mnt/data", traceback="File /mnt/data/x.py")


def test_path_that_is_split_between_two_pieces_is_mapped() -> None:
    mapper = PathMapper(ROOT)
    pieces = [f"at {ROOT[:10]}", f"{ROOT[10:]}/a and {ROOT[:20]}"]

    texts = []
    for piece in pieces:
        event = mapper.to_event(StreamOutput(name="stdout", text=piece))
        assert isinstance(event, StreamOutput)
        texts.append(event.text)
    texts += [output.text for output in mapper.rest()]

    assert "".join(texts) == f"at /mnt/data/a and {ROOT[:20]}"


SECRET = "hunter2\\hunter2"
"""Python and JSON double its backslash when they quote it."""


def test_secrets_in_every_kind_of_output_are_masked() -> None:
    mapper = PathMapper("/mnt/data", secrets=[SECRET])

    assert mapper.to_event(StreamOutput(name="stderr", text=f"a {SECRET}\n")) == StreamOutput(
        name="stderr", text="a ***\n"
    )
    assert mapper.to_event(
        DisplayOutput(
            kind="result", data={"text/plain": repr(SECRET), "application/json": {"k": [SECRET, 1]}}
        )
    ) == DisplayOutput(
        kind="result", data={"text/plain": "'***'", "application/json": {"k": ["***", 1]}}
    )
    assert mapper.to_event(
        ErrorOutput(name="E", message=SECRET, traceback=f"E: {SECRET}")
    ) == ErrorOutput(name="E", message="***", traceback="E: ***")


def test_secret_that_arrives_piece_by_piece_is_masked() -> None:
    mapper = PathMapper("/mnt/data", secrets=[SECRET])

    texts = []
    for piece in f"it is {SECRET}, h":
        event = mapper.to_event(StreamOutput(name="stdout", text=piece))
        assert isinstance(event, StreamOutput)
        texts.append(event.text)
    texts += [output.text for output in mapper.rest()]

    assert "".join(texts) == "it is ***, h"


def test_secret_within_another_leaves_nothing_of_it() -> None:
    assert mask("abcdefgh-ijklmnop", ["abcdefgh", "abcdefgh-ijklmnop"]) == "***"
