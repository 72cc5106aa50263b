"""Features of a set of images: extracted once, kept on disk, found again by what they follow from."""
