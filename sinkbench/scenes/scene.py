"""One scene as plain values, and how scenes are drawn at random.

A scene is decided by (split, seed, index) alone: its random generator is seeded with the SHA-256 of the three, so the
splits "train" and "val" share no random stream, whatever the seeds.
"""

import hashlib
import random
from dataclasses import dataclass, field

from sinkbench.errors import UsageError
from sinkbench.scenes.backdrop import Backdrop, sample_backdrop
from sinkbench.scenes.world import CATEGORIES, KINDS, SIGN_WORDS, Category, Colour, Kind, partners

SIZE = 224
"""Side of an image, px."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SceneConfig:
    """The knobs of difficulty. Ranges are (smallest, largest), both included.

    Attributes:
        objects: Number of objects asked for; one that finds no free place is left out.
        sizes: Side of a sprite's square, px; larger for larger categories.
        grid: Objects start on the cells of a `grid` x `grid` raster.
        jitter: Largest shift from the cell's centre, as a share of the cell's side.
        rotation: Largest rotation, degrees.
        max_overlap: Largest share of the smaller of two squares that the other may cover.
        repeat: Probability that an object is one more of a category already there.
        partner_boost: Factor on the weight of a category whose partner is there.
        scenery: Number of background sprites that are no objects.
        clutter: Number of background blobs.
        blur: Standard deviation of the Gaussian blur, px.
        noise: Standard deviation of the pixel noise, where 1 is the full range.
        exposure: Factor on all pixel values.
        sign: Probability of a sign.
        letter_sizes: Side of a letter's square on a sign, px.
        absent_mention: Probability that the training caption also mentions one or two absent but likely categories.
    """

    objects: tuple[int, int] = (2, 10)
    sizes: tuple[float, float] = (11.0, 29.0)
    grid: int = 5
    jitter: float = 0.35
    rotation: float = 20.0
    max_overlap: float = 0.3
    repeat: float = 0.3
    partner_boost: float = 2.5
    scenery: tuple[int, int] = (0, 4)
    clutter: tuple[int, int] = (2, 8)
    blur: tuple[float, float] = (0.0, 0.8)
    noise: tuple[float, float] = (0.0, 0.03)
    exposure: tuple[float, float] = (0.85, 1.12)
    sign: float = 0.6
    letter_sizes: tuple[float, float] = (13.0, 19.0)
    absent_mention: float = 0.25


DEFAULT = SceneConfig()


@dataclass(frozen=True)
class SceneObject:
    """A sprite in the image.

    Attributes:
        category: Category name; for scenery, its emoji.
        look: Which sprite of the category: a colour or a number.
        x: Centre, px from the left.
        y: Centre, px from the top.
        size: Side of the sprite's square, px.
        rotation: Degrees, clockwise.
        flip: Mirrored left to right.
    """

    category: str
    look: str
    x: float
    y: float
    size: float
    rotation: float = 0.0
    flip: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the unrotated square, px."""
        half = self.size / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


@dataclass(frozen=True)
class Sign:
    """A word on a panel; position is its centre, all lengths in px. The word is drawn in capitals."""

    text: str
    x: float
    y: float
    width: float
    height: float
    letter_size: float
    panel: Colour
    ink: Colour

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, px."""
        return self.x - self.width / 2, self.y - self.height / 2, self.x + self.width / 2, self.y + self.height / 2


@dataclass(frozen=True)
class Scene:
    """Everything that decides an image and what is said about it.

    Attributes:
        split: "train", "val" or "test".
        seed: Seed of the data set.
        index: Number of the scene within it.
        kind: Name of its kind.
        backdrop: What lies behind everything.
        scenery: Background sprites, back to front; they are no objects.
        objects: Objects, back to front; later ones cover earlier ones.
        sign: The sign, behind the objects, or None.
        blur: Standard deviation of the blur, px.
        noise: Standard deviation of the pixel noise.
        exposure: Factor on all pixel values.
        noise_seed: 32 bits, feeds the pixel noise.
        mentioned_absent: Categories that a training caption names although they are not there.
    """

    split: str
    seed: int
    index: int
    kind: str
    backdrop: Backdrop
    scenery: tuple[SceneObject, ...]
    objects: tuple[SceneObject, ...]
    sign: Sign | None
    blur: float
    noise: float
    exposure: float
    noise_seed: int
    mentioned_absent: tuple[str, ...] = field(default=())

    @property
    def counts(self) -> dict[str, int]:
        """Number of objects of every category there, in the order of COCO ids."""
        present = [o.category for o in self.objects]
        return {name: present.count(name) for name in CATEGORIES if name in present}


def scene_rng(split: str, seed: int, index: int, purpose: str = "scene") -> random.Random:
    """A generator of its own for every (split, seed, index, purpose)."""
    digest = hashlib.sha256(f"sinkbench-scenes/{purpose}/{split}/{seed}/{index}".encode()).digest()
    return random.Random(int.from_bytes(digest))


def sample_scene(split: str, seed: int, index: int, config: SceneConfig = DEFAULT) -> Scene:
    """Draw one scene.

    Args:
        split: "train", "val" or "test".
        seed: Seed of the data set.
        index: Number of the scene within it.
        config: Difficulty.

    Raises:
        UsageError: `split` is unknown.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}", f"Choose one of {', '.join(SPLITS)}.")
    rng = scene_rng(split, seed, index)
    kind = rng.choice(tuple(KINDS.values()))
    backdrop = sample_backdrop(kind.name, config.clutter, rng)
    sign = _sample_sign(backdrop.horizon, config, rng) if rng.random() < config.sign else None
    objects = _place_objects(_sample_categories(kind, config, rng), kind, backdrop.horizon, sign, config, rng)
    return Scene(
        split=split,
        seed=seed,
        index=index,
        kind=kind.name,
        backdrop=backdrop,
        scenery=_sample_scenery(kind, backdrop.horizon, config, rng),
        objects=objects,
        sign=sign,
        blur=rng.uniform(*config.blur),
        noise=rng.uniform(*config.noise),
        exposure=rng.uniform(*config.exposure),
        noise_seed=rng.getrandbits(32),
        mentioned_absent=_sample_absent(kind, {o.category for o in objects}, config, rng),
    )


