"""Running trials by Ray Tune; the only package that imports Ray, and nothing imports it before trials run."""

from cass_tune.runner.probing import Together, cards, probe_there, probe_together
from cass_tune.runner.scheduler import StudyScheduler
from cass_tune.runner.session import check_nodes, check_resources, cluster_gpus, ray_session
from cass_tune.runner.trainable import trainable
from cass_tune.runner.tuner import run_trials

__all__ = [
    "StudyScheduler",
    "Together",
    "cards",
    "check_nodes",
    "check_resources",
    "cluster_gpus",
    "probe_there",
    "probe_together",
    "ray_session",
    "run_trials",
    "trainable",
]
