"""`scan`: one pass over the images, one verdict on the model."""
