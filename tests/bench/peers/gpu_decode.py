"""Decoding and prefill of a LLaMA shape in PyTorch fp16 with random weights, and a device copy: prints one JSON object.

Usage: gpu_decode.py '{"layers": 32, "hidden": 4096, "intermediate": 11008, "heads": 32, "vocab": 32000}'
"""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

assert torch.cuda.is_available(), "torch has no CUDA device"
shape = json.loads(sys.argv[1])
hidden, heads, layers = shape["hidden"], shape["heads"], shape["layers"]
width, context = hidden // heads, 128
options = {"device": "cuda", "dtype": torch.float16}


def matrix(rows, columns):
    return torch.randn(rows, columns, **options) * 0.02


blocks = [
    {
        "qkv": matrix(3 * hidden, hidden),
        "out": matrix(hidden, hidden),
        "gate_up": matrix(2 * shape["intermediate"], hidden),
        "down": matrix(hidden, shape["intermediate"]),
    }
    for _ in range(layers)
]
head = matrix(shape["vocab"], hidden)
ones = torch.ones(hidden, **options)
caches = [torch.randn(2, 1, heads, context, width, **options) for _ in range(layers)]


def forward(h, use_cache):
    tokens = h.shape[0]
    for block, cache in zip(blocks, caches):
        x = F.rms_norm(h, (hidden,), ones)
        q, k, v = F.linear(x, block["qkv"]).view(tokens, 3, heads, width).permute(1, 2, 0, 3).unsqueeze(1)
        if use_cache:
            cache[0, :, :, -1:] = k
            cache[1, :, :, -1:] = v
            a = F.scaled_dot_product_attention(q, cache[0], cache[1])
        else:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + F.linear(a[0].transpose(0, 1).reshape(tokens, hidden), block["out"])
        gate, up = F.linear(F.rms_norm(h, (hidden,), ones), block["gate_up"]).chunk(2, -1)
        h = h + F.linear(F.silu(gate) * up, block["down"])
    return F.linear(F.rms_norm(h[-1:], (hidden,), ones), head)


def seconds(run, repeats):
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


with torch.inference_mode():
    token = torch.randn(1, hidden, **options)
    for _ in range(3):
        forward(token, True)
    eager = seconds(lambda: forward(token, True), 16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward(token, True)
    replayed = seconds(graph.replay, 16)
    print(f"eager {1 / eager:.1f} tokens/s, CUDA graph {1 / replayed:.1f} tokens/s", file=sys.stderr)
    result = {"decode": {"name": "PyTorch fp16, CUDA graph", "median": 1 / replayed}}
    for tokens in (512, 2048):
        prompt = torch.randn(tokens, hidden, **options)
        forward(prompt, False)
        took = seconds(lambda: forward(prompt, False), 3)
        result[f"prefill of {tokens} tokens"] = {"name": "PyTorch fp16", "median": tokens / took}
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    copied = seconds(lambda: [target.copy_(source) for _ in range(10)], 5) / 10
    result["copy, bytes read and written"] = {"name": "PyTorch copy", "median": 2 * source.numel() / copied / 1e9}
print(json.dumps(result))
