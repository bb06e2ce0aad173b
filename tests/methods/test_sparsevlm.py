"""SparseVLM: raters, tables, recycling, and version 2's kernel and heads, by hand and by the published code."""

import pytest
import torch
import vectors
from harness import adapter, forced_tokens, image, logits, method, request, requests, stream
from maps import Maps
from vectors import load, same_as

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.generate import Engine
from sinkbench.engine.pruning import Entry
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.pruning.clusters import dpc_knn
from sinkbench.methods.pruning.sparsevlm import (
    GRAVITY,
    RATERS,
    SCORE,
    TABLES,
    TEXT,
    SparseVlm,
    choose_raters,
    gravity,
    mean_of_heads,
    rater_scores,
    recycled,
)

INFO = ModelInfo("m", n_layers=32, n_heads=32, n_kv_heads=32, hidden_size=64)


@pytest.fixture
def published(request):
    return load(request, "sparsevlm", "main")


def whole(before: int, image: int, text: int) -> Context:
    """The pass over one prompt that is [before, image, text]."""
    roles = torch.tensor([[Role.TEMPLATE] * before + [Role.IMAGE] * image + [Role.QUERY] * text], dtype=torch.uint8)
    ctx = Context(Stage.SUFFIX, roles, roles.shape[1], padded=False)
    ctx.state[TEXT] = roles == Role.QUERY
    return ctx


def entry(layer: int, hidden: torch.Tensor, ctx: Context, embeddings=None) -> Entry:
    return Entry(layer, hidden, ctx, None, embeddings)  # type: ignore[arg-type]


def text_rows(rows: torch.Tensor, before: int) -> torch.Tensor:
    """Whole maps (1, H, L, L) of which only the text's rows (1, H, T, n) of the keys from `before` on are not 0."""
    _, h, t, n = rows.shape
    maps = rows.new_zeros(1, h, before + n + t, before + n + t)
    maps[:, :, -t:, before : before + n] = rows
    return maps


def test_published_raters_and_stages(published):
    for vector in published:
        p, tolerance = vector.params["v1"], vector.tolerance
        before, n, t = p["pre_len"], p["image_len"], p["text_len"]
        bound = SparseVlm(table=tuple(count * 576 / n for count in p["table"]), layers=tuple(p["stage_layers"])).bind(
            vectors.info(max(p["stage_layers"]) + 2)
        )
        ctx = whole(before, n, t)
        embeds = vector["inputs_embeds"]
        scores = rater_scores(embeds, ctx.is_image, ctx.state[TEXT])
        same_as(scores, vector["rater_score"], tolerance["score_atol"])
        bound.observe_hidden(0, embeds, ctx)
        assert torch.equal(ctx.scratch[RATERS][:, -t:], vector["rater_mask"])
        assert not ctx.scratch[RATERS][:, :-t].any()
        for number, stage in enumerate(p["stages"]):
            n, layer = stage["image_in"], stage["layer"]
            shorter = whole(before, n, t)
            shorter.scratch = ctx.scratch
            bound.observe_attention(layer, Maps(text_rows(vector[f"stage{number}_attn_text_rows"], before)), shorter)
            span = slice(before, before + n)
            same_as(ctx.scratch[SCORE][:, span], vector[f"stage{number}_score"], tolerance["score_atol"])
            kept = bound.keep_tokens(entry(layer + 1, vector[f"stage{number}_hidden"], shorter), shorter)
            assert kept.index.shape[1] == stage["len_out"]
            image_slots = kept.index[0, before : before + stage["keep"]] - before
            assert image_slots.tolist() == vector[f"stage{number}_keep_mask"][0].nonzero().flatten().tolist()
            same_as(kept.hidden, vector[f"stage{number}_hidden_out"], tolerance["hidden_atol"])


