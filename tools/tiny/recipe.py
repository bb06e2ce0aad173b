"""A training recipe: the typed form of configs/train/*.yaml."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from sinkbench.errors import UsageError, unknown_name

T = TypeVar("T")


@dataclass(frozen=True)
class Optimisation:
    """AdamW under a cosine schedule.

    Attributes:
        learning_rate: Peak learning rate.
        final_fraction: Learning rate at the end of the budget, as a share of the peak.
        warmup_steps: Steps of linear warm-up; the cosine runs over the whole budget.
        betas: AdamW's moment decays.
        weight_decay: On matrices only; norms, biases and embeddings are not decayed.
        clip_norm: Bound on the global gradient norm.
        batch_size: Images a step.
        projector_factor: Of family smol: the projector's learning rate as a multiple of the peak.
    """

    learning_rate: float = 1e-3
    final_fraction: float = 0.02
    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    batch_size: int = 256
    projector_factor: float = 1.0


@dataclass(frozen=True)
class Data:
    """What the model reads.

    Attributes:
        seed: Seed of the training stream; with a step's number it decides every scene and question of that step.
        turn_tokens: Tokens an image's questions and answers may take together; turns that do not fit are left out.
        stage: Of family smol: "align" for one short caption an image, "instruct" for conversations in natural wording.
        text_share: Of family smol: share of the images with a turn beside them that has no image.
        scene: Keyword arguments of `sinkbench.scenes.scene.SceneConfig`; empty takes its defaults.
    """

    seed: int = 0
    turn_tokens: int = 312
    stage: str = "instruct"
    text_share: float = 0.0
    scene: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """When training ends: after `steps` if given, else after `minutes` of wall-clock time, compilation included."""

    minutes: float = 8.0
    steps: int | None = None

    def fraction(self, step: int, seconds: float) -> float:
        """The share of the budget spent after `step` steps and `seconds` seconds; 1 or more ends training."""
        return step / self.steps if self.steps is not None else seconds / (60.0 * self.minutes)


@dataclass(frozen=True)
class Evaluation:
    """What is measured after training.

    Attributes:
        scenes: Held-out scenes of the split "val".
        seed: Their seed; not that of the shipped evaluation split.
        batch_size: Prompts generated together.
        sink_images: Images behind the sink report.
        short: Whether questions end with the instruction for short answers.
    """

    scenes: int = 200
    seed: int = 7919
    batch_size: int = 256
    sink_images: int = 64
    short: bool = False


@dataclass(frozen=True)
class Lora:
    """Low-rank changes of linear layers, of family smol.

    Attributes:
        rank: Rank in the language model; 0 leaves it as it is.
        alpha: α; a change is scaled by α / rank.
        vision_rank: Rank in the ViT; 0 leaves it as it is.
        vision_alpha: α there.
        layers: First and last decoder layer that is changed, the end exclusive.
        image_first: Whether the image stands before everything else.
    """

    rank: int = 4
    alpha: int = 8
    vision_rank: int = 8
    vision_alpha: int = 16
    layers: tuple[int, int] = (0, 30)
    image_first: bool = False


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a tiny model apart from the hardware.

    Attributes:
        name: Name of the model.
        seed: Seed of the initial weights.
        vision: Keyword arguments of the family's vision configuration.
        text: Keyword arguments of the family's text configuration; the vocabulary comes from Scenes.
        family: Name in `tiny.families.FAMILIES`.
        vision_feature_layer: Of family llava: index of the ViT hidden state that the projector reads; -1 leaves no
            layer unused.
        shipped_side: Of family qwen: the shipped processor scales a scene to this side in pixels, 0: to the side it was
            trained at. Smaller makes seeing harder.
        lora: Of family smol: what is trained beside the projector.
        optimisation: The optimiser.
        data: The training stream.
        budget: When training ends.
        evaluation: What is measured afterwards.
    """

    name: str
    vision: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    family: str = "llava"
    seed: int = 0
    vision_feature_layer: int = -1
    shipped_side: int = 0
    lora: Lora = field(default_factory=Lora)
    optimisation: Optimisation = field(default_factory=Optimisation)
    data: Data = field(default_factory=Data)
    budget: Budget = field(default_factory=Budget)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the run it continues: everything but budget and evaluation."""
        return {key: value for key, value in self.to_json().items() if key not in ("budget", "evaluation")}


SECTIONS = {"lora": Lora, "optimisation": Optimisation, "data": Data, "budget": Budget, "evaluation": Evaluation}


def build_section(kind: type[T], values: Any, where: str) -> T:
    """Make a dataclass from a YAML mapping, refusing unknown keys and values of another kind than the default's."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{where} must be a mapping, not {values!r}", "Compare with configs/train/tiny-llava.yaml.")
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise unknown_name("recipe entry", f"{where}.{key}", [f"{where}.{name}" for name in known])
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        default = known[key].default
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise UsageError(f"{where}.{key} must be true or false, not {value!r}", f"The default is {default}.")
        elif isinstance(default, int | float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(
                f"{where}.{key} must be a number, not {value!r}",
                "YAML reads 1e-3 as text: write 1.0e-3." if isinstance(value, str) else f"The default is {default}.",
            )
        arguments[key] = tuple(value) if isinstance(default, tuple) else value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise UsageError(f"{where} is incomplete: {error}", "Compare with configs/train/tiny-llava.yaml.") from error


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML.

    Raises:
        UsageError: The file is missing or is no mapping, or a key is unknown, missing or of the wrong type.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror}", "Recipes are in configs/train/.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"recipe {path} is no valid YAML: {error}", "Mend the line it names.") from error
    if not isinstance(values, dict):
        raise UsageError(f"recipe {path} is no mapping: {values!r}", "Start from configs/train/tiny-llava.yaml.")
    sections: dict[str, Any] = {
        key: build_section(kind, values[key], key) for key, kind in SECTIONS.items() if key in values
    }
    return build_section(Recipe, {**values, **sections}, "recipe")
