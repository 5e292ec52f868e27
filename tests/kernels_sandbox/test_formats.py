"""Code in the sandbox reads the formats that agents are given and writes those they hand out.

It needs the whole environment for kernels: `CI_TOOLS_TEST_KERNEL_PYTHON` names the interpreter of
one, or the check `kernels` of `tests/run_checks.py` has built one in `build/kernel-env`.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ci_tools_kernels import Policy, write_kernelspec
from ci_tools_kernels.environment import PACKAGES, find_python, is_current
from tests.kernels_sandbox.rig import Session, open_session

BUILT = Path(__file__).parents[2] / "build" / "kernel-env"


def _find_python() -> str | None:
    named = os.environ.get("CI_TOOLS_TEST_KERNEL_PYTHON")
    built = find_python(BUILT) if is_current(BUILT) else None
    return named or (str(built) if built else None)


PYTHON = _find_python()

pytestmark = pytest.mark.skipif(PYTHON is None, reason="no environment for kernels was built")

WRITE = """
import io, json, tarfile, zipfile
import docx, matplotlib.pyplot as plt, pandas as pd, pptx
from PIL import Image
from reportlab.pdfgen import canvas

frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
frame.to_csv("t.csv", index=False)
frame.to_excel("t.xlsx", index=False)
frame.to_json("t.json")
frame.to_html("t.html")
frame.to_xml("t.xml")
plt.plot([1, 2])
plt.savefig("t.png")
plt.close()
for suffix in ("gif", "jpg", "jpeg"):
    Image.new("RGB", (4, 4), "red").save("t." + suffix)
document = docx.Document()
document.add_paragraph("hello")
document.save("t.docx")
slides = pptx.Presentation()
slides.slides.add_slide(slides.slide_layouts[0]).shapes.title.text = "hello"
slides.save("t.pptx")
page = canvas.Canvas("t.pdf")
page.drawString(72, 72, "hello")
page.save()
for suffix in "c cs cpp css java js md php py rb sh tex ts txt".split():
    open("t." + suffix, "w").write("hello")
with zipfile.ZipFile("t.zip", "w") as archive:
    archive.write("t.txt")
with tarfile.open("t.tar", "w") as archive:
    archive.add("t.txt")
open("t.doc", "wb").write(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504))
"""

READ = """
import tarfile, zipfile
import docx, pandas as pd, pdfplumber, pptx, pypdf
from bs4 import BeautifulSoup
from PIL import Image

for frame in (pd.read_csv("t.csv"), pd.read_excel("t.xlsx"), pd.read_xml("t.xml")[["a", "b"]]):
    assert frame["a"].tolist() == [1, 2], frame
assert pd.read_json("t.json")["b"].tolist() == ["x", "y"]
assert BeautifulSoup(open("t.html"), "lxml").find("td").text == "1"
for suffix in ("gif", "jpg", "jpeg", "png"):
    assert Image.open("t." + suffix).size[0] >= 4
assert docx.Document("t.docx").paragraphs[0].text == "hello"
assert pptx.Presentation("t.pptx").slides[0].shapes.title.text == "hello"
assert pypdf.PdfReader("t.pdf").pages[0].extract_text().strip() == "hello"
with pdfplumber.open("t.pdf") as document:
    assert document.pages[0].extract_text() == "hello"
for suffix in "c cs cpp css java js md php py rb sh tex ts txt".split():
    assert open("t." + suffix).read() == "hello"
assert zipfile.ZipFile("t.zip").read("t.txt") == b"hello"
assert tarfile.open("t.tar").extractfile("t.txt").read() == b"hello"
assert open("t.doc", "rb").read(8).hex() == "d0cf11e0a1b11ae1"
print("read everything")
"""

MODULES = {
    "beautifulsoup4": "bs4",
    "pillow": "PIL",
    "python-docx": "docx",
    "python-pptx": "pptx",
    "scikit-learn": "sklearn",
}


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    """A kernel of the environment that was named."""
    assert PYTHON is not None
    write_kernelspec(tmp_path / "kernels", name="full", python=PYTHON, policy=Policy())
    async with open_session(tmp_path / "kernels", tmp_path / "mine", name="full") as session:
        yield session


async def test_every_format_can_be_written_and_read(session: Session) -> None:
    written = await session.run(WRITE, timeout=60)
    read = await session.run(READ, timeout=60)

    assert written.error == ""
    assert read.error == ""
    assert read.text == "read everything\n"


async def test_every_package_can_be_imported(session: Session) -> None:
    names = [MODULES.get(name, name) for name, _, _ in (item.partition("==") for item in PACKAGES)]

    result = await session.run("\n".join(f"import {name}" for name in names), timeout=120)

    assert result.error == ""


async def test_figures_arrive_once(session: Session) -> None:
    shown = await session.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    left_open = await session.run("_ = plt.plot([1, 2])")

    assert [sorted(data) for data in shown.data] == [["image/png", "text/plain"]]
    assert [sorted(data) for data in left_open.data] == [["image/png", "text/plain"]]
