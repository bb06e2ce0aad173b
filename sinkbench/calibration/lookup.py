"""Where calibrations lie, and which one a method of a run takes. No torch here."""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sinkbench.calibration.artefact import Calibration
from sinkbench.errors import UsageError
from sinkbench.methods import method_class, method_config
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


def file_name(model: str) -> str:
    """A model's file in a method's folder."""
    return re.sub(r"[^\w.+-]", "_", model) + ".json"


def user_file(method: str, model: str) -> Path:
    """Where `sinkbench calibrate` writes unless it is told otherwise."""
    return user_folder() / method / file_name(model)


def calibrated_models(method: str) -> list[str]:
    """Models (by file name) for which a calibration of a method is at hand."""
    folders = (user_folder(), shipped_folder())
    return sorted({path.stem for folder in folders for path in (folder / method).glob("[!.]*.json")})


def find(method: str, model: str, given: object = None) -> Calibration | None:
    """The calibration of a method for a model: the file given, else the user's own, else the shipped one.

    Args:
        method: Name of one method.
        model: Preset name.
        given: What `--set METHOD.calibration=` says, if anything; "none" takes none.

    Raises:
        UsageError: The file given is missing, or a file is damaged or another method's.
    """
    if given == NONE:
        return None
    if given is not None:
        if not method_class(method).calibration:
            raise UsageError(f"{method}.calibration: {method} needs none", f"Leave {method}.calibration out.")
        path = Path(str(given))
    else:
        known = (folder / method / file_name(model) for folder in (user_folder(), shipped_folder()))
        files = [path for path in known if path.is_file()]
        if not method_class(method).calibration or not files:
            return None
        path = files[0]
    calibration = Calibration.read(path)
    calibration.check_method(method)
    return calibration


def calibrations_for(
    names: Iterable[str], params: Mapping[str, Any], model: str, identity: Mapping[str, Any]
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
        UsageError: As for `find`; or a calibration is of other weights.
    """
    found: dict[str, Calibration] = {}
    for name in names:
        given = {key.rpartition(".")[2]: value for key, value in params.items() if key.partition(".")[0] in (name, key)}
        calibration = find(name, model, given.get("calibration"))
        profile = method_config(name)["profiles"].get(given.get("profile"), {"params": {}})["params"]
        if calibration is not None and not set(calibration.params) <= {*given, *profile}:
            calibration.check_model(model, identity)
            found[name] = calibration
    return found
