"""What a model may be talked into writing must not hold up the service."""

from collections.abc import Iterator

import pytest

from ci_tools_assistants import annotations

LONG = "a" * 195 + ".csv"


@pytest.mark.parametrize(
    "text",
    [
        "sandbox:/mnt/data/ " * 10_000,
        ("sandbox:/mnt/data/ " + r"% \!" * 120) * 400,
        ("sandbox:/mnt/data/" + "a" * 193 + r"% \!" * 120) * 400,
    ],
)
def test_each_link_to_nothing_is_read_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    readings = annotations._readings

    def count(written: str) -> Iterator[str]:
        read.append(written)
        return readings(written)

    monkeypatch.setattr(annotations, "_readings", count)

    assert annotations.annotate(text, {LONG: "file-1"}) == []
    assert len(read) <= text.count("sandbox:")


def test_names_are_found_behind_links_that_name_nothing() -> None:
    link = f"sandbox:/mnt/data/{LONG}"
    text = f"sandbox:/mnt/data/ sandbox:/mnt/data/b.csv {link}."

    assert [one["text"] for one in annotations.annotate(text, {LONG: "file-1"})] == [link]
