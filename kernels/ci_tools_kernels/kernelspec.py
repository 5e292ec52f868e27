"""Kernelspecs: how a Jupyter Server learns of these kernels."""

import json
from pathlib import Path

from ci_tools_kernels.policy import Policy, to_config

PROVISIONER = "ci-tools-sandbox"
"""The entry point in the group `jupyter_client.kernel_provisioners`."""


def write_kernelspec(
    folder: Path,
    *,
    python: str,
    policy: Policy | None = None,
    name: str = "ci-tools-python",
    display_name: str = "Python (ci-tools sandbox)",
) -> Path:
    """Write `folder/name/kernel.json`, for kernels of the interpreter `python`; return its folder.

    A server looks for kernelspecs in the folder `kernels` of each path in `JUPYTER_PATH`. The
    interpreter needs ipykernel, and nothing of ours.
    """
    spec = {
        # The words after the interpreter are for readers: the provisioner starts kernels itself.
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": display_name,
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {
            "kernel_provisioner": {
                "provisioner_name": PROVISIONER,
                "config": to_config(policy or Policy()),
            }
        },
    }
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    (target / "kernel.json").write_text(json.dumps(spec, indent=1))
    return target
