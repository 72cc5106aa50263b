"""`explore`: photos by models as a page on which one points at a patch and sees what the model does with it."""