def rope(length: int, head_dim: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.arange(length)[:, None] * base ** -(torch.arange(0, head_dim, 2) / head_dim)
    both = torch.cat((angles, angles), dim=-1)[None]
    return both.cos(), both.sin()


def test_published_version_2(published):
    for vector in published:
        p, tolerance = vector.params["v2"], vector.tolerance
        before, n, t = p["pre_len"], p["image_len"], p["text_len"]
        embeddings = rope(before + n + t, p["head_dim"], p["rope_theta"])
        same_as(gravity(embeddings, before + n + t), vector["v2_gravity"], 1e-5)
        model = vectors.info(4, {"num_attention_heads": p["heads"]})
        bound = SparseVlm(version=2, table=(p["keep"] * 576 / n,), layers=(1,), heads=p["keep_heads"]).bind(model)
        ctx = whole(before, n, t)
        hidden = torch.zeros(1, before + n + t, 4)
        assert bound.keep_tokens(entry(0, hidden, ctx, embeddings), ctx) is None
        raters = torch.zeros_like(ctx.is_image)
        raters[:, -t:] = vector["v2_rater_mask"]
        ctx.scratch[RATERS] = raters
        maps = torch.zeros(1, p["heads"], before + n + t, before + n + t)
        maps[:, :, -t:] = vector["v2_attn"]
        bound.observe_attention(1, Maps(maps), ctx)
        span = slice(before, before + n)
        same_as(ctx.scratch[SCORE][:, span], vector["v2_score"], tolerance["score_atol"])
        kept = bound.keep_tokens(entry(2, hidden, ctx, embeddings), ctx)
        assert kept.hidden is None
        assert kept.index.tolist() == vector["v2_positions_out"].tolist()
        assert kept.index[0, before:-t].sub(before).tolist() == vector["v2_keep_mask"][0].nonzero().flatten().tolist()


def test_raters_are_the_words_most_like_the_image():
    ctx = whole(1, 2, 3)
    hidden = torch.zeros(1, 6, 2)
    hidden[0, 1], hidden[0, 2] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    hidden[0, 3], hidden[0, 5] = torch.tensor([3.0, 3.0]), torch.tensor([0.0, 1.0])
    scores = rater_scores(hidden, ctx.is_image, ctx.state[TEXT])
    e = torch.e
    both = [
        [e**3 / (e**3 + 2), 1 / (e**3 + 2), 1 / (e**3 + 2)],
        [e**3 / (e**3 + 1 + e), 1 / (e**3 + 1 + e), e / (e**3 + 1 + e)],
    ]
    torch.testing.assert_close(scores, torch.tensor(both).mean(0, keepdim=True))
    assert choose_raters(scores, ctx.state[TEXT]).tolist() == [[False, False, False, True, False, False]]


def test_words_that_are_all_alike_all_rate():
    ctx = whole(1, 2, 2)
    scores = rater_scores(torch.zeros(1, 5, 4), ctx.is_image, ctx.state[TEXT])
    assert scores.tolist() == [[0.5, 0.5]]
    assert choose_raters(scores, ctx.state[TEXT]).tolist() == ctx.state[TEXT].tolist()


def test_raters_of_a_padded_batch_are_those_of_each_prompt_alone():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 3), (1, 2, 6), (0, 0, 4)]
    longest = max(map(sum, shapes))
    roles = torch.zeros(3, longest, dtype=torch.uint8)
    text = torch.zeros(3, longest, dtype=torch.bool)
    hidden = torch.randn(3, longest, 8, generator=generator)
    for row, (before, n, t) in enumerate(shapes):
        roles[row, -(before + n + t) :] = whole(before, n, t).roles[0]
        text[row, -t:] = n > 0
    scores = rater_scores(hidden, roles == Role.IMAGE, text)
    chosen = choose_raters(scores, text)
    for row, (before, n, t) in enumerate(shapes[:2]):
        ctx = whole(before, n, t)
        alone = rater_scores(hidden[row : row + 1, -(before + n + t) :], ctx.is_image, ctx.state[TEXT])
        torch.testing.assert_close(scores[row, -t:], alone[0])
        torch.testing.assert_close(alone.sum(), torch.tensor(1.0))
        assert 0 < int(chosen[row].sum()) < t
        assert chosen[row, -t:].tolist() == choose_raters(alone, ctx.state[TEXT])[0, -t:].tolist()
    assert not chosen[2].any()
    assert not scores[2].any()


@pytest.mark.parametrize(
    ("budget", "left"), [(192, (309, 204, 113)), (128, (312, 117, 39)), (96, (249, 55, 27)), (64, (82, 32, 18))]
)
def test_the_published_tables_leave_what_the_spec_says(budget, left):
    tokens = 576
    for keep, expected in zip(TABLES[1][budget], left, strict=True):
        tokens = keep + int(recycled(torch.tensor([tokens - keep]))[1])
        assert tokens == expected


