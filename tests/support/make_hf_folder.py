#!/usr/bin/env python3
"""Writes a Hugging Face folder of a tiny llama with made-up weights: config, safetensors, a byte-level
tokenizer and a chat template, for tests of commands.

make_hf_folder.py FOLDER
"""
import array
import json
import os
import random
import sys

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
dim, hidden, layers, heads, kv_heads, context = 64, 96, 6, 4, 2, 4096

# The letters that stand for bytes, then what merges make, then control tokens.
plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
letter = {byte: chr(byte) for byte in plain}
for byte in range(256):
    letter.setdefault(byte, chr(256 + len(letter) - len(plain)))
vocabulary = {letter[byte]: byte for byte in range(256)}
merges = ["t h", "th e", "i n", "e r", letter[32] + " a", letter[32] + " the", "a n", "an d"]
for merge in merges:
    vocabulary[merge.replace(" ", "")] = len(vocabulary)
for i in range(len(vocabulary), 16000):  # what no merge makes, so that usual ids exist
    vocabulary["x%d" % i] = i
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
added = [{"id": len(vocabulary) + i, "content": name, "special": True, "single_word": False,
          "lstrip": False, "rstrip": False, "normalized": False} for i, name in enumerate(special)]
size = len(vocabulary) + len(special)


def write(name, value):
    with open(os.path.join(folder, name), "w") as f:
        json.dump(value, f)


write("tokenizer.json", {
    "version": "1.0",
    "added_tokens": added,
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                      "use_regex": True},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
})
write("tokenizer_config.json", {
    "eos_token": "<|endoftext|>",
    "chat_template": "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + "
                     "'<|im_end|>' + '\n'}}{% endfor %}",
})
write("config.json", {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": dim,
    "intermediate_size": hidden,
    "num_hidden_layers": layers,
    "num_attention_heads": heads,
    "num_key_value_heads": kv_heads,
    "max_position_embeddings": context,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": size,
    "tie_word_embeddings": True,
    "eos_token_id": size - len(special),
})

generator = random.Random(1)


def matrix(rows, cols, scale):
    return [rows, cols], [generator.gauss(0, scale / cols**0.5) for _ in range(rows * cols)]


def ones(count):
    return [count], [1.0] * count


kv_dim = dim * kv_heads // heads
# The first number of a row keeps the model to letters: it stays in the residual stream of every
# token and speaks for them most.
shape, embedding = matrix(size, dim, 4)
for token in range(size):
    embedding[token * dim] = 8.0 if 0x61 <= token <= 0x7A or 256 <= token < 264 else 2.0
tensors = {"model.embed_tokens.weight": (shape, embedding), "model.norm.weight": ones(dim)}
for i in range(layers):
    layer = "model.layers.%d." % i
    tensors[layer + "input_layernorm.weight"] = ones(dim)
    tensors[layer + "post_attention_layernorm.weight"] = ones(dim)
    for name, rows, cols in [("self_attn.q_proj", dim, dim), ("self_attn.k_proj", kv_dim, dim),
                             ("self_attn.v_proj", kv_dim, dim), ("self_attn.o_proj", dim, dim),
                             ("mlp.gate_proj", hidden, dim), ("mlp.up_proj", hidden, dim),
                             ("mlp.down_proj", dim, hidden)]:
        tensors[layer + name + ".weight"] = matrix(rows, cols, 0.4)
header, data = {}, b""
for name, (shape, values) in tensors.items():
    part = array.array("f", values).tobytes()
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
    data += part
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(os.path.join(folder, "model.safetensors"), "wb") as f:
    f.write(len(text).to_bytes(8, "little") + text + data)
