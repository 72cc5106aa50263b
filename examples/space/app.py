"""A Hugging Face Space: a photograph goes in; out comes what models do with it, and a page on which one points at a patch."""

import gradio as gr

import vitreg

MODELS = {
    "DINOv2": "timm:vit_small_patch14_dinov2.lvd142m",
    "DINOv2 with registers": "timm:vit_small_patch14_reg4_dinov2.lvd142m",
}
SIZE, BLOCKS = 224, (5, 8, 11)  # of the page: so many blocks are 1.5 MB a model


def show(photo, names):
    """Return what `vitreg.look` and `vitreg.explore` show of a photo, as HTML.

    Args:
        photo: a PIL picture, or None.
        names: of the models, keys of `MODELS`.
    """
    try:
        if photo is None or not names:
            raise vitreg.UserError("a photograph and a model are needed.")
        models = [vitreg.load(MODELS[name]) for name in names]
        looked = vitreg.look(photo, models, size=SIZE)
        explored = vitreg.explore(models, photo, size=SIZE, blocks=BLOCKS)
    except vitreg.UserError as error:
        raise gr.Error(str(error)) from error
    return looked._repr_html_(), explored._repr_html_()


demo = gr.Interface(
    show,
    [gr.Image(type="pil", label="photograph"), gr.CheckboxGroup(list(MODELS), value=list(MODELS), label="models")],
    [gr.HTML(label="look"), gr.HTML(label="explore")],
    title="vitreg: what do Vision Transformers do with this photograph?",
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
