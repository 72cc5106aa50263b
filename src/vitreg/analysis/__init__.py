"""The science: pure functions of tensors and arrays. No model, no files."""
