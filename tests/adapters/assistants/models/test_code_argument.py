import json

import pytest

from ci_tools_assistants.models import CodeArgumentDecoder, create_code_tool, find_code
from ci_tools_assistants.models.code_argument import find_code_tool

CODES = (
    "",
    "print(1)",
    'x = "a\\n"\nprint(x)\t# \\ "quoted"',
    "print('äöü € 😀 𝒳')",
    "\b\f\r/\x01",
    "a" * 500,
)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
@pytest.mark.parametrize("ascii", [True, False])
def test_code_is_the_same_in_whatever_fragments_it_comes(code: str, size: int, ascii: bool) -> None:
    text = json.dumps({"code": code}, ensure_ascii=ascii)
    decoder = CodeArgumentDecoder()

    pieces = [decoder.add(text[start : start + size]) for start in range(0, len(text), size)]

    assert "".join(pieces) == code == decoder.code
    assert decoder.rest(code) == ""


def test_pieces_come_as_soon_as_they_are_known() -> None:
    decoder = CodeArgumentDecoder()

    fragments = [
        ' {\n "co',
        'de" :',
        ' "pr',
        "int(",
        "\\",
        "n",
        "\\ud83d",
        "\\u",
        "de00",
        ')"',
        "}",
    ]
    pieces = [decoder.add(fragment) for fragment in fragments]

    assert pieces == ["", "", "pr", "int(", "", "\n", "", "", "😀", ")", ""]


def test_half_of_a_pair_is_replaced_in_both_ways() -> None:
    text = '{"code": "a\\ud83db\\ude00c\\ud83d\\ud83d\\ude00"}'
    decoder = CodeArgumentDecoder()

    streamed = "".join(decoder.add(character) for character in text)

    assert streamed == find_code(text) == "a\ufffdb\ufffdc\ufffd😀"


def test_code_after_another_key_comes_at_the_end() -> None:
    text = json.dumps({"timeout": 5, "code": "print(1)"})
    decoder = CodeArgumentDecoder()

    streamed = decoder.add(text)
    code = find_code(text)

    assert streamed == ""
    assert code == "print(1)"
    assert decoder.rest(code) == "print(1)"


@pytest.mark.parametrize("text", ["", "{", '{"code": 5}', "[]", "print(1)", '{"code": "pri'])
def test_arguments_without_code_have_none(text: str) -> None:
    assert find_code(text) is None


def test_tool_gives_way_to_a_function_of_its_name() -> None:
    names = {"code_interpreter", "f"}

    assert create_code_tool()["function"]["name"] == "code_interpreter"
    assert create_code_tool(names)["function"]["name"] == "ci_code_interpreter"


@pytest.mark.parametrize("other", ["code_interpreter", "my_code_interpreter", "f"])
def test_tool_is_told_from_functions_with_like_names(other: str) -> None:
    function = {"type": "function", "function": {"name": other, "description": "Mine."}}
    tool = create_code_tool({other})

    assert find_code_tool([function, tool]) == tool["function"]["name"]
    assert find_code_tool([function]) is None
