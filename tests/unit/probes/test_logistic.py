import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from vitreg.errors import UserError
from vitreg.probes.logistic import GRID, LogisticPath, LogisticSweep, split
from vitreg.probes.logistic_terms import Features, Sigmoids, Softmax


def features(n=240, width=12, classes=4, seed=0, spread=1.0):
    """Classes that overlap, in features of very different scales that do not lie about 0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    means = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    scales = torch.logspace(-1, 1, width)
    x = (spread * means[labels] + torch.randn(n, width, generator=generator)) * scales + 3
    return x, labels


def sklearn(x, y, c):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(C=c, solver="newton-cg", max_iter=1000, tol=1e-10).fit(x.double().numpy(), y.numpy())


def test_the_grid_is_the_official_one():
    assert len(GRID) == 45
    np.testing.assert_allclose(np.log10(GRID), np.linspace(-6, 5, 45), atol=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_solutions_are_scikit_learns(classes):
    x, y = features(classes=classes)
    queries, truth = features(n=1000, classes=classes, seed=1)
    cs = (1e-4, 1e-2, 1.0, 100.0)
    path = LogisticPath(cs, tolerance=1e-11).fit(x, y)
    assert all(path.converged_)
    for i, c in enumerate(cs):
        other = sklearn(x, y, c)
        np.testing.assert_allclose(path.coef_[i], other.coef_, rtol=2e-3, atol=2e-3 * np.abs(other.coef_).max())
        # The intercepts of a softmax are fixed up to a constant, which scikit-learn happens to leave at any value.
        ours, theirs = path.intercept_[i].numpy(), other.intercept_
        if classes > 2:
            ours, theirs = ours - ours.mean(), theirs - theirs.mean()
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3 * np.abs(theirs).max())
        assert (path.predict(queries, i).numpy() == other.predict(queries.double().numpy())).mean() > 0.995
        assert path.score(queries, truth, "top1")[i] == pytest.approx(100 * other.score(queries, truth), abs=0.2)


def objective(path, i, x, y):
    """What scikit-learn's documentation says is minimised, term by term."""
    loss = torch.nn.functional.cross_entropy(path.decision(x, i).double(), y, reduction="sum")
    return float(path.cs[i] * loss + path.coef_[i].double().square().sum() / 2)


def test_the_whole_grid_reaches_minima_no_worse_than_scikit_learns():
    x, y = features(n=90, width=30)  # separable: C has no upper end
    path = LogisticPath().fit(x, y)
    for i in (0, 12, 22, 32, 44):
        other = sklearn(x, y, path.cs[i])
        theirs = LogisticPath((path.cs[i],)).fit(x, y)
        theirs.coef_, theirs.intercept_ = (torch.from_numpy(v)[None].float() for v in (other.coef_, other.intercept_))
        assert objective(path, i, x, y) <= objective(theirs, 0, x, y) * (1 + 1e-5)


def test_more_features_than_images():
    x, y = features(n=30, width=100)
    path = LogisticPath((1e-3, 1.0), tolerance=1e-11).fit(x, y)
    for i, c in enumerate(path.cs):
        other = sklearn(x, y, c)
        np.testing.assert_allclose(path.coef_[i], other.coef_, atol=2e-3 * np.abs(other.coef_).max())


def test_features_read_anew_in_every_step_give_the_same(tmp_path):
    x, y = features()
    file = np.memmap(tmp_path / "x", np.float32, "w+", shape=tuple(x.shape))
    file[:] = x.numpy()
    cs = (1e-3, 1.0, 1e3)
    held, anew = LogisticPath(cs).fit(x, y), LogisticPath(cs, memory=0).fit(file, y)
    for i in range(3):
        torch.testing.assert_close(
            held.coef_[i], anew.coef_[i], rtol=1e-2, atol=1e-2 * float(held.coef_[i].abs().max())
        )


