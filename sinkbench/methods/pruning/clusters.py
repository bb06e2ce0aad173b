"""DPC-KNN: clusters around points that are dense and far from denser ones (SparseVLM's recycling, spec §2 step 3)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of the points of B samples, each with its own number of points and of clusters.

    Attributes:
        centres: (B, C) int64, the point at the centre of each cluster, the most central first.
        present: (B, C) bool; the others do not exist.
        cluster_of: (B, P) int64, the cluster of each point; −1 for what is no point.
    """

    centres: Tensor
    present: Tensor
    cluster_of: Tensor

    def means(self, points: Tensor) -> Tensor:
        """(B, C, d) float32: the plain mean of each cluster's points, given values (B, P, d) of them; else 0."""
        numbers = torch.arange(self.centres.shape[1], device=points.device)
        members = (self.cluster_of[:, None] == numbers[:, None]).float()
        return members @ points.float() / members.sum(2, keepdim=True).clamp_min(1)


def dpc_knn(points: Tensor, valid: Tensor, count: Tensor) -> Clusters:
    """Cluster points by density peaks, with as many neighbours as there are clusters.

    No noise breaks ties: of equally dense points none is denser, and of equally central ones the earlier comes first.
    The released code adds up to 1e-6 to the density, which its half precision rounds away unless densities are tiny.

    Args:
        points: (B, P, d).
        valid: (B, P) bool; the others are no points.
        count: (B,) int64, how many clusters, at most as many as points.
    """
    # By differences, not by products: a point's distance to itself is 0, and no other sample has a say.
    distance = torch.cdist(points.float(), points.float(), compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance / math.sqrt(points.shape[2])
    pairs = valid[:, :, None] & valid[:, None]
    farthest = distance.masked_fill(~pairs, 0).amax((1, 2))
    distance = distance.masked_fill(~pairs, torch.inf)
    density = _density(distance, count)
    denser = density[:, None] > density[:, :, None]
    gap = distance.masked_fill(~denser, torch.inf).amin(2).minimum(farthest[:, None])
    peaks = (density * gap).masked_fill(~valid, -torch.inf)
    centres = peaks.argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
    present = torch.arange(centres.shape[1], device=points.device) < count[:, None]
    return Clusters(centres, present, _nearest(distance, centres, present).masked_fill(~valid, -1))


def _density(distance: Tensor, count: Tensor) -> Tensor:
    """(B, P): exp of minus the mean of the `count` smallest squared distances (B, P, P), the own 0 included."""
    rank = torch.arange(distance.shape[2], device=distance.device)
    near = distance.sort(-1).values.square().where(rank < count[:, None, None], 0)
    return (-near.sum(-1) / count[:, None].clamp_min(1)).exp()


def _nearest(distance: Tensor, centres: Tensor, present: Tensor) -> Tensor:
    """(B, P): which of the centres (B, C) is nearest; a centre has itself, whatever lies in the same place."""
    b, p, _ = distance.shape
    to_centres = distance.gather(2, centres[:, None].expand(b, p, -1)).masked_fill(~present[:, None], torch.inf)
    places = torch.arange(p, device=distance.device)
    own = (places[:, None] == centres[:, None]) & present[:, None]
    return to_centres.masked_fill(own, -1).argmin(2)
