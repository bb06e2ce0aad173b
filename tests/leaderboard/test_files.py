"""Boards as files: JSON, CSV and LaTeX say the same, and nothing half written is left."""

import csv
import gzip
import json
import os
import shutil
import stat
import subprocess
from io import StringIO

import pytest

from sinkbench.errors import UsageError
from sinkbench.leaderboard.csv_file import to_csv
from sinkbench.leaderboard.files import read_board, write_board, write_text
from sinkbench.leaderboard.latex import escape, to_latex
from sinkbench.leaderboard.table import legend, markdown, rich_tables
from sinkbench.schemas import validate

DELTA = {"value": 0.02, "ci95": [0.01, 0.03], "p": 0.004, "p_holm": 0.008, "test": "clustered_mcnemar", "n_pairs": 95}
COST = {
    "answers_per_s": 12.5,
    "relative_time": 1.5,
    "peak_bytes": 3 * 2**30,
    "visual_tokens_mean": 64.5,
    "prompt_kv_bytes": 300 * 1024,
}


def row(method, value, delta=None, **changes):
    metric = {"value": value, "stderr": 0.01, "ci95": [value - 0.02, value + 0.02], "n": 100, "direction": "higher"}
    about = {"model": "tiny_llava", "method": method, "params": {}, "task": "pope_x", "task_version": "1"}
    state = {"conditions": "c", "headline": "f1", "n": 100, "n_failed": 0, "limit": None, "dtype": "float32"}
    made = {"status": "success", "commit": "c" * 40, "dirty": False, "run_id": method, "path": method}
    metrics = {"f1": {**metric, "delta": delta}, "n_unparsed": {**metric, "value": 3.0, "ci95": None, "delta": None}}
    metrics["n_unparsed"]["direction"] = "lower"
    return {**about, **state, **made, "metrics": metrics, "cost": COST, **changes}


@pytest.fixture
def board():
    average = {
        "model": "tiny_llava",
        "direction": "higher",
        "metrics": {"pope_x": "f1", "text": "accuracy"},
        "rows": [
            {
                "method": name,
                "params": {},
                "run_ids": [name],
                "value": value,
                "n_failed": 0,
                "dirty": dirty,
                "delta": delta,
            }
            for name, value, dirty, delta in (("greedy", 0.5, False, None), ("var", 0.6, True, DELTA))
        ],
        "left_out": [{"method": "pai", "params": {}, "missing": ["text"]}],
    }
    rows = [
        row("greedy", 0.80),
        row("var", 0.82, DELTA, dirty=True, n_failed=5),
        row("50%_&_more", 0.7, {**DELTA, "value": -0.1, "p_holm": 0.2, "n_pairs": 100}, imported=True),
    ]
    made = {"schema_version": 1, "baseline": "greedy", "rows": rows, "averages": [average], "unfinished": []}
    validate(made, "board")
    return made


@pytest.mark.parametrize("name", ["board.json", "deep/board.json.gz"])
def test_a_board_reads_back(board, tmp_path, name):
    write_board(board, tmp_path / name)
    assert read_board(tmp_path / name) == board


def test_a_compressed_board_is_compact_and_the_same_every_time(board, tmp_path):
    for name in ("a.json.gz", "b.json.gz"):
        write_board(board, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.json.gz", "b.json.gz"))
    assert first == second
    assert b"\n" not in gzip.decompress(first)
    assert first[4:8] == b"\0" * 4


def test_a_written_file_is_whole_and_readable_as_others_are(tmp_path):
    target = tmp_path / "board.md"
    target.write_text("old")
    write_text(target, "new")
    plain = tmp_path / "plain"
    plain.write_text("")
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["board.md", "plain"]


def test_what_cannot_be_written_is_explained_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file" / "board.csv", tmp_path):
        with pytest.raises(UsageError, match="cannot be written"):
            write_text(target, "x")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b"{", "no board"),
        ("a.json", b'{"rows": []}', "is a required property"),
        ("a.json", b"\xff\xfe", "no board"),
        ("a.json.gz", b"{}", "cannot be read"),
        ("a.json.gz", gzip.compress(b"{}" * 500, mtime=0)[:20], "cannot be read"),
        ("absent.json", None, "No such file"),
    ],
    ids=["broken", "no rows", "not text", "not packed", "cut off", "absent"],
)
def test_what_is_no_board_is_explained(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=expected) as caught:
        read_board(tmp_path / name)
    assert "sinkbench leaderboard DIR --json" in caught.value.hint


def test_csv_has_a_line_for_each_run_and_metric(board):
    lines = list(csv.DictReader(StringIO(to_csv(board))))
    runs = [line for line in lines if line["kind"] == "run"]
    assert [(line["method"], line["metric"]) for line in runs] == [
        (method, metric) for method in ("greedy", "var", "50%_&_more") for metric in ("f1", "n_unparsed")
    ]
    var = runs[2]
    numbers = ("value", "delta", "delta_ci95_low", "delta_ci95_high", "p", "p_holm", "n", "n_pairs", "peak_bytes")
    assert [float(var[name]) for name in numbers] == [0.82, 0.02, 0.01, 0.03, 0.004, 0.008, 100, 95, 3 * 2**30]
    marks = ("dirty", "failed", "imported", "is_headline", "is_best")
    assert [var[name] for name in marks] == ["true", "true", "false", "true", "true"]
    assert [runs[4][name] for name in marks] == ["false", "false", "true", "true", "false"]
    assert (runs[0]["delta"], runs[0]["limit"], runs[0]["baseline"]) == ("", "", "greedy")


