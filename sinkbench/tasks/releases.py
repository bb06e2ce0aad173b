"""Benchmarks as their authors released them, as rows of the hub's schema."""

from sinkbench.tasks import releases_captions, releases_choice, releases_open, releases_vqa, releases_yesno
from sinkbench.tasks.layout import Release

RELEASES: dict[str, Release] = {
    **releases_yesno.RELEASES,
    "amber_g": releases_captions.amber_rows,
    "chair": releases_captions.chair_rows,
    "cv_bench": releases_choice.cv_bench,
    "mmvp": releases_choice.mmvp,
    "photos_chair": releases_captions.photos_chair_rows,
    "photos_pope": releases_captions.photos_pope_rows,
    "scienceqa": releases_choice.scienceqa,
    "seed_bench": releases_choice.seed_bench,
    "mm_vet": releases_open.mm_vet,
    "mmhal": releases_open.mmhal,
    "llava_bench": releases_open.llava_bench,
    "gqa": releases_vqa.gqa,
    "textvqa": releases_vqa.textvqa,
    "vizwiz": releases_vqa.vizwiz,
    "vqav2": releases_vqa.vqav2,
}
"""By the name that a task's YAML gives (`release`)."""
