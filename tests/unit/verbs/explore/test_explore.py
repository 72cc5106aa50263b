"""An explorer's documents hold what `Trace` reads, its page stands alone, and what cannot be read is said."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.end_to_end.conftest import one_sentence

import vitreg as package
from vitreg.backbones import Backbone, Capture
from vitreg.passes.view import view_of
from vitreg.report.explore.packing import unpacked
from vitreg.tokens import TokenLayout

timm = pytest.importorskip("timm")
PLANTED = "planted:high-norm"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A textured photo with a plain corner: the planted model has outliers on some plain patches."""
    pixels = np.random.default_rng(0).integers(0, 255, (240, 240, 3)).astype(np.uint8)
    pixels[:100, 140:] = (120, 170, 210)
    path = tmp_path_factory.mktemp("photos") / "plain.png"
    Image.fromarray(pixels).save(path)
    return path


def small(name="vit_tiny_patch16_224", **more):
    torch.manual_seed(0)
    return timm.create_model(
        name, **{"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0, **more}
    )


def explored(model, photo, **words):
    """The parts of the one document, by the end of their names."""
    if not isinstance(model, Backbone):
        words["precision"] = "fp32"
    parts = package.explore(model, photo, **words).parts
    return {name.removeprefix("p0m0").removeprefix("-"): json.loads(text) for name, text in parts.items()}


def traced(model, photo, capture):
    backbone = model if isinstance(model, Backbone) else package.load(model, precision="fp32")
    view = view_of(backbone)
    return backbone.trace(view.fit(view.pictures(Image.open(photo).convert("RGB"))[None]), capture)


def attention_of(part):
    """All rows [heads, N, N], computed as the script does."""
    there = unpacked(part["there"]).astype(bool)
    if part["kind"] == "rows":
        return unpacked(part["rows"]) / 65535
    q, k = (unpacked(part[x]) * unpacked(part[f"{x}_factors"])[..., None] for x in "qk")
    logits = q @ np.repeat(k, len(q) // len(k), 0).transpose(0, 2, 1)
    weights = np.exp(logits - unpacked(part["sums"])[..., None]) * there
    return weights[..., : q.shape[1]]


def in_order(values, layout, axes):
    """Tokens as documents order them: class tokens, others, registers, patches."""
    order = [*layout.cls, *layout.other, *layout.registers, *layout.patch_index.tolist()]
    for axis in axes:
        values = values.index_select(axis, torch.tensor(order))
    return values.float().numpy()


MODELS = {
    "planted": lambda: PLANTED,
    "registers without CLS": lambda: small(class_token=False, global_pool="avg", reg_tokens=3),
    "rotary embedding": lambda: small("vit_small_patch16_rope_224"),
    "bias of positions": lambda: small("beit_base_patch16_224"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_norms_attention_and_values_are_those_of_trace(kind, plain):
    model = MODELS[kind]()
    parts = explored(model, plain)
    trace = traced(model, plain, Capture(norms="all", qkv="all"))
    norms = unpacked(parts[""]["norms"])
    for block in range(trace.depth):
        layout = trace.layout_before(block)
        own = in_order(trace.norms(block)[0], trace.layout_after(block), [0])
        assert np.allclose(norms[block], own, rtol=0.005)
        rows = in_order(trace.attention(block, range(layout.length))[0], layout, [1, 2])
        part = parts[f"b{block}"]
        assert part["kind"] == ("rows" if kind == "bias of positions" else "compared")
        assert np.abs(attention_of(part) - rows).max() < 1e-3
        assert np.allclose(unpacked(part["received"]), rows.mean(1), atol=1e-6)
        values = in_order(trace.qkv(block).v[0].norm(dim=-1), layout, [1])
        assert np.allclose(unpacked(part["values"]), values, rtol=1e-4)
        patches = np.median(values[:, -layout.num_patches :], axis=1, keepdims=True)
        assert np.allclose(unpacked(parts["read"]["values"])[block], (values / patches).mean(0), rtol=1e-3)


def test_queries_and_keys_before_rotary_embedding_are_there_where_a_model_has_it(plain):
    model = MODELS["rotary embedding"]()
    parts = explored(model, plain)
    assert parts["read"]["before"] == [0, 1]
    written = traced(model, plain, Capture(projected=[1])).projected_qkv(1)
    layout = TokenLayout.prefixed((4, 4), cls_tokens=1)
    assert np.abs(attention_of(parts["b1-before"]) - in_order(written.rows()[0], layout, [1, 2])).max() < 1e-3
    assert np.abs(attention_of(parts["b1-before"]) - attention_of(parts["b1"])).max() > 1e-3
    assert explored(PLANTED, plain, blocks=3)["read"]["before"] == []


def test_the_head_says_what_a_look_says(plain):
    head = explored(PLANTED, plain, blocks=())[""]
    look = package.look(plain, PLANTED, precision="fp32").record.photos[0].models[0]
    assert (head["sentence"], head["peak"], head["share"]) == (look.sentence, look.peak, look.share)
    assert head["blocks"][look.peak] == {"threshold": look.threshold, "side": "high"}
    norms = unpacked(head["norms"])[look.peak, -196:].reshape(14, 14)
    assert [tuple(place) for place in np.argwhere(norms >= look.threshold)] == look.patches


def test_features_give_the_cosines_of_the_last_block(plain):
    part = explored(PLANTED, plain, blocks=())["features"]
    directions = unpacked(part["vectors"]) * unpacked(part["factors"])[:, None]
    patches = torch.nn.functional.normalize(traced(PLANTED, plain, Capture()).final.patches[0].float(), dim=-1)
    assert np.abs(directions @ directions.T - (patches @ patches.T).numpy()).max() < 0.01


def test_only_the_blocks_named_have_attention(plain):
    parts = explored(PLANTED, plain, blocks=(2, -1))
    assert set(parts) == {"", "features", "read", "b2", "b11"}
    assert parts["read"]["blocks"] == [2, 11]
    assert np.isfinite(unpacked(parts["read"]["received"])).all()
    with pytest.raises(package.UserError, match=r"blocks 12: .* has blocks 0 to 11"):
        package.explore(PLANTED, plain, blocks=12)


def test_a_model_without_readable_attention_shows_the_rest(plain):
    by_hand = small()
    for block in by_hand.blocks:
        block.attn.forward = lambda x, *_, layer=block.attn, **__: layer.proj(layer.qkv(x)[..., : x.shape[-1]])
    parts = explored(by_hand, plain)
    assert set(parts) == {"", "features"}
    assert "cannot be read" in parts[""]["missing"]["attention"]
    assert np.isfinite(unpacked(parts[""]["norms"])).all()


def test_dropped_patches_are_absent_from_the_blocks_behind(plain):
    backbone = package.load(small(), precision="fp32")
    dropping = backbone.edited([package.Edit("block", 0, Drop())], "drop")
    parts = explored(dropping, plain)
    assert unpacked(parts["b0"]["there"]).all()
    assert np.flatnonzero(unpacked(parts["b1"]["there"]) == 0).tolist() == [1 + 5]
    assert np.isnan(unpacked(parts[""]["norms"])[:, 1 + 5]).all()
    assert np.allclose(attention_of(parts["b1"])[:, [0, 7]].sum(-1), 1, atol=1e-4)


class Drop:
    """Removes the sixth patch."""

    def __call__(self, tokens, place):
        return tokens[:, [index for index in range(tokens.shape[1]) if index != 6]]

    def layout(self, layout):
        return layout.without([6])


def test_a_repair_is_a_document_of_its_own_behind_its_model(plain, tmp_path):
    package.fit_repair(PLANTED, [plain] * 4, "clip-norm", force=True).save(tmp_path / "repair")
    found = package.explore([], plain, repair=tmp_path / "repair", blocks=())
    assert [model.base for model in found.record.models] == [None, 0]
    assert [document.name for document in found.record.documents] == ["p0m0", "p0m1"]


def test_a_notebook_shows_the_whole_page_in_a_frame(plain):
    found = package.explore(small(), plain)
    assert found.path is None
    shown = found._repr_html_()
    assert shown.startswith("<iframe ")
    assert "part-p0m0-b1" in shown
    assert "<script" not in shown  # all of it stands in the attribute
    table = found.to_pandas()
    assert table["sentence"].tolist() == [found.record.documents[0].sentence]
    assert table["photo"].tolist() == ["plain.png"]


def test_one_file_holds_what_a_folder_holds(vitreg, plain, tmp_path):
    words = ("explore", plain, "-m", "planted:clean", "--size", "64", "--blocks", "1", "4")
    folder, page = tmp_path / "folder", tmp_path / "pages" / "one.html"
    done = vitreg(*words, "--out", folder)
    assert done.stdout.endswith(f"Open {folder / 'index.html'}\n")
    assert "One photo establishes nothing" in done.stdout
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        f"p0m0{end}.js" for end in ("-b1", "-b4", "-features", "-read", "")
    ]
    assert vitreg(*words, "--out", page).stdout.endswith(f"Open {page}\n")
    text = page.read_text()
    for path in (folder / "data").iterdir():
        part = path.read_text().partition(",")[2].removesuffix(");\n")
        assert part.replace("<", "\\u003c").replace("&", "\\u0026").replace(">", "\\u003e") in text
    assert json.loads((folder / "explore.json").read_text())["schema"] == "vitreg.explore/1"
    page.write_text("mine")
    assert "was changed since vitreg wrote it" in one_sentence(vitreg(*words, "--out", page))


def test_a_smaller_page_leaves_no_parts_of_the_larger_one(vitreg, plain, tmp_path):
    words = ("explore", plain, "-m", "planted:clean", "--size", "64", "--out", tmp_path)
    vitreg(*words, "--blocks", "1", "4")
    assert vitreg(*words, "--blocks", "2").returncode == 0
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "p0m0-b2.js",
        "p0m0-features.js",
        "p0m0-read.js",
        "p0m0.js",
    ]


def test_broken_photos_are_named_and_a_file_that_would_be_too_large_is_refused(vitreg, plain, tmp_path, monkeypatch):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff is no picture")
    words = ("-m", "planted:clean", "--size", "64", "--out", tmp_path / "one.html")
    assert "broken.jpg could not be read" in one_sentence(vitreg("explore", broken, *words))
    monkeypatch.setattr("vitreg.verbs.explore.verb.LARGEST", 10_000)
    assert "fewer blocks with --blocks" in one_sentence(vitreg("explore", broken, plain, *words))
    assert not (tmp_path / "one.html").exists()


def test_the_page_is_drawn_again_and_elsewhere_as_one_file(plain, tmp_path):
    found = package.explore(small(), plain, out=tmp_path / "explorer")
    page = found.path.read_text()
    assert package.draw(tmp_path / "explorer").paths == (found.path,)
    assert found.path.read_text() == page
    package.draw(tmp_path / "explorer", out=tmp_path / "one")
    assert (tmp_path / "one" / "index.html").read_text() == found.page
    page = tmp_path / "pages" / "one.html"
    assert package.draw(tmp_path / "explorer", out=page).paths == (page,)
    assert page.read_text() == (tmp_path / "one" / "index.html").read_text()


def test_drawings_of_several_files_do_not_become_one_page(plain, tmp_path):
    package.scan(small(), plain, power=False, examples=0, out=tmp_path / "scan")
    with pytest.raises(package.UserError, match="are several files; name a folder"):
        package.draw(tmp_path / "scan", out=tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("name", ["x.jpg", "a/x.PDF", "x.png", "x.json"])
def test_a_name_of_another_format_makes_no_folder_of_an_explorer(vitreg, plain, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    said = f"{name}: the page of an explorer is HTML; name x.html, or a folder that is there."
    assert said in one_sentence(vitreg("explore", plain, "-m", "planted:clean", "--size", "64", "--out", name))
    with pytest.raises(package.UserError, match=said):
        package.explore("planted:clean", plain, size=64, out=name)
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_another_format_makes_no_folder_of_drawings(plain, tmp_path):
    package.explore(small(), plain, out=tmp_path / "explorer")
    with pytest.raises(package.UserError, match=r"x.pdf: the page of an explorer is HTML; name x.html, or a folder"):
        package.draw(tmp_path / "explorer", out=tmp_path / "x.pdf")
    (tmp_path / "folder.pdf").mkdir()
    assert package.draw(tmp_path / "explorer", out=tmp_path / "folder.pdf").paths[0].is_file()
    package.scan(small(), plain, power=False, examples=0, out=tmp_path / "scan")
    with pytest.raises(package.UserError, match="are several files; name a folder"):
        package.draw(tmp_path / "scan", out=tmp_path / "x.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["explorer", "folder.pdf", "scan"]
