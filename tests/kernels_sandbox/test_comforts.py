"""What code finds ready in a kernel, and how its errors and variables read."""

import os

from ci_tools.variables import list_variables
from tests.kernels_sandbox.rig import Session


async def test_traceback_is_short_and_names_the_line(session: Session) -> None:
    result = await session.run("def f():\n    return 1 / 0\nf()")

    assert result.error.splitlines() == [
        "Traceback (most recent call last):",
        "  Cell In[1], line 3",
        "        1 def f():",
        "        2     return 1 / 0",
        "  -->   3 f()",
        "  Cell In[1], line 2, in f",
        "        1 def f():",
        "  -->   2     return 1 / 0",
        "        3 f()",
        "ZeroDivisionError: division by zero",
    ]


async def test_traceback_through_a_library_shows_only_its_ends(session: Session) -> None:
    result = await session.run("import numpy\nnumpy.random.default_rng('x')")

    assert "Cell In[1], line 2" in result.error
    assert "\x1b[" not in result.error
    assert len(result.error.splitlines()) < 15


async def test_cause_of_an_error_comes_first(session: Session) -> None:
    result = await session.run(
        "try:\n    {}['a']\nexcept KeyError as exc:\n    raise ValueError('b') from exc"
    )

    lines = result.error.splitlines()
    assert lines.index("KeyError: 'a'") < lines.index("which led to:")
    assert lines[-1] == "ValueError: b"


async def test_variables_are_listed_for_people_and_models(session: Session) -> None:
    code = (
        "import numpy as np, pandas as pd\n"
        "x = 3\ny = [1, 2]\nz = np.zeros((2, 3))\ns = 'text'\nt = pd.DataFrame({'a': [1]})"
    )
    await session.run(code)
    result = await session.run("%variables")

    listed = result.data[0]["application/vnd.ci-tools.variables+json"]["variables"]
    rows = [[row["name"], row["type"], row["detail"]] for row in listed]
    assert ["z", "ndarray", "shape (2, 3), float64, 48 bytes"] in rows
    assert ["y", "list", "length 2"] in rows
    namespace: dict[str, object] = {}
    exec(code, namespace)
    assert rows == list_variables(namespace, {})  # the words of the service's own listing


async def test_installing_without_network_says_why(session: Session) -> None:
    result = await session.run("%pip install requests")

    assert "no network" in result.text


async def test_environment_holds_nothing_of_the_servers(session: Session) -> None:
    result = await session.run("import os\nprint(sorted(os.environ))")

    assert "PYTEST_CURRENT_TEST" not in result.text
    assert "HOME" in result.text


async def test_linear_algebra_uses_the_sessions_processors(session: Session) -> None:
    result = await session.run(
        "import ctypes, numpy\n"
        "paths = {line.split()[-1] for line in open('/proc/self/maps') if 'openblas' in line}\n"
        "get = ctypes.CDLL(paths.pop()).scipy_openblas_get_num_threads64_\n"
        "print(get(), numpy.ones((500, 500)).dot(numpy.ones((500, 500)))[0, 0])"
    )

    assert result.text == f"{min(2, os.cpu_count() or 1)} 500.0\n"
