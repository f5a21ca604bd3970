"""VAEs, and the images that condition a video."""
