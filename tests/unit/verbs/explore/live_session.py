"""A session of the live explorer with tiny models, and how its server is asked in this process."""

import io
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from starlette.testclient import TestClient

from vitreg.verbs.explore.live.serve import opened
from vitreg.verbs.explore.options import ExploreOptions


def small(name="vit_tiny_patch16_224", **more):
    import timm

    torch.manual_seed(0)
    return timm.create_model(
        name, **{"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0, **more}
    )


@contextmanager
def session(models, images=(), **options):
    """A session without a running server; its application answers to `asking`."""
    found = opened(models, images, options=ExploreOptions(**options), loading={"precision": "fp32"})
    try:
        yield found
    finally:
        found.close()


def asking(session, **more):
    """A client at the address of a session."""
    return TestClient(session.app, base_url=session.address, **more)


def picture(seed=0, size=(80, 64), kind="png"):
    """The bytes of a photo."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def drop(client, content=None, name="a.png", model=0, **words):
    """Send a photo as the page does."""
    return client.post("photos", params={"name": name, "model": model, **words}, content=content or picture())


def refused(reply):
    """The sentence of a photo that could not be measured: an answer, not a fault of the request."""
    assert reply.status_code == 200, reply.text
    (said,) = reply.json().values()
    assert list(reply.json()) == ["refused"]
    assert said.count("\n") == 0
    assert "Traceback" not in said
    return said


def one_line(reply, status):
    """The sentence of a reply that is no document."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"].startswith("text/plain")
    assert reply.text.strip().count("\n") == 0
    assert "Traceback" not in reply.text
    return reply.text.strip()
