"""What an experiment says where its data are missing, and the option that names them."""

from __future__ import annotations

from vitreg.experiments.experiment import Need

LACKING: dict[Need, str] = {
    "images": "It needs images; name them with --images.",
    "classes": "It needs images with classes; name DATA with --classes.",
    "boxes": "It needs images with true boxes; name a set with --boxes.",
    "masks": "It needs images with a class for every pixel; name DATA with --masks.",
    "depths": "It needs images with a distance for every pixel; name DATA with --depths.",
}
