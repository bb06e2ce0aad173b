"""The methods by name. Importing this package loads none of them."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import yaml

from sinkbench.errors import UsageError, unknown_name
from sinkbench.methods.plugins import Plugin, load_plugins
from sinkbench.paths import NamedFile, resource

if TYPE_CHECKING:
    from sinkbench.calibration.artefact import Calibration
    from sinkbench.methods.base import Method

_CLASSES = {
    "act": "sinkbench.methods.act:Act",
    "beam": "sinkbench.methods.beam:Beam",
    "carve": "sinkbench.methods.carve:Carve",
    "damo": "sinkbench.methods.damo:Damo",
    "debias": "sinkbench.methods.pruning.debias:Debias",
    "divprune": "sinkbench.methods.pruning.divprune:DivPrune",
    "dola": "sinkbench.methods.dola:Dola",
    "dual_stream": "sinkbench.methods.dual_stream:DualStream",
    "dyvte": "sinkbench.methods.pruning.dyvte:DyVte",
    "fastervlm": "sinkbench.methods.pruning.fastervlm:FasterVlm",
    "fastv": "sinkbench.methods.pruning.fastv:FastV",
    "gift": "sinkbench.methods.gift:Gift",
    "greedy": "sinkbench.methods.greedy:Greedy",
    "himap": "sinkbench.methods.pruning.himap:HiMap",
    "icd": "sinkbench.methods.icd:Icd",
    "image_scale": "sinkbench.methods.image_scale:ImageScale",
    "iri": "sinkbench.methods.iri:Iri",
    "m3id": "sinkbench.methods.m3id:M3id",
    "mma_mask": "sinkbench.methods.mma_mask:MmaMask",
    "no_vis_vis": "sinkbench.methods.no_vis_vis:NoVisVis",
    "opera": "sinkbench.methods.opera:Opera",
    "pai": "sinkbench.methods.pai:Pai",
    "pool": "sinkbench.methods.pruning.controls:Pool",
    "pyramiddrop": "sinkbench.methods.pruning.pyramiddrop:PyramidDrop",
    "random": "sinkbench.methods.pruning.controls:Random",
    "random_crop": "sinkbench.methods.random_crop:RandomCrop",
    "random_heads": "sinkbench.methods.random_heads:RandomHeads",
    "sample": "sinkbench.methods.sample:Sample",
    "sparc": "sinkbench.methods.sparc:Sparc",
    "sparsevlm": "sinkbench.methods.pruning.sparsevlm:SparseVlm",
    "tokencarve": "sinkbench.methods.pruning.tokencarve:TokenCarve",
    "topk_heads": "sinkbench.methods.topk_heads:TopkHeads",
    "uniform": "sinkbench.methods.pruning.controls:Uniform",
    "vaf": "sinkbench.methods.vaf:Vaf",
    "var": "sinkbench.methods.var:Var",
    "vcd": "sinkbench.methods.vcd:Vcd",
    "vflowopt": "sinkbench.methods.pruning.vflowopt:VFlowOpt",
    "vhr": "sinkbench.methods.vhr:Vhr",
    "vicrop": "sinkbench.methods.vicrop:Vicrop",
    "visiondrop": "sinkbench.methods.pruning.visiondrop:VisionDrop",
    "visionzip": "sinkbench.methods.pruning.visionzip:VisionZip",
    "visual_exit": "sinkbench.methods.pruning.visual_exit:VisualExit",
    "visual_funnel": "sinkbench.methods.visual_funnel:VisualFunnel",
}


_NEED_MORE = ("debias",)
"""Methods that take more than their name: parts of compositions."""


def builtin_names() -> list[str]:
    """Names of the methods that come with sinkbench."""
    return sorted(_CLASSES)


def method_names() -> list[str]:
    """Every method's name, those of plug-ins included."""
    return sorted([*_CLASSES, *_plugins()])


def runnable_names() -> list[str]:
    """Every method that its name alone can run, once it is calibrated where it needs that."""
    return [name for name in method_names() if name not in _NEED_MORE]


def method_class(name: str) -> "type[Method]":
    """The class of one method.

    Raises:
        UsageError: Nobody is called so.
    """
    if name in _CLASSES:
        module, _, cls = _CLASSES[name].partition(":")
        return typing.cast("type[Method]", getattr(import_module(module), cls))
    if (plugin := _plugins().get(name)) is None:
        raise unknown_name("method", name, method_names())
    return plugin.cls


def distribution(name: str) -> str:
    """Name and version of the distribution that a plug-in's method comes with; empty for sinkbench's own."""
    return "" if name in _CLASSES else _plugins()[name].distribution


@cache
def _plugins() -> dict[str, Plugin]:
    return load_plugins(_CLASSES)