def test_what_is_dropped_is_recycled_by_a_third_and_a_tenth():
    pool, clusters = recycled(torch.tensor([0, 1, 3, 4, 30, 50]))
    assert pool.tolist() == [0, 1, 1, 2, 10, 16]
    assert clusters.tolist() == [0, 1, 1, 1, 2, 2]


def test_clusters_gather_around_dense_points_that_lie_apart():
    points = torch.tensor([[0.0], [0.1], [0.3], [2.0], [2.15], [2.4]])[None]
    found = dpc_knn(points, torch.ones(1, 6, dtype=torch.bool), torch.tensor([3]))
    # Densities, from the squares of the distances to the two nearest others: exp of −0.033, −0.017, −0.043, −0.061,
    # −0.028 and −0.074. Times the distance to the nearest denser point: 0.10, 2.36, 0.19, 0.14, 1.99 and 0.23.
    assert found.centres.tolist() == [[1, 4, 5]]
    assert found.cluster_of.tolist() == [[0, 0, 0, 1, 1, 2]]
    torch.testing.assert_close(found.means(points)[0, :, 0], torch.tensor([0.4 / 3, 2.075, 2.4]))


def test_of_equally_dense_points_none_is_denser():
    """With two clusters the two closest points always are: both become centres, whatever lies elsewhere."""
    points = torch.tensor([[0.0], [3.0], [5.0], [6.0]])[None]
    found = dpc_knn(points, torch.ones(1, 4, dtype=torch.bool), torch.tensor([2]))
    assert found.centres.tolist() == [[2, 3]]


def test_clusters_of_a_batch_are_those_of_each_sample_alone():
    generator = torch.Generator().manual_seed(1)
    sizes, counts = [12, 7, 1, 0], [3, 2, 1, 0]
    points = torch.randn(4, 12, 5, generator=generator)
    valid = torch.arange(12) < torch.tensor(sizes)[:, None]
    found = dpc_knn(points, valid, torch.tensor(counts))
    means = found.means(points)
    for row, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        assert found.present[row].sum() == count
        assert (found.cluster_of[row, size:] == -1).all()
        own = found.cluster_of[row, :size]
        assert own.bincount(minlength=count).sum() == size
        if not count:
            continue
        alone = dpc_knn(points[row : row + 1, :size], valid[row : row + 1, :size], torch.tensor([count]))
        assert alone.centres[0].tolist() == found.centres[row, :count].tolist()
        assert alone.cluster_of[0].tolist() == own.tolist()
        assert own[alone.centres[0]].tolist() == list(range(count)), "a centre is in its own cluster"
        for cluster in range(count):
            members = points[row, :size][own == cluster]
            torch.testing.assert_close(means[row, cluster], members.mean(0))


def test_a_centre_is_in_its_own_cluster_even_where_others_lie_in_its_place():
    found = dpc_knn(torch.zeros(1, 4, 2), torch.ones(1, 4, dtype=torch.bool), torch.tensor([2]))
    assert found.centres.tolist() == [[0, 1]]
    assert found.cluster_of.tolist() == [[0, 1, 0, 0]]


class Reversed(Intervention):
    """Stands for a part of a composition that turns the ranking round."""

    def weigh_tokens(self, scores, ctx):
        return -scores


def ranked(bound, layer: int, scores: list[float]) -> tuple[list[int], torch.Tensor]:
    """The image tokens that a stage keeps of 10, and the merged token; each token's hidden state is its number."""
    ctx = whole(1, 10, 2)
    ctx.scratch[SCORE] = torch.tensor([[0.0, *scores, 0.0, 0.0]])
    hidden = torch.arange(13.0)[None, :, None]
    kept = bound.keep_tokens(entry(layer, hidden, ctx), ctx)
    return kept.index[0, 1:5].sub(1).tolist(), kept.hidden[0, 5]


def test_other_parts_weigh_the_first_stage_only_and_nothing_that_is_recycled():
    bound = SparseVlm(table=(230.4, 230.4), layers=(3, 5)).bind(INFO)
    scores = [float(number) for number in range(10)]
    # Of six dropped tokens two are merged, those of the highest score.
    assert ranked(bound, 4, scores) == ([6, 7, 8, 9], torch.tensor([5.5]))
    assert ranked(bound, 6, scores) == ([6, 7, 8, 9], torch.tensor([5.5]))
    bound.weighing = Reversed()
    assert ranked(bound, 4, scores) == ([0, 1, 2, 3], torch.tensor([9.5]))
    assert ranked(bound, 6, scores) == ([6, 7, 8, 9], torch.tensor([5.5]))


