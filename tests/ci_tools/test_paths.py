import pytest

from ci_tools import paths
from ci_tools.errors import InvalidPathError
from ci_tools.paths import check_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", "a"),
        ("a/b.csv", "a/b.csv"),
        ("./a//b/./c", "a/b/c"),
        ("/mnt/data/a/b", "a/b"),
        ("/mnt/data//a", "a"),
        ("sandbox:/mnt/data/a", "a"),
        ("sandbox:a", "a"),
        ("mnt/data/a", "mnt/data/a"),
        (".hidden", ".hidden"),
        ("...", "..."),
        ("a b/ü (1).csv", "a b/ü (1).csv"),
        ("u\u0308.txt", "ü.txt"),
        ("4.03\u202fPM.png", "4.03\u202fPM.png"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("x" * 255, "x" * 255),
        ("con", "con"),
        ("/".join("a" * 64), "/".join("a" * 64)),
    ],
)
def test_a_path_becomes_relative_and_composed(path: str, expected: str) -> None:
    assert check_path(path) == expected
    assert check_path(expected) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "./",
        "/",
        "/mnt/data",
        "/mnt/data/",
        "sandbox:",
        "..",
        "../a",
        "a/../b",
        "a/..",
        "/mnt/data/../a",
        "/mnt/data2/a",
        "/etc/passwd",
        "sandbox:/etc/passwd",
        "//server/share",
        "a/",
        "a\x00b",
        "a\nb",
        "a\x7f",
        "a\x85",
        "a\\b",
        "..\\a",
        "C:\\a",
        "evil\u202efdp.exe",
        "a\u2066b",
        "a\u200bb",
        "a\ufeff",
        "a\u2028b",
        "tag\U000e0041",
        "\ud800",
        "a\udcff",
        "x" * 256,
        "ü" * 128,
        "/".join(["x" * 200] * 6),
        "/".join("a" * 65),
        ".ci-tools-part-1",
        "a/.ci-tools-part-1/b",
    ],
)
def test_a_path_that_leaves_or_deceives_is_refused(path: str) -> None:
    with pytest.raises(InvalidPathError) as caught:
        check_path(path)

    str(caught.value).encode()  # the message can be sent


@pytest.mark.parametrize(
    "path", ["con", "a/NUL", "nul.txt", "Com1.log", "lpt9 .x", "a:b", "a?", 'a"', "a.", "a "]
)
def test_names_that_windows_reserves_are_refused_there(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "WINDOWS", True)

    with pytest.raises(InvalidPathError):
        check_path(path)
    assert check_path("console.txt") == "console.txt"