def get_method(
    name: str,
    params: Mapping[str, Any] | None = None,
    model: str = "",
    calibrations: "Mapping[str, Calibration] | None" = None,
) -> "Method":
    """A method with its hyper-parameters.

    A parameter's value is, in this order: what `params` says; the `--set NAME.profile` chosen in
    configs/methods/NAME.yaml; what a calibration on the model found; that file's entry for `model`; the default of the
    class. Which method's scores a part is calibrated for (`Method.calibrated_for`) goes by the composition at the last.

    Args:
        name: "var", or "a+b" to compose.
        params: Values by parameter name; for a composition by "method.param". What `NAME.calibration` says is for
            `calibration.lookup.calibrations_for`.
        model: Preset name, for per-model values.
        calibrations: Those to use by method, from `calibrations_for`; none by default.

    Raises:
        UsageError: An unknown method or parameter, a value of the wrong type, or a composition that cannot be.
    """
    params = dict(params or {})
    names = name.split("+")
    classes = [method_class(part) for part in names]
    qualified = {key if "." in key or len(names) > 1 else f"{name}.{key}": value for key, value in params.items()}
    for key in qualified:
        owner, _, _ = key.partition(".")
        if owner not in names:
            raise UsageError(
                f"parameter {key!r} belongs to no method of this run ({name})",
                f"Write --set METHOD.PARAM=VALUE with METHOD one of: {', '.join(names)}.",
            )
    parts = [
        _build(
            cls,
            {k.partition(".")[2]: v for k, v in qualified.items() if k.startswith(f"{part}.")},
            model,
            (calibrations or {}).get(part),
            calibrated_for(part, names, {}),
        )
        for part, cls in zip(names, classes, strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    from sinkbench.methods.composed import Composed

    return Composed(tuple(parts))


def calibrated_for(name: str, names: Iterable[str], values: Mapping[str, Any]) -> str:
    """For which method's scores a method must be calibrated; empty where that makes no difference, or nothing says it.

    Args:
        name: The method.
        names: Those of its composition.
        values: Its parameters that are given, by name; what they say comes first.
    """
    field = method_class(name).calibrated_for
    if not field:
        return ""
    return str(values.get(field) or next((other for other in names if method_class(other).scores), ""))


def _build(
    cls: "type[Method]", params: dict[str, Any], model: str, calibration: "Calibration | None", scoring: str
) -> "Method":
    profile = params.pop("profile", None)
    more = ("profile", "calibration") if cls.calibration else ("profile",)
    own = {key: value for key, value in params.items() if key not in more}
    calibrated = calibration.values() if calibration else {}
    composed = {cls.calibrated_for: scoring} if scoring else {}
    values = {**composed, **_of_model(cls.name, model), **calibrated, **profile_params(cls.name, profile), **own}
    return cls(**typed_fields(cls, cls.name, values, more))


def typed_fields(cls: type, owner: str, values: Mapping[str, Any], more: Iterable[str] = ()) -> dict[str, Any]:
    """Values as the fields of a dataclass declare them.

    Args:
        cls: The dataclass.
        owner: What stands before the dot of `--set OWNER.FIELD=VALUE`.
        values: By field name.
        more: Further names that one may type, for the suggestions.

    Raises:
        UsageError: There is no such field, or a value is of the wrong type.
    """
    fields = [field.name for field in dataclasses.fields(cls)]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise unknown_name("parameter", f"{owner}.{key}", [f"{owner}.{known}" for known in (*fields, *more)])
    return {key: _typed(f"{owner}.{key}", value, hints[key]) for key, value in values.items()}


def method_config(name: str) -> dict[str, Any]:
    """What configs/methods/NAME.yaml says.

    "profiles" and "models", each by name with "source" and "params"; and "overhead", the published time over plain
    decoding with its "source", or empty.
    """
    path = resource("configs") / "methods" / f"{name}.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return {key: config.get(key) or {} for key in ("profiles", "models", "overhead")}


def _of_model(name: str, model: str) -> dict[str, Any]:
    """Values of the method's config for a model."""
    return dict(method_config(name)["models"].get(model, {}).get("params", {}))


def profile_params(name: str, profile: str | int | None) -> dict[str, Any]:
    """Values of a profile of a method's config; a number is a name too, as in `--set fastv.profile=192`.

    Raises:
        UsageError: It has no such profile.
    """
    profiles = method_config(name)["profiles"]
    if profile is None:
        return {}
    profile = str(profile)
    if profile not in profiles:
        raise UsageError(f"{name} has no profile {profile!r}", f"Profiles of {name}: {', '.join(profiles) or 'none'}.")
    return dict(profiles[profile]["params"])


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type that a field declares, or a UsageError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal and value in args:
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(name, item, args[0]) for item in value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint in (int, bool, str) and (str if isinstance(value, NamedFile) else type(value)) is hint:
        return value
    expected = " or ".join(map(repr, args)) if origin is typing.Literal else getattr(hint, "__name__", str(hint))
    raise UsageError(f"{name}={value!r} is not {expected}", f"Give a value of that kind: --set {name}=VALUE.")
