"""Running trials one after the other in this process, without Ray."""

from __future__ import annotations

import signal
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from cass_tune.errors import Held, HoldLost, Interrupted, StorageError, Terminated
from cass_tune.fitting import Fitter
from cass_tune.notices import stopped_by_signals
from cass_tune.plan import Wanted
from cass_tune.results import Results
from cass_tune.run import Run
from cass_tune.run_options import RunOptions

ASK_EVERY_S = 2.0


class OneByOne:
    """Runs trials one after the other, of those that no other process computes always the first in line.

    Args:
        run: the trials.
        results: root of all records.
        options: of every trial.
        fitter: says how a trial fits on a GPU.
        kinds: of GPU here, none or one.
        failures: identities of recorded failures, which are tried again, by the trial's; they may become more.
    """

    def __init__(
        self,
        run: Run,
        results: Results,
        options: RunOptions,
        fitter: Fitter,
        kinds: Sequence[str],
        failures: Mapping[str, str | None],
    ) -> None:
        self._run = run
        self._results = results
        self._options = options
        self._fitter = fitter
        self._kinds = kinds
        self._failures = failures
        self._tries: Counter[str] = Counter()
        self._short_of_memory: set[str] = set()
        """Trials that run out of memory in this process."""

    def __call__(self) -> None:
        """Run them, those that are found meanwhile as well.

        Raises:
            Terminated: by SIGTERM.
        """
        run = self._run
        line = run.rest()
        with run.progress.shown(), stopped_by_signals(run.stop) as came:
            while run.stop.reason is None:
                while (further := run.next()) is not None:
                    line.append(further)
                if not line:
                    break
                with run.gate.round():
                    item = next(filter(run.gate, line), None)
                if item is None and run.gate.is_closed(line):
                    break
                if item is None:
                    run.events.waiting()
                    time.sleep(ASK_EVERY_S)
                elif self._try(item):
                    line = [other for other in line if not run.events.has_settled(str(other.digest))]
                else:
                    run.gate.hold_back(item)
                    line.sort(key=lambda other, last=item: other is last)
        if came and came[0] != signal.SIGINT:
            raise Terminated

    def _fitted(self, item: Wanted) -> RunOptions:
        """Return the options of a trial as it fits on the GPU of this process, if there is one."""
        options, fitter, kinds = self._options, self._fitter, self._kinds
        if str(item.digest) in self._short_of_memory or fitter.refusals([item], kinds):
            return replace(options, activation_checkpointing=fitter.alone.checkpointing)
        return replace(options, activation_checkpointing=fitter(item, kinds[0]).checkpointing) if kinds else options

    def _try(self, item: Wanted) -> bool:
        """Run one trial; return False when another process holds what it needs."""
        from cass_tune.training.card_memory import is_out_of_memory
        from cass_tune.trial import is_final, may_pass, run_trial

        digest, folder = str(item.digest), self._results.trial(str(item.digest))
        options, events, known = self._fitted(item), self._run.events, self._failures[digest]
        events.started(digest)
        try:
            rows = run_trial(
                item.trial,
                self._results,
                replace(options, test=item.is_tested, generation_epochs=item.generation_epochs),
                item.inputs,
                stop=self._run.stop,
                known_failure=known,
                pruning=item.pruning,
            )
            with closing(rows):
                for row in rows:
                    events.row(digest, row)
        except (Held, HoldLost) as error:
            events.left(digest, str(error))
            return False
        except Interrupted as error:
            events.left(digest, str(error))
            self._run.stop.request(str(error))  # of this machine, which all trials run on
        except StorageError as error:
            events.left(digest, str(error))
            raise
        except Exception as error:  # recorded by the trial where it can; the other trials go on
            if is_out_of_memory(error) and digest not in self._short_of_memory:
                self._short_of_memory.add(digest)
                events.left(digest, "the GPU's memory was not enough; it is tried again once")
                return True
            self._tries[digest] += 1
            if not is_final(error) and self._tries[digest] <= options.max_failures:
                events.left(digest, f"{type(error).__name__}: {error}")
                return True
            if folder.failure() is None:
                folder.fail(type(error).__name__, str(error), traceback.format_exc(), may_pass=may_pass(error))
            events.failed(digest)
        else:
            events.ended(digest)
        return True
