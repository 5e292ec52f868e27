import pytest

from ci_tools_assistants.runs.annotations import annotate, find_mentions

FILES = {
    "out.csv": "file-out",
    "out.csv.gz": "file-gz",
    "my file (1).csv": "file-spaces",
    "größe.png": "file-unicode",
    "sub/a.txt": "file-sub",
    "README": "file-readme",
    "a_b.py": "file-underscore",
    "レポート.xlsx": "file-japanese",
}


def mentioned(text: str) -> list[tuple[str, str]]:
    for item in annotate(text, FILES):
        assert text[item["start_index"] : item["end_index"]] == item["text"]
    return [(item["text"], item["file_path"]["file_id"]) for item in annotate(text, FILES)]


@pytest.mark.parametrize(
    ("text", "link", "file_id"),
    [
        ("[Download](sandbox:/mnt/data/out.csv).", "sandbox:/mnt/data/out.csv", "file-out"),
        ("It is at sandbox:/mnt/data/out.csv.", "sandbox:/mnt/data/out.csv", "file-out"),
        ("See sandbox:/mnt/data/out.csv, please", "sandbox:/mnt/data/out.csv", "file-out"),
        ("(sandbox:/mnt/data/out.csv)", "sandbox:/mnt/data/out.csv", "file-out"),
        ("`sandbox:/mnt/data/out.csv`!", "sandbox:/mnt/data/out.csv", "file-out"),
        ("sandbox:/mnt/data/out.csv.gz", "sandbox:/mnt/data/out.csv.gz", "file-gz"),
        (
            "[x](sandbox:/mnt/data/my%20file%20(1).csv)",
            "sandbox:/mnt/data/my%20file%20(1).csv",
            "file-spaces",
        ),
        (
            "[x](sandbox:/mnt/data/my file (1).csv) and more",
            "sandbox:/mnt/data/my file (1).csv",
            "file-spaces",
        ),
        (
            "<sandbox:/mnt/data/my%20file%20%281%29.csv>",
            "sandbox:/mnt/data/my%20file%20%281%29.csv",
            "file-spaces",
        ),
        ("🎉 sandbox:/mnt/data/größe.png 🎉", "sandbox:/mnt/data/größe.png", "file-unicode"),
        (
            "sandbox:/mnt/data/gro\u0308\u00dfe.png",
            "sandbox:/mnt/data/gro\u0308\u00dfe.png",
            "file-unicode",
        ),
        ("sandbox:/mnt/data/gr%C3%B6%C3%9Fe.png", "sandbox:/mnt/data/gr%C3%B6%C3%9Fe.png", ""),
        ("sandbox:/mnt/data/sub/a.txt\nnext", "sandbox:/mnt/data/sub/a.txt", "file-sub"),
        ("sandbox:///mnt/data/README", "sandbox:///mnt/data/README", "file-readme"),
        (r"sandbox:/mnt/data/a\_b.py", r"sandbox:/mnt/data/a\_b.py", "file-underscore"),
        ("sandbox:/mnt/data/out.csvをどうぞ", "sandbox:/mnt/data/out.csv", "file-out"),
        ("sandbox:/mnt/data/レポート.xlsxです", "sandbox:/mnt/data/レポート.xlsx", ""),
    ],
)
def test_a_mention_is_found_as_it_is_written(text: str, link: str, file_id: str) -> None:
    [(found, id)] = mentioned(text)

    assert found == link
    assert id == file_id or not file_id


@pytest.mark.parametrize(
    "text",
    [
        "sandbox:/mnt/data/",
        "sandbox:/mnt/data/none.csv",
        "sandbox:/mnt/data/out.csvx",
        "sandbox:/mnt/data/out.csv.bz2",
        "sandbox:/mnt/data/README.md",
        "sandbox:/mnt/data/Readme",
        "sandbox:/mnt/data/../out.csv",
        "/mnt/data/out.csv",
        "sandbox:/tmp/out.csv",
        "",
    ],
)
def test_what_names_no_file_is_no_mention(text: str) -> None:
    assert mentioned(text) == []


def test_every_occurrence_is_annotated_with_its_own_indices() -> None:
    link = "sandbox:/mnt/data/out.csv"
    text = f"😀 [a]({link}) and [b]({link}), {link} {link}.gz"

    found = annotate(text, FILES)

    assert [item["text"] for item in found] == [link, link, link, f"{link}.gz"]
    assert [text[item["start_index"] : item["end_index"]] for item in found] == [
        item["text"] for item in found
    ]
    assert found[0] == {
        "type": "file_path",
        "text": link,
        "file_path": {"file_id": "file-out"},
        "start_index": 6,
        "end_index": 31,
    }


def test_what_is_found_in_unfinished_text_stays_found() -> None:
    text = (
        "One sandbox:/mnt/data/out.csv, two [x](sandbox:/mnt/data/my%20file%20(1).csv) "
        "three sandbox:/mnt/data/out.csv.gz, four sandbox:/mnt/data/none.csv five "
        "sandbox:/mnt/data/README"
    )
    final = list(find_mentions(text, FILES))
    counts = []
    for end in range(len(text) + 1):
        partial = list(find_mentions(text[:end], FILES, is_final=False))
        assert partial == final[: len(partial)]
        counts.append(len(partial))

    assert len(final) == 4
    assert counts == sorted(counts)
    assert counts[text.index("two") + 20] == 1
    assert counts[text.index("four")] >= 2


@pytest.mark.parametrize("filler", ["%!", "%41", "\\_", "é", "e\u0301", "%C3", "a", "\\%25"])
def test_long_names_are_found_in_linear_time_whatever_follows_them(filler: str) -> None:
    name = "n" * 200
    link = f"sandbox:/mnt/data/{name}"
    files = {name: "file-n"} | {f"{name[:size]}.": "file-x" for size in range(1, 200)}
    text = (f"{link} " + filler * (360 // len(filler))) * 450

    found = annotate(text, files)

    assert len(found) == 450
    assert {text[item["start_index"] : item["end_index"]] for item in found} == {link}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sandbox:/mnt/data/cafe\u0301.txt", []),  # not the file `cafe` with an accent behind it
        ("sandbox:/mnt/data/caf%C3%A9.txt", ["café.txt"]),
        ("sandbox:/mnt/data/caf\u00e9.txt", ["café.txt"]),
        (r"sandbox:/mnt/data/100\%25\_b.txt", ["100%_b.txt"]),
    ],
)
def test_names_are_found_in_each_way_they_are_written(text: str, expected: list[str]) -> None:
    paths = ["cafe", *expected, "100"]

    assert [mention.path for mention in find_mentions(text, paths)] == expected


def test_many_links_and_names_are_found_in_linear_time() -> None:
    files = {f"file{number}.csv": "file-x" for number in range(1000)}
    text = "sandbox:/mnt/data/" + "a " * 2000 + "sandbox:/mnt/data/file7.csv " * 5000

    assert len(annotate(text, files)) == 5000
