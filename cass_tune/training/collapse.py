"""Is the pretraining still telling images apart? Per arm feature std and effective rank, and the arms' agreement.

Measured on the outputs of an epoch's last training batches, without another pass.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cass_tune.training.healthy import COLLAPSED_BELOW, HEALTHY_STD

SAMPLES = 512


def feature_std(outputs: Tensor) -> float:
    """Return the std of L2-normalised outputs over images, mean over dimensions, times sqrt(dimensions).

    About 1 for outputs spread evenly over the sphere, 0 for a constant output (Chen and He 2021, SimSiam, section 4.1).

    Args:
        outputs: shape (images, embedding_dim), at least two images.
    """
    normalised = F.normalize(outputs, dim=1)
    return float(normalised.std(dim=0).mean()) * math.sqrt(outputs.shape[1])


def effective_rank(outputs: Tensor) -> float:
    """Return exp(entropy) of the singular values' shares (RankMe: Garrido et al. 2023, equation 2), at least 1.

    The outputs are centred first, so that a shared offset does not count as a dimension.

    Args:
        outputs: shape (images, embedding_dim).
    """
    values = torch.linalg.svdvals(outputs - outputs.mean(dim=0))
    if float(values.sum()) <= 1e-12:
        return 1.0
    share = values / values.sum()
    return float(torch.exp(-(share * torch.log(share + 1e-12)).sum()))


@dataclass(frozen=True, kw_only=True)
class Health:
    """State of both arms after an epoch.

    Args:
        feature_std: by arm, see `feature_std`.
        effective_rank: by arm, see `effective_rank`.
        agreement: mean cosine of the arms' outputs for the same image, between -1 and 1; None where each arm has a
            space of outputs of its own.
        mismatched_agreement: the same for different images; equal to `agreement` when nothing is told apart.
        healthy_std: feature std of outputs that are well.
    """

    feature_std: Mapping[str, float]
    effective_rank: Mapping[str, float]
    agreement: float | None = None
    mismatched_agreement: float | None = None
    healthy_std: float = HEALTHY_STD

    @property
    def collapsed(self) -> bool:
        """Whether an arm's outputs hardly differ between images."""
        return min(self.feature_std.values()) < COLLAPSED_BELOW * self.healthy_std

    def row(self) -> dict[str, float | None]:
        """Return the columns of an epoch's row."""
        stds = {f"{arm}_feature_std": value for arm, value in self.feature_std.items()}
        ranks = {f"{arm}_effective_rank": value for arm, value in self.effective_rank.items()}
        return {**stds, **ranks, "agreement": self.agreement, "mismatched_agreement": self.mismatched_agreement}


class HealthMonitor:
    """Keeps the last outputs of an epoch and measures them.

    Args:
        outputs: of earlier batches of the epoch, when it goes on after an interruption.
    """

    def __init__(self, outputs: Iterable[Mapping[str, Tensor]] = ()) -> None:
        self._outputs = deque(dict(batch) for batch in outputs)

    def add(self, outputs: Mapping[str, Tensor]) -> None:
        """Keep a batch of outputs, each (batch, embedding_dim); of several batches at most SAMPLES images stay."""
        self._outputs.append({arm: tensor.detach().float() for arm, tensor in outputs.items()})
        while sum(len(batch["cnn"]) for batch in self._outputs) > SAMPLES and len(self._outputs) > 1:
            self._outputs.popleft()

    def tensors(self) -> dict[str, Tensor]:
        """Return the outputs kept, by ``<number of the batch>/<arm>``."""
        return {f"{number}/{arm}": value for number, batch in enumerate(self._outputs) for arm, value in batch.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device) -> HealthMonitor:
        """Return the monitor whose `tensors` these are, on a device."""
        batches: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            number, _, arm = key.partition("/")
            batches.setdefault(int(number), {})[arm] = value.to(device)
        return cls(batches[number] for number in sorted(batches))

    def measure(self, *, is_common: bool = True, healthy_std: float = HEALTHY_STD) -> Health:
        """Return the state of the arms over the images kept, and forget them.

        Args:
            is_common: whether both arms' outputs lie in one space, so that they can be compared.
            healthy_std: see `Health`.
        """
        kept = {arm: torch.cat([batch[arm] for batch in self._outputs]).cpu() for arm in ("cnn", "vit")}
        self._outputs.clear()
        return Health(
            feature_std={arm: feature_std(outputs) for arm, outputs in kept.items()},
            effective_rank={arm: effective_rank(outputs) for arm, outputs in kept.items()},
            healthy_std=healthy_std,
            **(_agreement(kept["cnn"], kept["vit"]) if is_common else {}),
        )


def _agreement(cnn: Tensor, vit: Tensor) -> dict[str, float]:
    cosines = F.normalize(cnn, dim=1) @ F.normalize(vit, dim=1).T
    count = len(cosines)
    matched = float(cosines.diagonal().mean())
    others = (float(cosines.sum()) - matched * count) / (count * (count - 1))
    return {"agreement": matched, "mismatched_agreement": others}