def test_several_labels_are_one_against_the_rest():
    x, y = features()
    labels = torch.stack([y == 0, y < 2, x[:, 3] > 3], 1).long()
    path = LogisticPath((0.1,), tolerance=1e-11).fit(x, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = OneVsRestClassifier(LogisticRegression(C=0.1, solver="newton-cg", tol=1e-10)).fit(x.double(), labels)
    np.testing.assert_allclose(path.decision(x, 0), other.decision_function(x.double()), rtol=5e-3, atol=5e-3)
    assert path.score(x, labels, "map")[0] > 90


def test_labels_that_never_or_always_hold_are_answered_so():
    x, y = features()
    labels = torch.stack([y == 0, torch.zeros_like(y) > 0, y >= 0], 1).long()
    logits = LogisticPath((1.0,)).fit(x, labels).decision(x, 0)
    assert torch.isfinite(logits[:, 0]).all()
    assert (logits[:, 1] == -torch.inf).all()
    assert (logits[:, 2] == torch.inf).all()


def test_a_class_without_an_image_is_never_answered_and_changes_nothing():
    x, y = features(classes=3)
    plain = LogisticPath((1.0,)).fit(x, y)
    gaps = LogisticPath((1.0,)).fit(x, y * 2 + 1, classes=7)
    assert torch.equal(gaps.predict(x), 2 * plain.predict(x) + 1)
    assert gaps.decision(x, 0).shape == (240, 7)


def test_c_is_chosen_on_images_held_out_and_all_are_learned_from():
    x, y = features(spread=0.4)
    keep, out = split(len(x), 0)
    assert len(out) == 24
    assert sorted([*keep.tolist(), *out.tolist()]) == list(range(240))
    sweep = LogisticSweep(GRID[8:40:4]).fit(x, y)
    path = LogisticPath(sweep.cs).fit(x[keep], y[keep])
    assert sweep.held_out_ == pytest.approx(path.score(x[out], y[out], "top1"))
    assert sweep.c_ == sweep.cs[int(np.argmax(sweep.held_out_))]
    whole = LogisticPath((sweep.c_,)).fit(x, y)
    torch.testing.assert_close(sweep.best_.coef_, whole.coef_)


def test_a_given_held_out_side_is_used_and_joined():
    x, y = features()
    other, truth = features(seed=5, n=100)
    sweep = LogisticSweep((1e-3, 1.0)).fit(x, y, held_out=(other, truth))
    assert sweep.held_out_ == pytest.approx(LogisticPath(sweep.cs).fit(x, y).score(other, truth, "top1"))
    whole = LogisticPath((sweep.c_,)).fit(torch.cat([x, other]), torch.cat([y, truth]))
    torch.testing.assert_close(sweep.best_.coef_, whole.coef_)


@pytest.mark.parametrize("kind", ["softmax", "sigmoids"])
def test_gradients_are_those_of_the_written_loss(kind):
    x, y = features(n=50, classes=3)
    rows = Features(x, torch.device("cpu"), 1 << 30)
    point = 0.3 * torch.randn(3, rows.rank + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([y == c for c in range(3)], 1).long()
    value, gradient = (Softmax(y, 3) if kind == "softmax" else Sigmoids(labels))(rows, point, 0.1)
    point.requires_grad_()
    turned = torch.cat([block for _, block in rows.blocks(3)]).double()
    logits = turned @ point[:, :-1].T + point[:, -1]
    wanted = (
        torch.nn.functional.cross_entropy(logits, y)
        if kind == "softmax"
        else torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum") / 50
    ) + 0.05 * point[:, :-1].square().sum()
    wanted.backward()
    assert value == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(gradient, point.grad, rtol=1e-4, atol=1e-5)


def test_losses_keep_their_digits_where_classes_are_far_apart():
    margin = 40.0  # the loss is 2 exp(-40), which 1 + exp(-40) has no digits for
    logits = torch.tensor([[margin], [0.0], [0.0]])
    loss, residuals = Softmax(torch.tensor([0]), 3).losses(logits.clone(), slice(0, 1))
    assert loss.item() == pytest.approx(2 * np.exp(-margin), rel=1e-4)
    np.testing.assert_allclose(residuals[:, 0], np.array([-2, 1, 1]) * np.exp(-margin), rtol=1e-4)
    loss, _ = Softmax(torch.tensor([1]), 3).losses(1e4 * logits, slice(0, 1))
    assert loss.item() == pytest.approx(4e5, rel=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (torch.eye(1), [0], "1 training image "),
        (torch.eye(3), [1, 1, 1], "one class"),
        (torch.eye(3), [0, 1, 7], "label 7 lies outside"),
        (torch.eye(3) * float("nan"), [0, 1, 2], "not finite"),
        (torch.eye(3), [[0, 1], [0, 1], [0, 1]], "nothing to learn"),
        (torch.eye(3), [[0, 1], [2, 1], [0, 1]], "0 or 1"),
    ],
)
def test_bad_data(x, y, sentence):
    with pytest.raises(UserError, match=sentence):
        LogisticPath().fit(x, torch.tensor(y), classes=3)


@pytest.mark.parametrize(("count", "out"), [(2, 1), (9, 1), (10, 1), (16, 1), (19, 1), (20, 2), (299, 29)])
def test_what_is_held_out_is_a_tenth_rounded_down_as_in_the_official_code(count, out):
    keep, held = split(count, 0)
    assert (len(keep), len(held)) == (count - out, out)
    assert sorted([*keep.tolist(), *held.tolist()]) == list(range(count))


def test_one_image_cannot_be_split():
    with pytest.raises(UserError, match="1 training image "):
        LogisticSweep().fit(torch.eye(1), torch.tensor([0]))


def test_features_that_are_all_equal_leave_the_commonest_class():
    path = LogisticPath((1e-3, 1.0, 1e3)).fit(torch.ones(10, 4), torch.tensor([0] * 3 + [1] * 5 + [2] * 2))
    assert path.predict(torch.ones(2, 4)).tolist() == [1, 1]


MEMORY = """
import resource, sys
import numpy as np, torch
from vitreg.probes.logistic import LogisticPath
torch.set_num_threads(1)
x = np.memmap(sys.argv[1], np.float16, "r", shape=(200_000, 256))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
LogisticPath((1e-3, 1.0), steps=2, memory=0).fit(x, torch.arange(len(x)) % 100)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_follow_the_features(tmp_path):
    file = np.memmap(tmp_path / "x", np.float16, "w+", shape=(200_000, 256))
    for start in range(0, len(file), 10_000):
        file[start : start + 10_000] = np.random.default_rng(start).standard_normal((10_000, 256), np.float32)
    file.flush()
    done = subprocess.run([sys.executable, "-c", MEMORY, file.filename], capture_output=True, text=True, check=True)
    # 195 MiB in float32, 390 MiB in float64. Pages of the mapped file (98 MiB) count as well.
    assert int(done.stdout) / 1024 < 330
