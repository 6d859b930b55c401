"""Files of weights, seen lazily: names, types, shapes, and where the bytes are.

safetensors_header, headers   a strict, bounded reader of headers, and our byte-stable writer
safetensors, components       one file, shards, or a folder for each part of a pipeline
auxiliary                     what else belongs to a model: configuration, tokenizer, card
quantization, dequantize      what code the weights are in, and the values they stand for
views, tied_heads             checkpoints put together from tensors of others
reading, hashing, rank_one    values streamed chunk by chunk; bytes hashed on many threads

`zoo.checkpoint` is the contract that all of these, and formats from plugins, keep to.
"""
