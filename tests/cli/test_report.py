"""`sinkbench report`, as it is typed."""

import os
from inspect import signature

import pytest
from report_runs import make_runs, write_views

from sinkbench.cli.report import report
from sinkbench.leaderboard.report.data import SAMPLES


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("report"))


def said(done):
    return " ".join((done.stdout + done.stderr).replace("│", " ").split())


def test_a_report_is_written_and_how_to_open_it_is_said(here, runs, tmp_path):
    target = tmp_path / "pages" / "report.html"
    done = here("report", runs, "-o", target, "--title", "Three methods")
    assert done.returncode == 0, done.stderr
    assert "3 runs, 12 samples, 3 pictures." in done.stdout
    assert f"Open it in a browser: {target.as_uri()}" in done.stdout
    assert "<title>Three methods</title>" in target.read_text()
    assert [file.name for file in target.parent.iterdir()] == ["report.html"]


def test_images_can_be_left_out_and_samples_limited(here, runs, tmp_path):
    done = here("report", runs, "-o", tmp_path / "r.html", "--no-images", "--samples", 5)
    assert "3 runs, 5 samples, 0 pictures." in done.stdout


def test_the_number_of_samples_is_the_packages():
    assert signature(report).parameters["samples"].default == SAMPLES


def test_views_that_fit_no_run_are_counted(here, runs, tmp_path):
    write_views(tmp_path / "views", "tiny", "fake", "fake/99")
    done = here("report", runs, "-o", tmp_path / "r.html", "--attention", tmp_path / "views")
    assert done.returncode == 0
    assert "no run has the sample of 1 of the views" in said(done)


@pytest.mark.parametrize(
    ("arguments", "problem", "hint"),
    [
        (["{tmp}/nowhere"], "does not exist", "sinkbench eval"),
        (["{tmp}"], "no finished run below", "sinkbench eval"),
        (["{runs}", "-t", "fakee"], "unknown run of task 'fakee'", "Did you mean fake?"),
        (["{runs}", "--baseline", "gredy"], "unknown baseline 'gredy'", "Did you mean greedy?"),
        (["{runs}", "--attention", "{tmp}"], "no views.json below", "sinkbench inspect sample"),
        (["{runs}", "--attention", "{tmp}", "--no-images"], "--no-images leaves them out", "one of the two"),
        (["{runs}", "-o", "{tmp}"], "is a folder", "--output"),
        (["{runs}", "-o", "{runs}/file/report.html"], "cannot be written", "--output FILE"),
    ],
)
def test_what_is_wrong_comes_with_what_to_type_next(here, runs, tmp_path, arguments, problem, hint):
    (runs / "file").write_text("")
    given = [argument.format(tmp=tmp_path, runs=runs) for argument in arguments]
    done = here("report", *given, *([] if "-o" in given else ["-o", tmp_path / "r.html"]))
    assert done.returncode == 2
    assert problem in said(done)
    assert hint in said(done)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_before_the_work_begins(here, runs, tmp_path):
    tmp_path.chmod(0o500)
    done = here("report", runs, "-o", tmp_path / "report.html")
    tmp_path.chmod(0o700)
    assert done.returncode == 2
    assert "cannot be written: Permission denied" in said(done)
