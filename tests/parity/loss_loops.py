"""The losses as the loops of their docstrings, and what compares them in value and gradient."""

import torch


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distribution(*shape, seed=0):
    return torch.softmax(3 * randn(*shape, seed=seed), dim=-1)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def same(loss, loop, *inputs):
    """Value and gradient of a loss are those of the loop, in every input that is trained."""
    results = []
    for function in (loss, loop):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    assert results[0][0].dtype == torch.float64
    assert results[0][1].abs().sum() > 0, "a loss without gradient would make this test empty"
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-11)


def softmax(scores):
    weights = [torch.exp(s) for s in scores]
    return [w / sum(weights) for w in weights]


def entropy(target, logits, temperature=1.0):
    return -sum(t * torch.log(p) for t, p in zip(target, softmax(logits / temperature), strict=True))


def loop_binary(logits, wanted):
    loss = 0
    for b in range(len(logits)):
        for c in range(logits.shape[1]):
            p = 1 / (1 + torch.exp(-logits[b, c]))
            loss += -torch.log(p if wanted[b, c] > 0 else 1 - p) / logits.numel()
    return loss


def loop_clip(images, texts, scale):
    loss, N = 0, len(images)
    for i in range(N):
        loss += -torch.log(softmax([scale * images[i] @ texts[j] for j in range(N)])[i]) / (2 * N)
        loss += -torch.log(softmax([scale * texts[i] @ images[j] for j in range(N)])[i]) / (2 * N)
    return loss


def loop_cls(student, teacher, temperature):
    V, B, G = *student.shape[:2], len(teacher)
    parts = {"local": 0 * student.sum(), "global": 0 * student.sum()}
    pairs = [(v, g) for v in range(V) for g in range(G) if v != g]
    for v, g in pairs:
        term = sum(entropy(teacher[g, b], student[v, b], temperature) for b in range(B)) / B / len(pairs)
        parts["global" if v < G else "local"] += term
    return parts["local"], parts["global"]


def loop_koleo(x, group, eps=1e-8):
    loss, rows = 0, [row / row.norm() for row in x]
    for i in range(len(rows)):
        start = i // group * group
        j = max((j for j in range(start, start + group) if j != i), key=lambda j, i=i: rows[i] @ rows[j])
        loss += -torch.log((rows[i] - rows[j] + eps).norm() + eps) / len(rows)
    return loss


def loop_decorrelation(registers):
    B, R, _ = registers.shape
    loss = 0
    for b in range(B):
        for i in range(R):
            for j in range(R):
                if i != j:
                    x, y = registers[b, i], registers[b, j]
                    loss += (x @ y / (x.norm() * y.norm())) ** 2 / (B * R * (R - 1))
    return loss


def loop_mae(prediction, pixels, hidden, norm_pixels):
    errors = []
    for b, i in hidden.nonzero().tolist():
        wanted = pixels[b, i]
        if norm_pixels:
            variance = ((wanted - wanted.mean()) ** 2).sum() / (len(wanted) - 1)
            wanted = (wanted - wanted.mean()) / (variance + 1e-6) ** 0.5
        errors.append(((prediction[b, i] - wanted) ** 2).mean())
    return sum(errors) / len(errors)


def loop_sinkhorn(logits, temperature, iterations=3):
    N, K = logits.shape
    Q = torch.exp(logits / temperature)
    Q = Q / Q.sum()
    for _ in range(iterations):
        for k in range(K):
            Q[:, k] = Q[:, k] / Q[:, k].sum() / K
        for n in range(N):
            Q[n] = Q[n] / Q[n].sum() / N
    return N * Q
