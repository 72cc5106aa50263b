"""From pictures to tensors: crops, augmentation, normalisation."""
