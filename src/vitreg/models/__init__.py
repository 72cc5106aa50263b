"""Networks: our ViT with registers, position tables, and planted models whose artifacts are known."""
