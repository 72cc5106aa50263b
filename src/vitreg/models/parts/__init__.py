"""Parts of our ViT that its usual form does without: rotary positions, attention to nothing, parts of your own."""
