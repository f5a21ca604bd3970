"""umT5 as ComfyUI's CLIP, and embeddings of prompts."""
