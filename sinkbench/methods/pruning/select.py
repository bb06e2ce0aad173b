"""What methods have in common that select image tokens before the language model reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkbench.methods.base import Intervention
from sinkbench.methods.pruning.budget import kept_count

if TYPE_CHECKING:
    from sinkbench.engine.selection import SeenImage, Selected


@dataclass(frozen=True, eq=False)
class Choice:
    """What is to be chosen.

    Attributes:
        image: The image.
        places: (n,) int64, its image tokens among the features.
        count: How many to keep; fewer than all.
    """

    image: "SeenImage"
    places: Tensor
    count: int


class SelectingIntervention(Intervention):
    """A bound method that keeps a budget of each image's tokens; separators go, as encoder-side methods leave them out.

    Args:
        keep: Share or count of the image tokens.
    """

    capturable = True

    def __init__(self, keep: float) -> None:
        self.keep = keep

    def select_tokens(self, images: "Sequence[SeenImage]") -> "list[Selected]":
        """Image by image. A budget that keeps everything changes nothing, separators included."""
        from sinkbench.engine.selection import Selected

        asked, selected = {}, {}
        for number, image in enumerate(images):
            places = image.is_image.nonzero().flatten()
            count = int(kept_count(self.keep, torch.tensor(len(places))))
            if count == len(places):
                selected[number] = Selected(torch.arange(len(image.roles), device=places.device))
            else:
                asked[number] = Choice(image, places, count)
        selected |= zip(asked, self.choose_all(list(asked.values())), strict=True)
        return [selected[number] for number in range(len(images))]

    def choose_all(self, choices: "Sequence[Choice]") -> "list[Selected]":
        """Choose in each image; for methods that are faster with several at once."""
        return [self.choose(each.image, each.places, each.count) for each in choices]

    def choose(self, image: "SeenImage", places: Tensor, count: int) -> "Selected":
        """Keep `count` of the image tokens, which are at the `places` (n,) of the features; fewer than all."""
        raise NotImplementedError


def top_places(scores: Tensor, places: Tensor, count: int) -> Tensor:
    """(count,) the places with the highest of the scores (n,), ascending; of equal ones the earlier."""
    order = scores.argsort(descending=True, stable=True)[:count]
    return places[order.sort().values]
