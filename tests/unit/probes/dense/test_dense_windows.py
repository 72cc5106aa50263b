import pytest
import torch

from vitreg.probes.dense.windows import over_windows, window_starts


@pytest.mark.parametrize(
    ("side", "starts"), [(512, [0]), (400, [0]), (513, [0, 1]), (683, [0, 171]), (853, [0, 341]), (854, [0, 341, 342])]
)
def test_windows_start_where_mmsegmentation_starts_them(side, starts):
    grids = max(side - 512 + 341 - 1, 0) // 341 + 1
    assert window_starts(side, 512, 341) == starts
    assert starts == [max(min(i * 341 + 512, side) - 512, 0) for i in range(grids)]


def test_what_does_not_depend_on_the_window_comes_out_as_without_windows():
    images = torch.randn(1, 3, 13, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(over_windows(lambda crop: 2 * crop, images, window=8, stride=5), 2 * images)


def test_overlaps_are_averaged():
    calls = iter([1.0, 3.0])
    out = over_windows(lambda crop: torch.full((1, 1, 4, 4), next(calls)), torch.zeros(1, 3, 4, 6), window=4, stride=2)
    assert out[0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]
