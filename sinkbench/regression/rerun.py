"""Run what a baseline names, and never take the answers of another commit for this one's."""

import hashlib
import json
import platform
from pathlib import Path

from sinkbench import runner
from sinkbench.backend import Backend, LocalBackend
from sinkbench.environment import git_state, package_versions
from sinkbench.errors import UsageError
from sinkbench.plan import check
from sinkbench.regression.baseline import specs_of
from sinkbench.regression.cell import Cell
from sinkbench.regression.pairing import Pairing
from sinkbench.reporter import Reporter
from sinkbench.spec import RunSpec


def place(output: Path) -> tuple[Path, bool]:
    """The folder below `output` for runs of this code, and whether what lies there must be forgotten.

    Its name says the commit and a hash of the versions of Python and of all packages that can change a score, so that
    runs made with anything else are never found. What a dirty tree ran before says nothing of what it is now.
    """
    commit, dirty = git_state()
    versions = json.dumps([platform.python_version(), package_versions()], sort_keys=True)
    name = f"{(commit or 'installed')[:10]}-{hashlib.sha256(versions.encode()).hexdigest()[:6]}"
    return output / (f"{name}-dirty" if dirty else name), bool(dirty)


def rerun(
    cells: list[Cell],
    output: Path,
    *,
    data_dir: Path | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
    backend: Backend | None = None,
) -> tuple[Pairing, dict[str, str]]:
    """Run every cell of a baseline that can still be run.

    Args:
        cells: The baseline's runs.
        output: Folder for run directories; a run that was broken off there goes on.
        data_dir: As for `specs_of`.
        fresh: Forget what lies there.
        reporter: Is told about progress.
        backend: As for `runner.run`.

    Returns:
        Each baseline cell with its new run, and why others cannot be run, by run id.

    Raises:
        UsageError: None of them can be run, or something else is wrong than with a single one.
    """
    backend = backend or LocalBackend()
    specs = specs_of(cells, output, data_dir)
    reasons: dict[str, str] = {}
    try:
        outcomes = runner.run(specs, reporter=reporter, fresh=fresh, backend=backend)
    except UsageError:
        faults = {number: fault for number, spec in enumerate(specs) if (fault := _fault(spec, backend))}
        if not 0 < len(faults) < len(specs):
            raise
        reasons = {cells[number].record["run_id"]: fault for number, fault in faults.items()}
        kept = [number for number in range(len(specs)) if number not in faults]
        done = runner.run([specs[number] for number in kept], reporter=reporter, fresh=fresh, backend=backend)
        made = dict(zip(kept, done, strict=True))
    else:
        made = dict(enumerate(outcomes))
    pairs, missing = [], []
    for number, cell in enumerate(cells):
        outcome = made.get(number)
        if outcome is not None and outcome.record["metrics"]:
            pairs.append((cell, Cell(str(outcome.directory), outcome.record, outcome.directory)))
        else:
            reasons.setdefault(cell.record["run_id"], "no sample was scored")
            missing.append(cell)
    return Pairing(pairs, missing, []), reasons


def _fault(spec: RunSpec, backend: Backend) -> str:
    """Why a spec cannot be run; empty if it can."""
    try:
        check([spec], backend)
    except UsageError as error:
        return error.message
    return ""
