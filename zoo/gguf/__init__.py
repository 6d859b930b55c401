"""GGUF, the file format of llama.cpp: read as Hugging Face has a model, and written back.

header, opening, checkpoint   a strict reader; weights by offset
config, tokenizer             small files from metadata, and back
families, tensors, blocks     names, layouts and the one quantization that is read
writing                       a model as one file
"""
