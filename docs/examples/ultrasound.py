"""Ultrasound images as a clinic exports them: PATIENT/benign_01.png, the patients of hospital B for testing."""

from __future__ import annotations

from cass_tune.config import Data
from cass_tune.data.collect import Candidate, Found, collect, data_root
from cass_tune.data.index import Progress
from cass_tune.data.listing import Listing


def ultrasound(data: Data, progress: Progress) -> Listing:
    """Return the images below --data.root."""
    root = data_root(data)
    files = [path.relative_to(root) for path in sorted(root.glob("*/*.png"))]
    candidates = [
        Candidate(
            path=path.as_posix(),
            label=path.name.partition("_")[0],
            split="test" if path.parts[0].startswith("B") else "train",
            group=path.parts[0],
        )
        for path in files
    ]
    labels = {candidate.label for candidate in candidates}
    return collect(data, Found(root=root, candidates=candidates, classes={"train": labels, "test": labels}), progress)
