"""From detections to one answer, and what the images could have shown."""
