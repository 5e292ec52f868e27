"""The client is small: what it loads of the core, and of other people's packages."""

import subprocess
import sys


def test_the_client_loads_no_service_and_no_other_adapter() -> None:
    program = (
        "import sys; from ci_tools_client import RemoteService, open_client; "
        "print(' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    loaded = set(done.stdout.split())
    assert "httpx2" in loaded
    assert not {"ci_tools.service", "ci_tools.settings", "sqlalchemy", "obstore"} & loaded
    assert not {"langchain_core", "openai", "mcp", "starlette", "ci_tools_jupyter"} & loaded