def test_csv_has_the_averages_below(board):
    greedy, var = [line for line in csv.DictReader(StringIO(to_csv(board))) if line["kind"] == "average"]
    assert (greedy["task"], greedy["metric"], greedy["value"], greedy["delta"]) == (
        "pope_x+text",
        "f1+accuracy",
        "0.5",
        "",
    )
    assert (var["value"], var["delta"], var["dirty"], var["n_pairs"]) == ("0.6", "0.02", "true", "95")


def test_latex_escapes_marks_and_says_what_was_tested(board):
    text = to_latex(board)
    lines = text.splitlines()
    (var,) = [line for line in lines if line.startswith("var")]
    assert var == (
        r"var$^{\circ!}$ & \textbf{0.820} & $+0.020\rlap{$^{\ast}$}$ & \textbf{0.600} & $+0.020\rlap{$^{\ast}$}$ \\"
    )
    (odd,) = [line for line in lines if line.startswith("50")]
    assert odd == r"50\%\_\&\_more$^{\dagger}$ & 0.700 & $-0.100$ & -- & -- \\"
    (caption,) = [line for line in lines if "caption" in line]
    assert r"tiny\_llava. Samples: pope\_x 100, pope\_x 100 (95 pairs)." in caption
    assert "sign-flip test over images" in caption
    assert "Holm" in caption
    assert r"Mean $\uparrow$: of pope\_x, text." in caption
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert text.count("{") == text.count("}")
    assert "[0.010, 0.030]" not in text
    assert r"{\scriptsize $[0.010, 0.030]$}" in to_latex(board, intervals=True)


def test_latex_rows_have_as_many_cells_as_the_table_has_columns(board):
    lines = to_latex(board).splitlines()
    (begin,) = [line for line in lines if "begin{tabular}" in line]
    columns = len(begin.rpartition("{")[2].rstrip("}"))
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert {line.count(" & ") + 1 for line in body if "%" not in line} == {columns} == {5}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles_whatever_names_hold(board, tmp_path):
    nasty = "\\end{document} $x$ 100% #1 a_b^c ~ {} & é –"
    board["rows"][0] |= {"method": nasty, "task": nasty}
    tables = to_latex(board, intervals=True)
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{tables}\end{{document}}"
    (tmp_path / "board.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "board.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Output written on board.pdf" in done.stdout


def test_every_sign_that_means_something_to_latex_is_escaped():
    assert escape(r"a_b\c~d^e{f}$#%&") == (r"a\_b\textbackslash{}c\textasciitilde{}d\textasciicircum{}e\{f\}\$\#\%\&")
    assert escape("a\nb") == "a b"


def test_markdown_shows_costs_averages_and_pairs_on_demand(board):
    plain, full = markdown(board), markdown(board, "all", averages=True)
    assert "| 100 (95) |" in plain
    assert "| n (pairs) |" in plain
    assert "GiB" not in plain
    assert "### Mean" not in plain
    assert "| 3 GiB | 300 KiB | 64.5 |" in full
    assert "### Mean of pope_x, text, tiny_llava" in full
    assert "| var * | **0.600** | +0.020 | [0.010, 0.030] | 0.008 | 95 |" in full
    assert "No mean for tiny_llava: pai lacks text." in full
    assert "peak: memory" in legend(board, "all")
    assert "peak: memory" not in legend(board)


@pytest.mark.parametrize("kind", ["scores", "cost"])
def test_console_tables_of_either_kind_fit_eighty_columns(board, kind):
    from rich.console import Console

    console = Console(width=80, record=True, file=StringIO())
    for rendered in rich_tables(board, kind):
        console.print(rendered)
    text = console.export_text()
    assert "…" not in text
    assert ("GiB" in text) == (kind == "cost")
    assert "0.820" in text


def test_a_written_board_is_shown_without_its_runs(board, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from sinkbench.cli.app import app

    path = tmp_path / "board.json.gz"
    write_board(board, path)
    shown = CliRunner().invoke(app, ["leaderboard", str(path), "--average", "--json", str(tmp_path / "again.json")])
    assert shown.exit_code == 0, shown.output
    assert "Mean of pope_x, text, tiny_llava" in shown.output
    assert json.loads((tmp_path / "again.json").read_text()) == board
    for arguments, expected in (
        (["--baseline", "var"], "compares with greedy"),
        (["--task", "pope_y"], "pope_x"),
        (["--columns", "costs"], "cost"),
    ):
        failed = CliRunner().invoke(app, ["leaderboard", str(path), *arguments])
        assert isinstance(failed.exception, UsageError)
        assert expected in failed.exception.message + failed.exception.hint
