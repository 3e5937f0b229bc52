"""OpenCV, imported without a trace: it sets LD_LIBRARY_PATH for every process that is started later."""

from __future__ import annotations

import os

_before = os.environ.get("LD_LIBRARY_PATH")
import cv2  # noqa: E402

if _before is None:
    os.environ.pop("LD_LIBRARY_PATH", None)
else:
    os.environ["LD_LIBRARY_PATH"] = _before
cv2.setNumThreads(1)  # a trial has one thread unless it asks for more, and loaders share a machine

__all__ = ["cv2"]
