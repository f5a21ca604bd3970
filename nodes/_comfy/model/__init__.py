"""Our transformer as ComfyUI's MODEL: weights, patches, kernels, memory."""
