"""What all tests share: kernels run in the tests' own environment, so that none is built."""

import os
import sys

os.environ.setdefault("CI_TOOLS_KERNEL_PYTHON", sys.executable)