def test_the_kernel_over_distance():
    kernel = gravity(rope(4096, 128, 10000.0), 1)[0, 0].flip(0)
    expected = {0: 11.31, 100: 5.4, 600: 2.35, 625: 1.19}
    for distance, value in expected.items():
        assert kernel[distance].item() == pytest.approx(value, abs=0.05)
    # The guard does not act over the first 700 tokens, and holds the rest above 0.
    angles = torch.arange(4096.0)[:, None] * 10000.0 ** -(torch.arange(0, 128, 2) / 128)
    plain = 2 * angles.cos().sum(1) / 128**0.5
    torch.testing.assert_close(kernel[:700], plain[:700], atol=1e-3, rtol=0)
    assert plain.min() < -1.4
    assert kernel.min().item() == pytest.approx(0.1 * 128**0.5, abs=1e-4)


def test_only_the_heads_that_look_most_at_the_image_count():
    received = torch.tensor([[[0.9, 0.1, 0.1], [0.0, 0.3, 0.4], [0.5, 0.2, 0.2]]])
    image = torch.tensor([[False, True, True]])
    torch.testing.assert_close(mean_of_heads(received, image, 2), torch.tensor([[0.25, 0.25, 0.3]]))


def recorded(m: SparseVlm, family: str, asked) -> tuple[list[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
    """What each layer puts out in the prefill, and the raters and roles that each stage sees."""
    a = adapter(family)
    main = stream(a, m, asked, 1)
    out, seen = [], []
    score = main.method.score

    def look(view, raters, ctx):
        seen.append((raters.clone(), ctx.roles.clone()))
        return score(view, raters, ctx)

    main.method.score = look
    hooks = [layer.register_forward_hook(lambda _m, _a, result: out.append(result)) for layer in a.layers]
    with torch.inference_mode():
        main.prefill()
    for hook in hooks:
        hook.remove()
    return out, seen


@pytest.mark.parametrize("version", [1, 2])
def test_layers_before_the_first_drop_are_the_plain_model_s(version):
    asked = requests()[:4]
    pruned, _ = recorded(SparseVlm(version=version, keep=64, layers=(1, 2, 4)), "llava", asked)
    plain, _ = recorded(SparseVlm(version=version, table=(576,), layers=(1,)), "llava", asked)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(pruned[:2], plain[:2], strict=True))
    assert pruned[2].shape[1] < plain[2].shape[1]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_raters_stay_the_same_words_in_every_stage(version, family):
    m = SparseVlm(version=version, table=(300, 200, 110), layers=(1, 2, 4))
    _, seen = recorded(m, family, requests())
    first_raters, first_roles = seen[0]
    assert len(seen) == 3
    counts = first_raters.sum(1)
    assert (counts[:-1] > 0).all()
    assert counts[-1] == 0, "the last request has no image"
    for raters, roles in seen:
        width = raters.shape[1]
        assert torch.equal(raters.sum(1), counts)
        assert not ((roles == Role.IMAGE) & raters).any()
        assert torch.equal(raters, first_raters[:, -width:])
        assert torch.equal(roles[raters], first_roles[first_raters])
    assert seen[2][1].shape[1] < first_roles.shape[1]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_kernel_of_the_text_s_rows_is_that_of_the_tokens_that_are_left(family):
    main = stream(adapter(family), SparseVlm(version=2, keep=64, layers=(1, 2, 4)), requests(), 1)
    keep, checked = main.method.keep_tokens, []

    def check(entry, ctx):
        if entry.layer:
            kernel = ctx.scratch[GRAVITY]
            own = gravity(entry.embeddings, kernel.shape[1])
            both = ctx.state[TEXT][:, -kernel.shape[1] :, None] & ctx.is_valid[:, None]
            torch.testing.assert_close(kernel[both], own[both])
            checked.append(kernel.shape[2])
        return keep(entry, ctx)

    main.method.keep_tokens = check
    with torch.inference_mode():
        main.prefill()
    assert len(checked) == 3
    assert checked[0] > checked[1] > checked[2]


def test_separators_behind_an_image_do_not_rate():
    a = adapter("llava_next")
    prompt = a.encode(requests()[0])
    marks = SparseVlm().bind(a.info).token_marks(prompt)[TEXT]
    last = int((prompt.roles == Role.IMAGE).nonzero()[-1])
    assert prompt.ids[last + 1] == a.image_token, "a separator"
    assert not marks[: last + 2].any()
    assert marks[last + 2 :].all()


@pytest.mark.parametrize("version", [1, 2])
def test_layers_hold_what_the_table_says(version):
    a = adapter("llava")
    asked = [request("one", "<image>\nwhat do you see ?", image(0, 60, 30)), *requests()[-1:]]
    n = a.encode(asked[0]).visual_tokens
    table = (400.0, 200.0)
    keep = [max(1, round(n * count / 576)) for count in table]
    first = keep[0] + (int(recycled(torch.tensor([n - keep[0]]))[1]) if version == 1 else 0)
    second = keep[1] + (int(recycled(torch.tensor([first - keep[1]]))[1]) if version == 1 else 0)
    m = SparseVlm(version=version, table=table, layers=(1, 3))
    (responses,) = list(Engine(a, m).answer(asked))
    by_id = {response.id: response for response in responses}
    assert by_id["one"].tokens_by_layer == (n, n, first, first, second, second)
    assert by_id["text"].tokens_by_layer == (0,) * 6


def test_version_1_numbers_anew_and_version_2_does_not():
    assert SparseVlm().bind(INFO).reindexes
    assert not SparseVlm(version=2).bind(INFO).reindexes


def test_without_an_image_nothing_is_dropped():
    a, asked = adapter("internvl"), requests()[-1:]
    forced = forced_tokens(1)
    for version in (1, 2):
        torch.testing.assert_close(
            logits(a, SparseVlm(version=version, keep=64), asked, forced), logits(a, method("greedy"), asked, forced)
        )


def model(n_layers: int, n_heads: int = 32) -> ModelInfo:
    return ModelInfo("m", n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_heads, hidden_size=64)


def test_layers_and_heads_of_other_models():
    assert SparseVlm().bind(INFO).prunes_at == (3, 7, 16)
    assert SparseVlm().bind(model(40)).layers == (2, 6, 15)
    assert SparseVlm().bind(model(28)).layers == (2, 5, 13)
    assert SparseVlm().bind(model(6)).layers == (0, 1, 3)
    assert SparseVlm(version=2).bind(INFO).heads == 14
    assert SparseVlm(version=2).bind(model(32, 40)).heads == 18
    assert SparseVlm(version=2).bind(model(32, 2)).heads == 1
    assert SparseVlm(version=2, heads=5).bind(INFO).heads == 5


def test_profiles_are_the_published_tables():
    for budget in (192, 128, 64):
        assert get_method("sparsevlm", {"profile": f"v1-{budget}"}).table == TABLES[1][budget]
        plus = get_method("sparsevlm", {"profile": f"v2-{budget}"})
        assert (plus.version, plus.table) == (2, TABLES[2][budget])


@pytest.mark.parametrize("keep", [0.2, 100])
def test_other_budgets_scale_the_table_to_a_mean_over_the_layers(keep):
    bound = SparseVlm(keep=keep).bind(INFO)
    shares = list(bound.shares.values())
    mean = (3 + 4 * shares[0] + 9 * shares[1] + 16 * shares[2]) / 32
    assert mean == pytest.approx(keep if keep < 1 else keep / 576)
    assert shares[0] / shares[1] == pytest.approx(303 / 110)
    assert list(SparseVlm(keep=1.0).bind(INFO).shares.values()) == [1, 1, 1]


def test_bad_values():
    with pytest.raises(UsageError, match=r"keep=1\.5 is no budget"):
        SparseVlm(keep=1.5)
    with pytest.raises(UsageError, match="counted out of 576"):
        SparseVlm(table=(600.0,))
    with pytest.raises(UsageError, match=r"layers=\[2, 2\] for a table of 2"):
        SparseVlm(table=(300.0, 100.0), layers=(2, 2)).bind(INFO)
    with pytest.raises(UsageError, match=r"layers=\[31\] for a table of 1"):
        SparseVlm(table=(300.0,), layers=(31,)).bind(INFO)
    with pytest.raises(UsageError, match=r"layers=\[2\] for a table of 3"):
        SparseVlm(layers=(2,)).bind(INFO)
    with pytest.raises(UsageError, match="layers="):
        SparseVlm().bind(model(3))
    with pytest.raises(UsageError, match="heads=40"):
        SparseVlm(version=2, heads=40).bind(INFO)
    with pytest.raises(UsageError, match="version=3"):
        get_method("sparsevlm", {"version": 3})
