"""Which tests need what torch.compile needs."""

from __future__ import annotations

import os
import shutil

import pytest

NAMES = ("g++", "clang++")

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", ""), *NAMES))),
    reason="torch.compile needs a C++ compiler (g++), and there is none",
)
