"""Nobody gets in: no file of a foreign model runs code, asks a question, or leads out of its folder."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import sys

import pytest
import torch
from torch import nn

from vitreg.backbones.loading.fetch import fetch
from vitreg.backbones.loading.load import load
from vitreg.errors import UserError

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import ViTConfig, ViTModel, ViTImageProcessor

class C(ViTConfig):
    model_type = "stranger"

class M(ViTModel):
    config_class = C

class P(ViTImageProcessor):
    pass
"""


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def model(tmp_path):
    """A folder of a tiny ViT."""
    folder = tmp_path / "model"
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that exists only if foreign code ran. The user at the keyboard says yes to everything."""
    asked = []
    monkeypatch.setattr(builtins, "input", lambda question="": asked.append(question) or "y")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    yield tmp_path / "pwned"
    assert not asked
    assert not (tmp_path / "pwned").exists()


def change(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_model_that_is_code_of_its_repository_is_refused_in_one_sentence(model, mark):
    (model / "theirs.py").write_text(CODE.format(mark=str(mark)))
    auto = {"AutoConfig": "theirs.C", "AutoModel": "theirs.M"}
    change(model / "config.json", model_type="stranger", auto_map=auto)
    for random in (False, True):
        with pytest.raises(UserError, match="needs code of its own repository, which vitreg never runs") as caught:
            load(f"hf:{model}", device="cpu", random=random)
        assert "\n" not in str(caught.value)


def test_code_beside_a_model_that_the_library_has_is_left_alone(model, mark):
    (model / "theirs.py").write_text(CODE.format(mark=str(mark)))
    change(model / "config.json", auto_map={"AutoConfig": "theirs.C", "AutoModel": "theirs.M"})
    assert load(f"hf:{model}", device="cpu").depth == 2


def test_an_image_processor_that_is_code_is_refused_and_tensors_still_run(model, mark):
    (model / "theirs.py").write_text(CODE.format(mark=str(mark)))
    file = model / "preprocessor_config.json"
    file.write_text(json.dumps({"image_processor_type": "P", "auto_map": {"AutoImageProcessor": "theirs.P"}}))
    change(model / "config.json", model_type="vit")
    backbone = load(f"hf:{model}", device="cpu", precision="fp32")
    assert backbone(torch.randn(1, 3, 32, 32)).values.shape == (1, 17, 32)
    if backbone.preprocess is None:  # versions that know the model's own processor take that
        with pytest.raises(UserError, match="is code of its own repository"):
            backbone.prepared()


def test_a_kernel_named_in_a_config_is_not_fetched(model, mark, monkeypatch):
    seen = []
    monkeypatch.setattr("transformers.modeling_utils.is_kernel", lambda name: seen.append(name) or False, raising=False)
    change(model / "config.json", _attn_implementation="evil/kernel", attn_implementation="evil/kernel")
    backbone = load(f"hf:{model}", device="cpu", precision="fp32")
    assert backbone.attention_status().source == "sdpa"
    assert "evil/kernel" not in seen


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "shards/../../secret.safetensors"])
def test_no_index_leads_out_of_its_folder(model, mark, name):
    (model / "model.safetensors").rename(model.parent / "secret.safetensors")
    index = {"metadata": {}, "weight_map": {"embeddings.cls_token": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside its folder"):
        load(f"hf:{model}", device="cpu")


def test_no_link_leads_out_of_its_folder_except_into_the_blobs_of_the_hubs_cache(model, mark, tmp_path):
    cache = tmp_path / "models--owner--name"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for file in list(model.iterdir()):
        file.rename(cache / "blobs" / f"sum-of-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/sum-of-{file.name}")
    assert load(f"hf:{snapshot}", device="cpu").depth == 2
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"model\.safetensors leads to /etc/passwd, outside its folder"):
        load(f"hf:{snapshot}", device="cpu")


def test_an_adapter_does_not_lead_to_the_model_it_names(model, mark):
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    with pytest.raises(UserError, match="is an adapter"):
        load(f"hf:{model}", device="cpu")


def test_quantised_weights_are_refused_before_a_library_is_asked_for(model, mark):
    change(model / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(UserError, match="are quantised"):
        load(f"hf:{model}", device="cpu")


@pytest.mark.parametrize("text", ["{", "[]", "\xff", '{"model_type": 3}', '{"model_type": "vit", "hidden_size": "x"}'])
def test_a_broken_config_or_processor_is_one_sentence(model, mark, text):
    (model / "preprocessor_config.json").write_text(text, encoding="latin-1")
    with contextlib.suppress(UserError):  # a processor of another model type may still be one
        load(f"hf:{model}", device="cpu")
    (model / "preprocessor_config.json").unlink()
    (model / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        load(f"hf:{model}", device="cpu")
    assert "\n" not in str(caught.value)
    assert "connection" not in str(caught.value)


def test_a_folder_without_weights_is_not_called_unreachable(model, mark):
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load the weights") as caught:
        load(f"hf:{model}", device="cpu")
    assert "connection" not in str(caught.value)


@pytest.mark.parametrize("environment", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None])
def test_no_library_loads_pickled_code_whatever_it_or_the_environment_asks_for(
    tmp_path, mark, environment, monkeypatch
):
    if environment is not None:
        monkeypatch.setenv(environment, "1")
    torch.save({"bomb": Bomb(mark)}, tmp_path / "weights.pth")
    before = dict(os.environ)

    def like_torchvision():  # whose weights are read with weights_only=False
        return torch.load(tmp_path / "weights.pth", weights_only=False)

    for online in (True, False):
        with pytest.raises(UserError, match="hold pickled code, which vitreg never runs"):
            fetch("torchvision:vit_b_16", online, like_torchvision)
    assert dict(os.environ) == before


def test_torchvisions_own_download_is_read_as_values_only(tmp_path, mark, monkeypatch):
    torch.save({"bomb": Bomb(mark)}, tmp_path / "vit.pth")

    def downloaded(_url, *_args, weights_only=False, **_kwargs):
        return torch.load(tmp_path / "vit.pth", weights_only=weights_only)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", downloaded)
    with pytest.raises(UserError, match="pickled code"):
        load("torchvision:vit_b_32", device="cpu")


def test_a_question_of_a_library_gets_no_answer():
    with pytest.raises(EOFError):
        fetch("hf:x", False, lambda: sys.stdin.readline() or (_ for _ in ()).throw(EOFError()))


HUBCONF = """
import pathlib
pathlib.Path({mark!r}).touch()
dependencies = ["torch", "timm"]

