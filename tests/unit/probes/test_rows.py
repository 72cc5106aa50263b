import numpy as np
import pytest
import torch

from vitreg.errors import UserError
from vitreg.probes.rows import Beside, Joined, Subset, check_labels, chunks, read


def test_every_kind_of_rows_reads_the_same(tmp_path):
    values = np.arange(60, dtype=np.float16).reshape(12, 5)
    values.tofile(tmp_path / "rows")
    index = torch.tensor([7, 2, 11])
    for rows in (torch.from_numpy(values), np.memmap(tmp_path / "rows", np.float16, "r", shape=(12, 5))):
        wanted = torch.from_numpy(values).float()
        torch.testing.assert_close(read(rows, slice(3, 6)), wanted[3:6])
        torch.testing.assert_close(read(rows, index), wanted[index])
        assert torch.equal(torch.cat([part for _, part in chunks(rows, 5)]), wanted)
        assert torch.equal(read(Subset(rows, index), slice(1, 3)), wanted[index[1:]])
        joined = Joined(Subset(rows, index), rows)
        assert torch.equal(read(joined, torch.tensor([4, 0, 3])), wanted[torch.tensor([1, 7, 0])])
        assert torch.equal(torch.cat([part for _, part in chunks(joined, 4)]), torch.cat([wanted[index], wanted]))
        beside = Beside([rows, rows])
        assert beside.shape == (12, 10)
        assert torch.equal(read(beside, index), torch.cat([wanted[index]] * 2, 1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_named(bad):
    rows = torch.zeros(10, 3)
    rows[7, 1] = bad
    with pytest.raises(UserError, match="image 7 are not finite"):
        list(chunks(rows, 4))
    with pytest.raises(UserError, match="image 7 are not finite"):
        read(rows, torch.tensor([2, 7]))


def test_a_sum_that_overflows_is_no_broken_feature():
    rows = torch.full((4, 3), 3e38)
    assert torch.equal(read(rows, slice(0, 4)), rows)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [([0, 3], "label 3 lies outside 0 to 2"), ([-1, 0], "label -1"), ([1, 1], "one class"), ([1], "1 training image ")],
)
def test_labels_nothing_can_be_learned_from(labels, sentence):
    with pytest.raises(UserError, match=sentence):
        check_labels(torch.zeros(len(labels), 2), torch.tensor(labels), 3)
