"""Running trials by Ray Tune; the only package that imports Ray, and nothing imports it before trials run."""

from cass_tune.runner.devices import Machine, gpus_of, gpus_of_nodes, kinds_of, machines, mixed_lines, one_of_each
from cass_tune.runner.nodes import check_inputs, check_nodes
from cass_tune.runner.placing import Demand
from cass_tune.runner.probing import Together, places_on_a_card, probe_there, probe_together
from cass_tune.runner.scheduler import StudyScheduler
from cass_tune.runner.session import check_resources, cluster_gpus, ray_session
from cass_tune.runner.trainable import trainable
from cass_tune.runner.tuner import run_trials

__all__ = [
    "Demand",
    "Machine",
    "StudyScheduler",
    "Together",
    "check_inputs",
    "check_nodes",
    "check_resources",
    "cluster_gpus",
    "gpus_of",
    "gpus_of_nodes",
    "kinds_of",
    "machines",
    "mixed_lines",
    "one_of_each",
    "places_on_a_card",
    "probe_there",
    "probe_together",
    "ray_session",
    "run_trials",
    "trainable",
]