def toy(pretrained=True, **kwargs):
    from timm.models.vision_transformer import VisionTransformer
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
"""


def test_a_hub_repository_runs_only_where_it_is_trusted(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUBCONF.format(mark=str(tmp_path / "ran")))
    for spec in (f"hub:{tmp_path}:toy", "hub:owner/name:toy"):
        with pytest.raises(UserError, match=r"runs the code of .*; add trust \(in Python trust=True\)"):
            load(spec, device="cpu")
    assert not (tmp_path / "ran").exists()
    assert load(f"hub:{tmp_path}:toy", device="cpu", trust=True).depth == 2
    assert (tmp_path / "ran").exists()


def test_torch_hub_asks_no_question_of_its_own(tmp_path, mark, monkeypatch):
    called = {}

    def hub_load(repo_or_dir, **arguments):
        called.update(arguments, repo=repo_or_dir)
        return nn.Identity()

    monkeypatch.setattr("torch.hub.load", hub_load)
    with pytest.raises(UserError, match="not a Vision Transformer"):
        load("hub:owner/name:toy", device="cpu", trust=True)
    assert called["repo"] == "owner/name"
    assert called["trust_repo"] is True


def test_help_says_what_trust_does(capsys):
    from vitreg.cli import run

    for verb in ("scan", "maps", "doctor", "discover", "extract"):
        with pytest.raises(SystemExit):
            run([verb, "--help"])
        words = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "--trust" in words
        assert "runs that repository's code and needs --trust" in words


def test_training_does_not_start_from_code_of_a_repository(tmp_path):
    from vitreg.training.start import _open

    with pytest.raises(UserError, match="which training does not"):
        _open("hub:owner/name:toy")
