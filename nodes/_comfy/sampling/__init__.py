"""ComfyUI's samplers and guiders: schedules, experts, step caches."""
