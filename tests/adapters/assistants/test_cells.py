"""Cells as the fake kernel runs them; what is sent is always compared with what is stored."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from tests.adapters.assistants.desk import PIXEL, SHOW_PIXEL, Desk, logs_of, open_desk

IMAGE = f'{{"image/png": "{PIXEL}"}}'

IMPORT = "from IPython.display import clear_output, display, update_display"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    backend = FakeBackend(tmp_path / "folders")
    settings = Settings(state_dir=tmp_path / "state", interrupt_grace=1)
    async with open_service(settings, backend=backend) as service, open_desk(service) as desk:
        yield desk


async def test_only_the_last_picture_of_an_animation_is_shown(desk: Desk) -> None:
    code = f"""
{IMPORT}
for number in range(5):
    clear_output(wait=True)
    print(number)
    display({IMAGE}, raw=True)
"""

    done = await desk.run(code, await desk.add_thread())

    assert [output["type"] for output in done.outputs] == ["logs", "image"]
    assert done.outputs[0]["logs"] == "4"


async def test_what_was_sent_before_a_clearing_stays(desk: Desk) -> None:
    code = f"{IMPORT}\nprint('first')\nclear_output()\nprint('second')"

    done = await desk.run(code, await desk.add_thread())

    assert logs_of(done) == "first\nsecond"
    assert done.tool_text == "second"


async def test_a_clearing_without_output_after_it_changes_nothing(desk: Desk) -> None:
    done = await desk.run(f"{IMPORT}\nprint('a')\nclear_output(wait=True)", await desk.add_thread())

    assert logs_of(done) == "a"


async def test_a_display_is_shown_as_it_is_at_the_end(desk: Desk) -> None:
    code = f"""
{IMPORT}
display({{"text/plain": "0 %"}}, raw=True, display_id="bar")
print("working")
update_display({{"text/plain": "100 %"}}, raw=True, display_id="bar")
"""

    done = await desk.run(code, await desk.add_thread())

    assert logs_of(done) == "working\n100 %"


async def test_a_display_that_became_a_picture_is_one_picture(desk: Desk) -> None:
    code = f"""
{IMPORT}
display({{"text/plain": "drawing"}}, raw=True, display_id="plot")
update_display({IMAGE}, raw=True, display_id="plot")
update_display({IMAGE}, raw=True, display_id="plot")
"""

    done = await desk.run(code, await desk.add_thread())

    assert [output["type"] for output in done.outputs] == ["image"]


async def test_code_that_shows_nothing_has_no_outputs(desk: Desk) -> None:
    done = await desk.run("x = 1", await desk.add_thread())

    assert done.outputs == []
    assert done.tool_text == "(no output)"


async def test_only_so_many_images_become_files(desk: Desk) -> None:
    done = await desk.run(SHOW_PIXEL + "\n" + SHOW_PIXEL * 59, await desk.add_thread())

    kinds = [output["type"] for output in done.outputs]
    assert kinds.count("image") == 50
    assert kinds[-1] == "logs"


async def test_only_so_many_files_are_published(desk: Desk) -> None:
    code = "for number in range(120): open(f'{number}.txt', 'w').write('x')"

    thread = await desk.add_thread()

    done = await desk.run(code, thread)
    async with desk.open(thread) as workbench:
        told = workbench.describe()

    assert told.endswith("- and 50 more that code made or changed")
    assert len(done.made_files) == 100
    assert "Only 100 of 120 new files can be downloaded" in done.tool_text
