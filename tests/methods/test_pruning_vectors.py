"""Pruning methods against numbers made with their published code, through the methods' own classes."""

import pytest
import torch
import vectors
from harness import open_stream
from vectors import BareLlama, Vector, load, same_as

from sinkbench.adapters.base import ImageInputs
from sinkbench.engine.context import Role
from sinkbench.engine.selection import SeenImage
from sinkbench.methods.base import Intervention
from sinkbench.methods.pruning.divprune import DivPrune, most_different
from sinkbench.methods.pruning.fastervlm import FasterVlm
from sinkbench.methods.pruning.fastv import SCORE, FastV
from sinkbench.methods.pruning.pyramiddrop import PyramidDrop


@pytest.fixture
def fastv(request):
    return load(request, "fastv", "main")


@pytest.fixture
def pyramiddrop(request):
    return load(request, "pyramiddrop", "main")


@pytest.fixture
def divprune(request):
    return load(request, "divprune", "main")


@pytest.fixture
def text_dominance(request):
    return load(request, "text_dominance", "main")


class Watched(Intervention):
    """Notes what a pruning method is given and keeps, and otherwise is that method."""

    def __init__(self, bound: Intervention) -> None:
        self.bound, self.entries, self.kept = bound, [], []
        for name in ("prunes_at", "reindexes", "whole_prompt", "capturable"):
            setattr(self, name, getattr(bound, name))

    def observe_attention(self, layer, view, ctx):
        self.bound.observe_attention(layer, view, ctx)

    def keep_tokens(self, entry, ctx):
        kept = self.bound.keep_tokens(entry, ctx)
        self.entries.append(entry)
        self.kept.append(kept)
        return kept


def run(vector: Vector, bound: Intervention, steps: int = 0):
    """The stream after its prefill, the logits of the prompt and of greedy steps, and what the method was shown."""
    adapter, watched = BareLlama(vector), Watched(bound)
    main = open_stream(adapter, watched, adapter.prompts(), adapter.features(), steps + 1)
    with torch.inference_mode():
        logits = [main.prefill()]
        for _ in range(steps):
            logits.append(main.step(logits[-1].argmax(-1)))
    return main, torch.stack(logits, dim=1), watched


def test_fastv(fastv):
    for vector in fastv:
        p, tolerance = vector.params, vector.tolerance
        info = vectors.info(p["config"]["num_hidden_layers"], p["config"])
        main, logits, watched = run(vector, FastV(keep=p["keep"], layer=p["K"]).bind(info))
        (entry,), (kept,) = watched.entries, watched.kept
        image = vector["image_mask"].bool()
        same_as(entry.ctx.scratch[SCORE][image][None], vector["score"], tolerance["score_atol"])
        assert torch.equal(kept.index, vector["kept_positions"].long())
        same_as(logits[:, 0], vector["logits"], tolerance["logits_atol"])
        assert torch.equal(logits[:, 0].argmax(-1), vector["next_token"].long())
        lengths = [main.cache.lengths[layer] for layer in range(info.n_layers)]
        whole, short = image.shape[1], vector["final_hidden"].shape[1]
        assert lengths == [whole] * p["K"] + [short] * (info.n_layers - p["K"])


def test_pyramiddrop(pyramiddrop):
    for vector in pyramiddrop:
        p, tolerance = vector.params, vector.tolerance
        info = vectors.info(p["config"]["num_hidden_layers"], p["config"])
        method = PyramidDrop(layers=tuple(p["stage_layers"]), ratios=tuple(p["ratios"][1:]))
        steps = vector["tokens"].shape[1] - 1
        main, logits, watched = run(vector, method.bind(info), steps)
        for stage, (entry, kept) in enumerate(zip(watched.entries, watched.kept, strict=True)):
            same_as(entry.hidden, vector[f"stage{stage}_hidden_in"], tolerance["hidden_atol"])
            slots = entry.ctx.is_image[0].nonzero().flatten()
            survivors = torch.isin(slots, kept.index[0]).nonzero().flatten()
            assert torch.equal(survivors, vector[f"stage{stage}_kept_index"].long())
            assert kept.index.shape[1] == vector[f"stage{stage}_hidden_out"].shape[1]
        same_as(logits, vector["logits"], tolerance["logits_atol"])
        assert torch.equal(logits.argmax(-1), vector["tokens"].long())
        lengths = [main.cache.lengths[layer] - steps for layer in range(info.n_layers)]
        assert lengths == p["cache_len_per_layer"]


def seen(features: torch.Tensor, attention: tuple[torch.Tensor, ...] = (), class_tokens: int = 0) -> SeenImage:
    roles = torch.full((len(features),), int(Role.IMAGE), dtype=torch.uint8)
    return SeenImage(features, roles, attention, class_tokens, ImageInputs({}, roles), lambda values: values.flatten())


def test_divprune(divprune):
    for vector in divprune:
        count = vector.params["keep"]
        bound = DivPrune(keep=count).bind(vectors.info(2))
        images = [seen(features) for features in vector["features"]]
        selected = bound.select_tokens(images)
        for row, one in enumerate(selected):
            assert torch.equal(one.index, vector["kept_sorted"][row].long())
            order = most_different(vector["features"][row : row + 1], count)[0]
            assert torch.equal(order, vector["selected_in_pick_order"][row].long())
        shared = DivPrune(keep=vector.params["ratio"]).bind(vectors.info(2)).select_tokens(images)
        assert [len(one.index) for one in shared] == [count] * len(images)


def test_the_class_tokens_row(text_dominance):
    for vector in text_dominance:
        row = vector["cls_attn"]
        n = row.shape[-1] - 1
        attention = torch.zeros(1, row.shape[1], n + 1, n + 1)
        attention[:, :, 0] = row
        image = seen(torch.zeros(n, 4), (attention,), class_tokens=1)
        torch.testing.assert_close(
            image.importance(attention), vector["cls_scores"], atol=0, rtol=vector.tolerance["rtol"]
        )
        (one,) = FasterVlm(keep=vector.params["kept"]).bind(vectors.info(2)).select_tokens([image])
        assert set(one.index.tolist()) == set(vector["kept"].tolist())
        assert one.index.tolist() == sorted(one.index.tolist())
