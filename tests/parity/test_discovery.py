"""Object discovery against the loops of its docstrings as code, the dense solver, and a transcription of the papers' steps."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from vitreg.discovery.boxes import enclosing, iou
from vitreg.discovery.features import NORMALIZE, automatic_bias, prepare
from vitreg.discovery.lost import lost, lost_batch
from vitreg.discovery.spectrum import second_eigenvector
from vitreg.discovery.tokencut import maskcut, tokencut

GRIDS = [(1, 1), (1, 9), (7, 1), (4, 9), (11, 6), (12, 13)]  # 12 x 13 > 128: more than one block, and Lanczos


def blobs(grid, seed, dim=16, common=0.0):
    """Features of a background and two rectangles, with noise, float64; `common` adds the same vector to all."""
    rows, cols = grid
    draw = np.random.default_rng(seed)
    kind = np.zeros(grid, dtype=int)
    for which in (1, 2):
        r, c = draw.integers(rows), draw.integers(cols)
        kind[r : r + 1 + rows // 3, c : c + 1 + cols // 3] = which
    centres = draw.standard_normal((3, dim))
    x = centres[kind.ravel()] + 0.7 * draw.standard_normal((rows * cols, dim)) + common * draw.standard_normal(dim)
    return torch.from_numpy(x)


def waves(grid, seed, common=0.0):
    """Features that vary smoothly, with noise: no two patches have the same links, so the best cut is unique."""
    draw = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 2)
    smooth = np.cos(places @ draw.uniform(0, 0.6, (2, 6)) + draw.uniform(0, 6, 6)) @ draw.standard_normal((6, 16))
    noise = draw.standard_normal(smooth.shape)
    return torch.from_numpy(smooth + noise + common * draw.standard_normal(16))


def flood(allowed, start, grid):
    if start not in allowed:
        return {start}
    found, edge = {start}, [start]
    while edge:
        r, c = divmod(edge.pop(), grid[1])
        for i, j in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            q = i * grid[1] + j
            if 0 <= i < grid[0] and 0 <= j < grid[1] and q in allowed and q not in found:
                found.add(q)
                edge.append(q)
    return found


def loop_lost(features, grid, bias, k):
    N = len(features)
    A = (features @ features.T + bias).tolist()
    degree = [sum(A[p][q] > 0 for q in range(N) if q != p) for p in range(N)]
    order = sorted(range(N), key=lambda p: degree[p])
    seed, potentials = order[0], order[:k]
    similars = [p for p in potentials if p == seed or A[seed][p] > 0]
    M = [sum(A[s][p] for s in similars) for p in range(N)]
    mask = flood({p for p in range(N) if M[p] > 0}, seed, grid)
    rows, cols = [p // grid[1] for p in mask], [p % grid[1] for p in mask]
    return (min(rows), min(cols), max(rows) + 1, max(cols) + 1), seed, similars, degree, A[seed], mask


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("common", [0.0, 3.0])
@pytest.mark.parametrize("bias", [0.0, -4.0, 1.5])
def test_lost_is_the_loop(grid, common, bias):
    for seed, k in ((0, 100), (1, 5), (2, 1)):
        x = blobs(grid, seed, common=common)
        box, first, similars, degree, row, mask = loop_lost(x, grid, bias, k)
        found = lost(x, grid, bias=bias, k=k)
        assert enclosing(found.mask) == box
        assert found.box == (None if found.nothing else box)
        assert found.seed == first
        assert found.similars.tolist() == similars
        assert found.degree.flatten().tolist() == degree
        assert found.gram_row.flatten().tolist() == pytest.approx(row)
        assert set(found.mask.flatten().nonzero().flatten().tolist()) == mask


def test_a_batch_is_its_images_one_by_one():
    grid = (12, 13)
    x = torch.stack([blobs(grid, seed, common=seed / 4).float() for seed in range(6)])
    biases = automatic_bias(x)
    assert len(set(biases.tolist())) == 6
    for own, bias, found in zip(x, biases, lost_batch(x, grid, bias=biases), strict=True):
        alone = lost(own, grid, bias=float(bias))
        assert (found.box, found.seed) == (alone.box, alone.seed)
        for name in ("similars", "degree", "gram_row", "mask"):
            assert torch.equal(getattr(found, name), getattr(alone, name))


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_automatic_bias_is_the_loop(normalize):
    for grid in ((1, 2), (1, 3), (4, 9), (11, 6)):
        f = prepare(blobs(grid, 3, common=1.0), normalize)
        N = len(f)
        medians = [sorted(float(f[p] @ f[q]) for q in range(N) if q != p)[(N - 2) // 2] for p in range(N)]
        assert automatic_bias(f).item() == pytest.approx(-sorted(medians)[(N - 1) // 2])


def test_iou_is_the_loop():
    draw = np.random.default_rng(0)
    corner = draw.integers(0, 50, (12, 2))
    a = torch.from_numpy(np.concatenate([corner, corner + draw.integers(1, 40, (12, 2))], axis=1))
    b = a[:7] + torch.from_numpy(draw.integers(-3, 4, (7, 4)))
    out = iou(a, b)
    assert out.shape == (12, 7)
    for i, (x0, y0, x1, y1) in enumerate(a.tolist()):
        for j, (u0, v0, u1, v1) in enumerate(b.tolist()):
            both = max(min(x1, u1) - max(x0, u0), 0) * max(min(y1, v1) - max(y0, v0), 0)
            areas = (x1 - x0) * (y1 - y0 + 1e-7) + (u1 - u0) * (v1 - v0 + 1e-7)
            assert out[i, j].item() == pytest.approx(both / (areas - both + 1e-7), abs=1e-12)


def dense_tokencut(features, grid, tau, eps=1e-5, left=None):
    """The cut of the patches `left` (all by default): eigenvector on them, seed, mask."""
    left = list(range(len(features))) if left is None else left
    unit = [features[p].numpy() / math.sqrt(float((features[p] ** 2).sum())) for p in left]
    W = np.array([[1.0 if float(a @ b) > tau else eps for b in unit] for a in unit])
    D = np.diag(W.sum(1))
    values, vectors = scipy.linalg.eigh(D - W, D)
    assert values[2] - values[1] > 1e-3, "several best cuts: nothing to compare"
    v = vectors[:, 1]
    tie = 1e-8 * abs(v).max()
    first = next(i for i in range(len(v)) if abs(v[i]) >= abs(v).max() - tie)
    side = v > v.mean() + tie if v[first] > v.mean() else v < v.mean() - tie
    mask = flood({left[i] for i in np.flatnonzero(side)}, left[first], grid)
    return v * np.sign(v[first]), left[first], mask


@pytest.mark.parametrize("grid", [(1, 23), (19, 1), (4, 9), (11, 6), (12, 13)])
@pytest.mark.parametrize(("common", "tau"), [(0.0, 0.2), (1.0, 0.2), (0.0, -0.1)])
def test_tokencut_is_the_dense_solve(grid, common, tau):
    for seed in range(4):
        x = waves(grid, seed, common=common)
        v, first, mask = dense_tokencut(x, grid, tau)
        found = tokencut(x, grid, tau=tau)
        assert found.eigenvector.flatten().numpy() == pytest.approx(v, abs=1e-7)
        assert found.seed == first
        assert set(found.mask.flatten().nonzero().flatten().tolist()) == mask


def links_of(x):
    unit = prepare(x, "l2")
    return (unit @ unit.T).numpy() > 0.2


@pytest.mark.parametrize("steps", [60, 5])  # 5 are too few, so the dense solver answers
def test_both_solvers_find_the_second_eigenvector(steps, monkeypatch):
    links = links_of(waves((14, 15), 0))
    W = np.where(links, 1.0, 1e-5)
    D = np.diag(W.sum(1))
    values, vectors = scipy.linalg.eigh(D - W, D)
    asked = []
    eigh = scipy.linalg.eigh
    monkeypatch.setattr("scipy.linalg.eigh", lambda a, **k: asked.append(len(a) == 210) or eigh(a, **k))
    monkeypatch.setattr("vitreg.discovery.spectrum._STEPS", steps)
    found = second_eigenvector(links, 1e-5)
    assert any(asked) == (steps == 5)
    v = found.vector
    assert (found.value, found.gap) == pytest.approx((values[1], values[2] - values[1]), abs=1e-12)
    assert v @ D @ v == pytest.approx(1)
    assert abs(v @ D @ vectors[:, 1]) == pytest.approx(1, abs=1e-9)
    assert (D - W) @ v == pytest.approx(values[1] * D @ v, abs=1e-9)


def test_an_eigenvalue_that_is_not_the_first_is_not_taken_for_it_where_they_are_close(monkeypatch):
    links = links_of(waves((14, 15), 1))
    right = second_eigenvector(links, 1e-5).vector

    def third(product, count):
        values, vectors = np.linalg.eigh(product(np.eye(count)))
        return np.array([values[-2] - 1e-6, values[-2]]), vectors[:, -2]

    monkeypatch.setattr("vitreg.discovery.spectrum._lanczos", third)
    v = second_eigenvector(links, 1e-5).vector
    assert v * np.sign(v[0]) == pytest.approx(right * np.sign(right[0]), abs=1e-9)


def test_maskcut_cuts_what_is_left():
    grid = (12, 13)
    for seed in range(3):
        x = waves(grid, seed)
        found, left = maskcut(x, grid), list(range(156))
        assert len(found) == 3
        for each in found:
            v, first, mask = dense_tokencut(x, grid, 0.15, left=left)
            assert each.seed == first
            assert set(each.mask.flatten().nonzero().flatten().tolist()) == mask
            values = each.eigenvector.flatten()
            assert values[left].numpy() == pytest.approx(v, abs=1e-7)
            assert not values[[p for p in range(156) if p not in left]].any()
            left = [p for p in left if p not in mask]


@pytest.fixture(scope="module")
def transcription():
    """The papers' steps as a user would write them, one image at a time: what the benchmark compares with."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "discovery.py"
    spec = importlib.util.spec_from_file_location("benchmarks_discovery", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_fast_and_transcribed_agree(transcription):
    grid = (14, 15)
    for seed in range(5):
        x = waves(grid, seed, common=seed / 4)
        assert transcription.literal_lost(x, grid) == lost(x, grid).box
        assert transcription.literal_tokencut(x, grid) == tokencut(x, grid).box
