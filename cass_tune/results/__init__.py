"""Where every record of a study lies: the only package that knows a file name.

    stages/<stage id>/   config.json, environment.json, epochs/<attempt>.jsonl, checkpoints/, holder.json,
                         epoch-0100/{cnn,vit,state}.safetensors and run.json (last: the end of epoch 100 is there),
                         wanted/<hash>.json: which trials want the ends of which epochs
    trials/<trial id>/   config.json, environment.json, epochs/<attempt>.jsonl, attempts/<attempt>.json, checkpoints/,
                         holder.json, probes.json, predictions.parquet, {cnn,vit}.safetensors, log.txt, failure.json,
                         validated.json (of a search: finished but for the test images),
                         ends/<arm>/ (of a population: states that the next generation goes on from),
                         result.json (last: the trial is finished)
    <study>/<data>-<preset>/   plans/<time>.json; derived: tables/, plots/, report.{html,md}, bundle.zip, journal.log,
                         index.csv, results.{parquet,csv} (a row per trial and arm), epochs.{parquet,csv} (per trial,
                         phase and epoch), predictions.parquet (per trial, arm, part and image);
                         search/<search id>/: suggestions/<number>.json, outcomes/<number>.json, holder.json, and
                         journal.log, the same for Optuna (derived)
    splits/<hash>.json   which image is in which part, once for all trials that have the same parts
    cards/<hash>.json    memory and speed that were measured of one kind of training step on one kind of GPU
    choices/compile-<hash>.json   what --compile auto has become, and what was measured for it
    ray/<study>/<time>/  Ray's own records; stop: the driver asks its trials to stop

The root is a local or shared folder, or an object store (`cass_tune.storage`).
"""

from cass_tune.results.folder import Folder
from cass_tune.results.records import Record, new_attempt, now, read_rows
from cass_tune.results.root import CONFIG_FILE, SPLIT_DIGITS, Results, StudyFolder, default_root, find_study
from cass_tune.results.search import SearchFolder
from cass_tune.results.stage import StageFolder
from cass_tune.results.trial import TrialFolder

__all__ = [
    "CONFIG_FILE",
    "SPLIT_DIGITS",
    "Folder",
    "Record",
    "Results",
    "SearchFolder",
    "StageFolder",
    "StudyFolder",
    "TrialFolder",
    "default_root",
    "find_study",
    "new_attempt",
    "now",
    "read_rows",
]
