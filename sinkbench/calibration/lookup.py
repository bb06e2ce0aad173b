"""Where calibrations lie, and which one a method of a run takes. No torch here."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sinkbench.calibration.artefact import Calibration
from sinkbench.errors import UsageError
from sinkbench.methods import calibrated_for, method_class, method_names, profile_params
from sinkbench.paths import resource

NONE = "none"
"""`--set METHOD.calibration=none`: take none."""


def user_folder() -> Path:
    """Where calibrations that this user makes are kept: $XDG_DATA_HOME, else the platform's folder for data."""
    if given := os.environ.get("XDG_DATA_HOME"):
        base = Path(given)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path.home() / ".local" / "share"
    return base / "sinkbench" / "calibrations"


def shipped_folder() -> Path:
    """Where the calibrations lie that come with sinkbench."""
    return resource("configs") / "calibrations"


def file_name(model: str, scoring: str = "") -> str:
    """A model's file in a method's folder: MODEL.json, or MODEL.SCORING.json for the scores of one method."""
    return re.sub(r"[^\w.+-]", "_", f"{model}.{scoring}" if scoring else model) + ".json"


def user_file(method: str, model: str, scoring: str = "") -> Path:
    """Where `sinkbench calibrate` writes unless it is told otherwise."""
    return user_folder() / method / file_name(model, scoring)


def calibrated_models(method: str) -> dict[str, tuple[str, ...]]:
    """Models (by file name) for which a calibration of a method is at hand, and for the scores of which methods."""
    found: dict[str, set[str]] = {}
    for stem in {path.stem for folder in _folders(method) for path in folder.glob("[!.]*.json")}:
        model, _, scoring = stem.rpartition(".")
        if method_class(method).calibrated_for and model and scoring in method_names():
            found.setdefault(model, set()).add(scoring)
        else:
            found.setdefault(stem, set())
    return {model: tuple(sorted(found[model])) for model in sorted(found)}


def _folders(method: str) -> tuple[Path, Path]:
    return user_folder() / method, shipped_folder() / method


def find(method: str, model: str, given: object = None, scoring: str = "") -> Calibration | None:
    """The calibration of a method for a model: the file given, else the user's own, else the shipped one.

    Args:
        method: Name of one method.
        model: Preset name.
        given: What `--set METHOD.calibration=` says, if anything; "none" takes none.
        scoring: The method for whose scores it must be, unless a file is given; empty where that makes no difference.

    Raises:
        UsageError: The file given is missing, or a file is damaged or another method's.
    """
    if given == NONE:
        return None
    if given is not None:
        if not method_class(method).calibration:
            raise UsageError(f"{method}.calibration: {method} needs none", f"Leave {method}.calibration out.")
        return _read(method, Path(str(given)))
    if not method_class(method).calibration:
        return None
    # Older versions left the scoring method out of the file's name.
    names = dict.fromkeys((file_name(model, scoring), file_name(model)))
    files = [path for folder in _folders(method) for name in names if (path := folder / name).is_file()]
    known = (_read(method, path) for path in files)
    return next((each for each in known if not scoring or each.scoring in ("", scoring)), None)


def _read(method: str, path: Path) -> Calibration:
    calibration = Calibration.read(path)
    calibration.check_method(method)
    return calibration


def calibrations_for(
    names: Sequence[str], params: Mapping[str, Any], model: str, identity: Mapping[str, Any]
) -> dict[str, Calibration]:
    """The calibrations that a run's methods take, by method.

    One whose every parameter the command line gives, by itself or by a profile, is not taken: nothing would be left of
    it.

    Args:
        names: The methods, several of a composition.
        params: Values by "method.param", as `get_method` takes them.
        model: Preset name.
        identity: From `record.model_identity`.

    Raises:
        UsageError: As for `find`; a calibration is of other weights or lacks a file that it names; or there is no such
            profile.
    """
    found: dict[str, Calibration] = {}
    for name in names:
        given = {key.rpartition(".")[2]: value for key, value in params.items() if key.partition(".")[0] in (name, key)}
        given = profile_params(name, given.get("profile")) | given
        calibration = find(name, model, given.get("calibration"), calibrated_for(name, names, given))
        if calibration is not None and not set(calibration.params) <= {*given}:
            calibration.check_model(model, identity)
            calibration.check_files()
            found[name] = calibration
    return found
