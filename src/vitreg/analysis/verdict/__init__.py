"""From detections to one verdict, and the effects that the images could have shown."""