def likely_absent(kind: Kind, present: set[str], boost: float = DEFAULT.partner_boost) -> dict[str, float]:
    """Weights of the categories of a kind of scene that are not `present`, those with a partner there raised."""
    drawn_in = frozenset[str]().union(*(partners(category) for category in present))
    return {
        name: weight * (boost if name in drawn_in else 1.0)
        for name, weight in kind.weights.items()
        if name not in present
    }


def _sample_categories(kind: Kind, config: SceneConfig, rng: random.Random) -> list[str]:
    chosen: list[str] = []
    for _ in range(rng.randint(*config.objects)):
        if chosen and (rng.random() < config.repeat or len(set(chosen)) == len(kind.weights)):
            chosen.append(rng.choice(chosen))
            continue
        weights = likely_absent(kind, set(chosen), config.partner_boost)
        chosen.append(rng.choices(tuple(weights), tuple(weights.values()))[0])
    return chosen


def _sample_absent(kind: Kind, present: set[str], config: SceneConfig, rng: random.Random) -> tuple[str, ...]:
    weights = likely_absent(kind, present, config.partner_boost)
    # A crowded scene can hold every category that is likely in its kind.
    if rng.random() >= config.absent_mention or not weights:
        return ()
    drawn = rng.choices(tuple(weights), tuple(weights.values()), k=rng.randint(1, 2))
    return tuple(dict.fromkeys(drawn))


def _sample_sign(horizon: float, config: SceneConfig, rng: random.Random) -> Sign:
    text = rng.choice(SIGN_WORDS)
    letter_size = rng.uniform(*config.letter_sizes)
    width, height = 0.78 * letter_size * len(text) + 8, letter_size + 5
    dark: Colour = rng.choice(((0.1, 0.1, 0.12), (0.1, 0.2, 0.5), (0.6, 0.1, 0.1), (0.08, 0.35, 0.18)))
    light: Colour = rng.choice(((0.98, 0.98, 0.96), (0.98, 0.9, 0.55)))
    panel, ink = (dark, light) if rng.random() < 0.5 else (light, dark)
    x = rng.uniform(width / 2 + 2, SIZE - width / 2 - 2)
    y = rng.uniform(height / 2 + 2, SIZE * (horizon + 0.2))
    return Sign(text, x, y, width, height, letter_size, panel, ink)


def _sample_scenery(kind: Kind, horizon: float, config: SceneConfig, rng: random.Random) -> tuple[SceneObject, ...]:
    drawn = []
    for _ in range(rng.randint(*config.scenery)):
        emoji = rng.choice(kind.scenery)
        size = rng.uniform(28, 64)
        aloft = emoji == "☁️" or not kind.outdoor
        y = rng.uniform(0.1, horizon - 0.05) * SIZE if aloft else horizon * SIZE + rng.uniform(-0.4, 0.2) * size
        drawn.append(SceneObject(emoji, "", rng.uniform(0, SIZE), y, size, 0.0, rng.random() < 0.5))
    return tuple(drawn)


def _sample_size(category: Category, config: SceneConfig, rng: random.Random) -> float:
    smallest, largest = config.sizes
    share = min(max(0.6 * category.scale + 0.4 * rng.random() + rng.uniform(-0.1, 0.15), 0.0), 1.0)
    return smallest + share * (largest - smallest)


def _covered(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Area that two boxes share over the area of the smaller one."""
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _place_objects(
    categories: list[str],
    kind: Kind,
    horizon: float,
    sign: Sign | None,
    config: SceneConfig,
    rng: random.Random,
) -> tuple[SceneObject, ...]:
    side = SIZE / config.grid
    cells = [(column, row) for row in range(config.grid) for column in range(config.grid)]
    rng.shuffle(cells)
    placed: list[SceneObject] = []
    for name in categories:
        category = CATEGORIES[name]
        size = _sample_size(category, config, rng)
        look, rotation = rng.choice(category.looks), rng.uniform(-config.rotation, config.rotation)
        for cell in cells:
            x, y = (
                min(max((c + 0.5 + rng.uniform(-config.jitter, config.jitter)) * side, size / 2), SIZE - size / 2)
                for c in cell
            )
            candidate = SceneObject(name, look, x, y, size, rotation, rng.random() < 0.5)
            if not _stands_well(candidate, category, kind, horizon):
                continue
            if any(_covered(candidate.box, other.box) > config.max_overlap for other in placed):
                continue
            # A sign must stay readable.
            if sign is not None and _covered(candidate.box, sign.box) > 0.1:
                continue
            placed.append(candidate)
            cells.remove(cell)
            break
    # What stands lower in the image is nearer and covers what stands behind it.
    return tuple(sorted(placed, key=lambda o: o.box[3]))


def _stands_well(candidate: SceneObject, category: Category, kind: Kind, horizon: float) -> bool:
    """Outdoors, ground objects stand below the horizon and flying ones above the lower third."""
    if not kind.outdoor or category.place == "any":
        return True
    foot = candidate.box[3]
    return foot < SIZE * 0.66 if category.place == "sky" else foot > SIZE * horizon
