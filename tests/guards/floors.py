"""The floors of the house, and every exception to them with its reason."""

FLOORS = {
    "errors": 0, "plugins": 0, "specs": 0, "documents": 0, "quantities": 0, "notebook": 0, "exits": 0,
    "records": 0, "results": 0, "tokens": 0, "config": 0,
    "schedule": 0,
    "writing": 0, "console": 0, "machine": 0,
    "models": 1, "data": 1,
    "backbones": 2,
    "analysis": 3, "recipes": 3, "probes": 3, "discovery": 3,
    "training": 4, "presets": 4,
    "passes": 5, "features": 5,
    "repair": 6,
    "verbs": 7,
    "experiments": 8,
    "cli": 9, "__main__": 9, "testing": 9,
}  # fmt: skip
"""A module imports from its own floor and those below. Side floor `report` stands beside them: it reads records only."""

REPORT_MAY_IMPORT = {"errors", "notebook", "quantities", "records", "results", "specs", "writing", "report"}

FOREIGN = {
    "transformers",
    "open_clip",
    "webdataset",
    "skimage",
    "timm",
    "textual_image",
    "starlette",
    "uvicorn",
    "pandas",
}
"""Libraries that are imported inside functions only."""

VERBS_MAY_IMPORT = {
    ("train", "vitreg.verbs.scan.look"): "the norms of a run are watched by scans of probe images",
    ("train", "vitreg.verbs.curves"): "the page in the folder of a run is drawn by `curves`",
    ("draw", "vitreg.verbs.compare"): "a comparison is drawn of the scans that it names",
    ("evaluate", "vitreg.verbs.eval.verb"): "its place in 0.1.0",
    ("demo", "vitreg.verbs.scan.verb"): "the demo is two scans",
    ("zoo", "vitreg.verbs.scan.verb"): "a board is scans",
    ("zoo", "vitreg.verbs.compare"): "records are read as `compare` reads them",
    ("fix", "vitreg.verbs.maps.verb"): "maps before and after are drawn by `maps`",
    ("look", "vitreg.verbs.scan.one"): "a look is a scan of one image, drawn from the same forward",
    ("explore", "vitreg.verbs.look.one"): "an explorer is looks, with what their forwards hold",
    ("explore", "vitreg.verbs.look.models"): "it takes the models that a look takes",
    ("explore", "vitreg.verbs.look.photos"): "it reads photos as a look does",
    ("explore", "vitreg.verbs.look.options"): "its options are those of a look, and one more",
    ("explore", "vitreg.verbs.look.words"): "its caution is that of a look",
}
"""What a verb may import of another verb: its public function, and why."""

BACKWARDS = {
    (
        "vitreg.records.base",
        "vitreg.report.shown",
    ): "a result shows itself in Python: what it shows is drawn from its record, as pages are",
    ("vitreg.backbones.loading.load", "vitreg.repair.opened"): "`fixed:DIR` is a model, made of a model and its repair",
    (
        "vitreg.verbs.draw",
        "vitreg.experiments.drawn",
    ): "each experiment draws its own figures, and `draw` draws all folders",
}
"""Imports that climb or close a circle, and why they may. Rules hold for everything but these and `SETTINGS_OF_RECIPES`."""

SETTINGS_OF_RECIPES = "vitreg.recipes.settings"
"""The settings of a recipe name the module that trains by them (`built_by`), so that they are read without torch. That
module imports them: every module in this package may name, in `built_by`, a module of `vitreg.recipes`."""

UNREAD = {
    ("vitreg.machine.uncompiled", "_Absent._real"): "imports the module of PyTorch's compiler that it stands for",
    ("vitreg.machine.uncompiled", "_bring_back"): "takes what stands for PyTorch's compiler out of the loaded modules",
    ("vitreg.recipes.registry", "RecipeConfig.module"): "`built_by` of the settings, where the name stands in full",
    ("vitreg.backbones.identity", "_of_library"): "asks whether the package of a value is loaded, of whatever name",
    ("vitreg.models.parts.own", "own_part"): "somebody's function that the settings of a model name",
    ("vitreg.plugins", "_passes_through"): "asks for the file of a plug-in that has failed, which is somebody else's",
}
"""Functions that open modules by names which cannot be read, and what those names are."""
