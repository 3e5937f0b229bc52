"""The report: what it says of studies in every state, and that its page needs nothing but itself."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.groups import split
from analysis.report import Report, gather, main, question, write
from analysis.results import load
from analysis.verdict import pairs
from cass_tune.config import ARMS, with_field
from cass_tune.errors import UsageError
from cass_tune.results import StudyFolder
from tests.analysis.synthetic import SMALL, Root, cells
from tests.small import local

REPOSITORY = Path(__file__).parents[2]
TRIALS = cells(SMALL, "pretrain.batch_size", (8, 16), (0, 1, 2))
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects what the page would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.alts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.fetched += [tag] if tag in ("script", "iframe", "object", "link") else []
        self.fetched += [values["src"]] if "src" in values and not values["src"].startswith("data:") else []
        self.links += [values["href"]] if tag == "a" else []
        self.ids += [values["id"]] if "id" in values else []
        self.alts += [values["alt"]] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"


def filled(folder: Path, *, demo: bool = False) -> Root:
    root = Root(folder, demo=demo)
    root.plan(TRIALS)
    for trial in TRIALS:
        gain = 0.0 if trial.pretrain.method == "none" else 0.1
        root.finish(trial, 0.6 + gain + trial.seed / 100, 0.5 + gain + trial.seed / 90)
        root.predict(trial, [(arm, "a.png", "glioma", [1.0, 0.0, 0.0, 0.0]) for arm in ARMS])
    return root


def pages(study: StudyFolder) -> tuple[str, str]:
    return study.report.read_text(encoding="utf-8"), study.report_markdown.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = filled(tmp_path_factory.mktemp("results"), demo=True)
    write(root.study)
    return root


def test_the_page_needs_nothing_but_itself(root: Root) -> None:
    html, _ = pages(root.study)
    page = Page(html)
    assert page.fetched == [] and "http" not in re.sub(r"https?://(arxiv|github|doi)[^\s<]*", "", html)
    assert len(page.ids) == len(set(page.ids))
    assert page.alts and all(page.alts)
    folder = Path(str(root.study.path))
    local = [link for link in page.links if not link.startswith("#")]
    assert local and all((folder / link).exists() for link in local), [x for x in local if not (folder / x).exists()]
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_says_what_it_is_and_what_came_out(root: Root) -> None:
    html, markdown = pages(root.study)
    for text in (html, markdown):
        assert "Does the pretraining batch size matter?" in text
        assert "DEMO: small networks and short training." in text
        assert "9 trials: 9 done" in text
        assert "CASS is better than finetuning without pretraining" in text
        assert "python -m analysis.bundle batch_ablation/phantom-demo" in text
        assert all(number in text for number in ("2206.04170", "2301.12025", "2308.10064"))
        assert "singh2022cass" in text and "caron2021dino" not in text
        assert "--results DIR names another" in text
        assert "Nothing: every trial is done." in text
    assert "| CASS is better than finetuning without pretraining | supported |" in markdown
    assert "+0.100 [+0.100, +0.100]" in markdown
    for name in re.findall(r"\]\((plots/[^)]+)\)", markdown):
        assert (Path(str(root.study.path)) / name).exists()


def test_half_way(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS)
    root.finish(TRIALS[3], 0.6, 0.5, collapsed=True)
    root.fail(TRIALS[4], "RuntimeError", "CUDA <error> & more")
    write(root.study)
    html, markdown = pages(root.study)
    Page(html)
    assert "CUDA &lt;error&gt; &amp; more" in html and "CUDA <error> & more" in markdown
    assert "9 trials: 7 missing, 1 done, 1 failed" in html
    assert "The outputs of the pretraining collapsed in 1 of 1 trials" in html
    assert "DEMO" not in html
    assert "missing (7 of 9 trials; run the study again)" in markdown


def test_nothing_done(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS)
    found = gather(root.study)
    assert found.verdict == ["No trial has a result yet: there is nothing to tell."]
    assert found.claims == []
    write(root.study)
    Page(pages(root.study)[0])


def test_nothing_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Nothing has been asked for"):
        gather(Root(tmp_path).study)


def test_one_seed(tmp_path: Path) -> None:
    root = Root(tmp_path)
    trials = [trial for trial in TRIALS if trial.seed == 0]
    root.plan(trials)
    for trial in trials:
        root.finish(trial, 0.6, 0.5)
    found = gather(root.study)
    assert "no two of them have two seeds in common, so nothing can be told" in found.verdict[0]
    assert {claim.verdict for claim in found.claims} == {"cannot tell"}


def test_levels_that_can_be_told_apart(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS)
    for trial in TRIALS:
        better = 0.2 if trial.pretrain.batch_size == 8 else 0.0
        root.finish(trial, 0.5 + better + trial.seed / 1000 * (1 + better), 0.5)
    first = gather(root.study).verdict[0]
    assert first.startswith("Pretraining batch size 8, 16: 1 of 2 pairs can be told apart by macro-F1: CNN, batch 8")


def test_pairs_that_cannot_be_tested_are_said(tmp_path: Path) -> None:
    trials = cells(SMALL, "pretrain.batch_size", (8, 16, 32), (0, 1, 2))
    root = Root(tmp_path)
    root.plan(trials)
    for trial in trials:
        if trial.pretrain.batch_size != 32 or trial.pretrain.method == "none":
            root.finish(trial, 0.5 + trial.seed / 100, 0.5)
    verdict = gather(root.study).verdict
    assert verdict[0].startswith("Pretraining batch size 8, 16, 32: no two") and "surest of 2 pairs" in verdict[0]
    assert verdict[1] == "4 more pairs have fewer than two seeds in common: of them nothing can be told."


def test_no_seed_with_all_controls(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS)
    for trial in TRIALS:
        if trial.pretrain.method == "none" or trial.seed == (trial.pretrain.batch_size == 8):
            root.finish(trial, 0.5)
    verdict = gather(root.study).verdict
    assert verdict[-1] == "CASS against finetuning without pretraining: no seed has both in all networks and settings."


def test_methods_are_compared_on_equal_settings(tmp_path: Path) -> None:
    batches = cells(SMALL, "pretrain.batch_size", (8, 16), (0, 1, 2), controls=False)
    others = [with_field(trial, "pretrain.method", "dino") for trial in batches]
    root = Root(tmp_path)
    root.plan([*batches, *others], ["pretrain.method", "pretrain.batch_size"])
    for trial in [*batches, *others[:-1]]:  # the last seed of one batch size is missing
        root.finish(trial, 0.4 if trial.pretrain.batch_size == 16 else 0.8)
    (group, *_) = split(load(root.study), ["pretrain.method", "pretrain.batch_size"])
    found = pairs(group.frame, ["pretrain.method", "pretrain.batch_size"])
    assert [pair.difference.n for pair in found] == [2, 2]
    assert [pair.difference.mean for pair in found] == pytest.approx([0, 0])


def test_mixed_environments_are_said(tmp_path: Path) -> None:
    root = filled(tmp_path)
    for number, trial in enumerate(TRIALS):
        record = {"commit": f"abc{number % 2}", "versions": {"torch": "2.11"}, "devices": ["cpu"], "host": f"h{number}"}
        root.results.trial(root.digest(trial)).write_environment(record)
    found = gather(root.study)
    what = "code was not the same for all trials: abc0 (5 trials), abc1 (4 trials)."
    assert found.warnings == [f"{what} Equal seeds need not give equal numbers."]
    assert found.commands[0] == ("git checkout abc0", "the code")
    hosts = found.environment.loc[found.environment["what"] == "host"]
    assert len(hosts) == 9


def test_the_command_of_the_plan_is_shown(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS, command="python -m studies.batch_ablation --seeds 0 1 2")
    commands = [command for command, _ in gather(root.study).commands]
    assert "python -m studies.batch_ablation --seeds 0 1 2" in commands


def test_the_question_of_a_study_of_ones_own() -> None:
    assert question({"study": "my_own_study", "title": "What is best"}) == "What is best"
    assert question({"study": "not a module", "title": "T"}) == "T"


def test_two_groups_are_told_apart(tmp_path: Path) -> None:
    root = filled(tmp_path)
    longer = [with_field(trial, "finetune.epochs", 9) for trial in TRIALS]
    root.plan(longer)
    found: Report = gather(root.study)
    assert sum(sheet.title == "F1 of every cell" for sheet in found.sheets) == 2
    assert found.verdict[0] == "No trial has a result yet: there is nothing to tell." and found.claims == []
    assert found.verdict[1].startswith("Verdict and claims are on table 1 of 2, the last asked for;")


def test_what_is_missing_of_finished_trials_is_said(tmp_path: Path) -> None:
    root = filled(tmp_path)
    gone, torn = (root.results.trial(root.digest(trial)) for trial in TRIALS[:2])
    local(gone.predictions).unlink()
    local(torn.predictions).write_bytes(b"PAR1 torn")
    path = local(root.results.trial(root.digest(TRIALS[2])).path) / "result.json"
    path.write_text(path.read_text().replace('"macro_f1": 0.6', '"macro_f1": NaN, "was": 0.6'))
    write(root.study)
    both = ", ".join(sorted([gone.id, torn.id]))
    for text in map(html.unescape, pages(root.study)):
        missing = text[text.index("What failed, and what is missing") :]
        assert "no predictions, so not in the tables of classes and images (1 of 9 trials that are done)" in text
        assert "no macro-F1 of an arm (1 of 9 trials): control seed=2" in missing
        assert f"2 of 9 trials have no predictions that can be read, and are left out: {both}." in text


def test_command(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch_ablation", "--results", str(root.results.root)]) == 0
    assert f"report: {root.study.report}" in capsys.readouterr().out
    assert main(["none_such", "--results", str(root.results.root)]) == 2
    assert "There are: batch_ablation" in capsys.readouterr().err


def test_needs_neither_torch_nor_ray() -> None:
    code = "import analysis.report, analysis.bundle, sys; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "set()\n"
