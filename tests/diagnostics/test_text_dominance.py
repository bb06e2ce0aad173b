"""MDI and AEI and what they must satisfy on each sample."""

import pytest
import torch

from sinkbench.diagnostics.text_dominance import dominance, layer_groups, text_sets

TEXT = torch.tensor([[True, True, False, False, False, True, False]])
IMAGE = torch.tensor([[False, False, True, True, True, False, False]])


def mass(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 4, 7, generator=torch.Generator().manual_seed(seed))


def test_even_attention_is_balanced():
    found = dominance(torch.full((1, 7), 0.2), TEXT, IMAGE)
    assert (found.mdi.item(), found.aei.item()) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("seed", range(5))
def test_the_identity_of_both_holds_for_each_sample_and_layer(seed):
    image = IMAGE.clone()
    image[0, 4] = False
    found = dominance(mass(seed), TEXT, image)
    torch.testing.assert_close(found.aei, found.mdi / (1 + found.tokens * (found.mdi - 1)))
    assert found.mdi.sub(1).abs().min() > 1e-3


def test_scale_does_not_matter_and_swapping_inverts():
    found, scaled, swapped = (
        dominance(*given) for given in ((mass(), TEXT, IMAGE), (mass() * 9, TEXT, IMAGE), (mass(), IMAGE, TEXT))
    )
    torch.testing.assert_close(found.mdi, scaled.mdi)
    torch.testing.assert_close(found.mdi, 1 / swapped.mdi)
    torch.testing.assert_close(found.attention + swapped.attention, torch.ones(1, 4))


def test_image_tokens_doubled_at_half_the_weight_double_mdi():
    weights = mass()
    doubled = torch.cat([weights.masked_fill(IMAGE[:, None], 0), weights[..., 2:5] / 2, weights[..., 2:5] / 2], dim=-1)
    text = torch.cat([TEXT, torch.zeros(1, 6).bool()], dim=1)
    image = torch.cat([torch.zeros(1, 7).bool(), torch.ones(1, 6).bool()], dim=1)
    torch.testing.assert_close(dominance(doubled, text, image).mdi, 2 * dominance(weights, TEXT, IMAGE).mdi)


def test_the_readings_of_text_differ_by_the_sink():
    weights = torch.tensor([[0.7, 0.05, 0.05, 0.05, 0.05, 0.1, 0.0]])
    sets = text_sets(TEXT, torch.tensor([0]), torch.tensor([[True, True, False, False, False, False, False]]))
    assert {name: chosen.sum().item() for name, chosen in sets.items()} == {"all": 3, "no_first": 2, "no_template": 1}
    found = {name: dominance(weights, chosen, IMAGE).mdi.item() for name, chosen in sets.items()}
    assert found == {"all": pytest.approx(17 / 3), "no_first": pytest.approx(1.5), "no_template": pytest.approx(2)}


def test_a_sample_without_image_or_text_has_neither():
    nothing = torch.zeros_like(TEXT)
    assert dominance(mass(), TEXT, nothing).mdi.isnan().all()
    assert dominance(mass(), nothing, IMAGE).aei.isnan().all()


def test_the_groups_of_layers():
    layers = list(range(32))
    assert [layers[group] for group in layer_groups(32).values()] == [[0, 1], [15, 16], [30, 31]]
    assert [list(range(3))[group] for group in layer_groups(3).values()] == [[0, 1], [0, 1], [1, 2]]


def test_padding_changes_nothing(valid, spread, attention):
    weights = spread([w[:, -3:].sum(1) for w in attention], fill=5.0)
    text = spread([torch.arange(w.shape[-1]) % 2 == 0 for w in attention])
    image = valid & ~text
    together = dominance(weights, text, image)
    for row, real in enumerate(valid):
        alone = dominance(weights[row : row + 1, :, real], text[row : row + 1, real], image[row : row + 1, real])
        torch.testing.assert_close(together.mdi[row], alone.mdi[0])
        torch.testing.assert_close(together.aei[row], alone.aei[0])
