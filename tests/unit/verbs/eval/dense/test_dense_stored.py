import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitreg.verbs.eval.dense.stored import at_points


@pytest.mark.parametrize("size", [(12, 16), (9, 5), (6, 8)])
def test_points_lie_where_interpolated_logits_of_the_same_size_do(size):
    # A ramp read at the points is the ramp interpolated between patch centres, up to the pixel that a point falls into.
    height, width = 60, 80
    ramp = np.arange(width, dtype=np.float32)[None].repeat(height, 0)
    found = at_points(ramp, size)
    assert found.shape == size
    centres = F.interpolate(torch.from_numpy(ramp)[None, None], size, mode="bilinear")[0, 0].numpy()
    assert np.abs(found - centres).max() <= 0.5 + 1e-6
