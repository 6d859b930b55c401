"""GGUF, the file format of llama.cpp: read as Hugging Face has a model, and written back."""
