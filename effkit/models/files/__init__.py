"""Models as files: folders, safetensors, GGUF, hubs; read without running code, written so that others can read them."""
