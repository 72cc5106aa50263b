"""`look`: single photos by any models, as a sentence and a picture."""
