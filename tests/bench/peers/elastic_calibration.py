"""Optimiser steps of one LLaMA block's elastic calibration in PyTorch: the same work that ours does, on the values that ours has.

Usage: elastic_calibration.py PLAN.json, written by ../calibration.ts: shapes, widths of every pass, and where the values lie in a
file of f32. Prints one JSON object: median seconds of a training, and the loss before and behind it.
"""

import json
import math
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

plan = json.load(open(sys.argv[1]))
torch.set_num_threads(plan["threads"])
torch.manual_seed(0)
config, settings = plan["config"], plan["settings"]
data = np.fromfile(plan["data"], dtype=np.float32)
if settings["space"] not in ("weight", "rounding"):
    sys.exit(f"adapters in {settings['space']} space are not written here")
HIDDEN, HEADS, KV_HEADS, DIM = config["hidden"], config["heads"], config["kvHeads"], config["headDim"]


def array(entry):
    offset, shape = entry
    return torch.from_numpy(data[offset : offset + math.prod(shape)].reshape(shape).copy())


class Quantize(torch.autograd.Function):
    """Codes of v / scale + zero in [0, top], dequantized. Rounding passes the gradient straight through; a clamp stops it.

    One function with a hand-written gradient saves PyTorch the dozen small operators that automatic differentiation would take.
    """

    @staticmethod
    def forward(ctx, v, scale, zero, top):
        rounded = torch.round(v / scale).add_(zero)
        codes = rounded.clamp(0, top).sub_(zero)
        inside = (rounded >= 0) & (rounded <= top)
        below = rounded < 0
        ctx.save_for_backward(v, scale, codes, inside, below)
        ctx.top = top
        return codes * scale

    @staticmethod
    def backward(ctx, slope):
        v, scale, codes, inside, below = ctx.saved_tensors
        passed = slope * inside
        # value = (clamp(v/s + z) - z) * s; the zero point itself is rounded without a gradient.
        to_scale = (slope * codes - passed * (v / scale)).sum(-1, keepdim=True)
        return passed, to_scale, None, None


class ChooseRounding(torch.autograd.Function):
    """As Quantize, of weights that learn nothing: a product chooses between rounding down and up.

    v / scale is rounded to floor + round(clip(frac + 0.3 product, 0, 1)); outside of the clip's ends the gradient stops, too.
    """

    @staticmethod
    def forward(ctx, v, scale, zero, top, product):
        u = v / scale
        down = torch.floor(u)
        up = (u - down).add_(product, alpha=0.3)
        free = (up >= 0) & (up <= 1)
        rounded = up.clamp_(0, 1).round_().add_(down).add_(zero)
        codes = rounded.clamp(0, top).sub_(zero)
        inside = (rounded >= 0) & (rounded <= top)
        ctx.save_for_backward(u, scale, codes, inside & free)
        return codes * scale

    @staticmethod
    def backward(ctx, slope):
        u, scale, codes, passes = ctx.saved_tensors
        passed = slope * passes
        to_scale = (slope * codes - passed * u).sum(-1, keepdim=True)
        return None, to_scale, None, None, passed.mul_(scale * 0.3)


def quantize(v, high, low, top, product=None):
    lo = torch.sigmoid(low) * v.amin(-1, keepdim=True).clamp(max=0)
    hi = torch.sigmoid(high) * v.amax(-1, keepdim=True).clamp(min=0)
    step = (hi - lo) / top
    scale = step + (step.clamp(1e-5, 1e4) - step).detach()
    zero = -torch.round(lo / scale).detach()
    return Quantize.apply(v, scale, zero, top) if product is None else ChooseRounding.apply(v, scale, zero, top, product)


def as_stored(factor, top):
    """A factor [ranks, n] rounded to codes with a scale per column; the gradient passes straight through."""
    with torch.no_grad():
        scale = factor.abs().amax(0, keepdim=True).clamp_(min=2**-93).div_(top)
        rest = (factor / scale).round_().mul_(scale).sub_(factor)
    return factor + rest


def rms_norm(x, weight):
    return F.rms_norm(x, (HIDDEN,), weight, config["eps"])


def rotate(x, cos, sin):
    half = DIM // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos + turned * sin


fixed = {name: array(entry) for name, entry in plan["weights"].items()}
batches = [{name: array(entry) for name, entry in batch.items()} for batch in plan["batches"]]


def block(values, weights):
    h, cos, sin = values["h"], values["cos"].unsqueeze(1), values["sin"].unsqueeze(1)
    B, T, _ = h.shape
    x = rms_norm(h, fixed["attention.norm.weight"])
    heads = lambda name, count: F.linear(x, weights[name]).view(B, T, count, DIM).transpose(1, 2)
    query = rotate(heads("attention.query.weight", HEADS), cos, sin)
    key = rotate(heads("attention.key.weight", KV_HEADS), cos, sin)
    mixed = F.scaled_dot_product_attention(
        query, key, heads("attention.value.weight", KV_HEADS), is_causal=True, enable_gqa=HEADS != KV_HEADS
    )
    h = h + F.linear(mixed.transpose(1, 2).reshape(B, T, HEADS * DIM), weights["attention.output.weight"])
    x = rms_norm(h, fixed["mlp.norm.weight"])
    gated = F.silu(F.linear(x, weights["mlp.gate.weight"])) * F.linear(x, weights["mlp.up.weight"])
    return h + F.linear(gated, weights["mlp.down.weight"])


def loss_at(values, widths, clips, pairs):
    """`widths`: width of every site. Clips and adapters are the width's own."""
    weights = {}
    for site, width in widths.items():
        high, low = clips[site, width]
        v, product = fixed[site], None
        if (site, width) in pairs:
            a, b = pairs[site, width]
            a, b = as_stored(a, 63), as_stored(b, 127)
            if settings["space"] == "rounding":
                product = b.t() @ a
            else:
                v = torch.addmm(v, b.t(), a)
        weights[site] = quantize(v, high, low, 2**width - 1, product)
    distance = (block(values, weights) - values["target"]).abs() * values["weights"]
    return distance.sum() / (values["h"].shape[0] * HIDDEN)


def learned():
    clips, pairs, rates = {}, {}, []
    for site, width, (high, low) in plan["clips"]:
        clips[site, width] = [torch.nn.Parameter(array(high).squeeze(-1)), torch.nn.Parameter(array(low).squeeze(-1))]
    for site, width, rate, (a, b) in plan["adapters"]:
        pairs[site, width] = [torch.nn.Parameter(array(a)), torch.nn.Parameter(array(b))]
        rates.append((pairs[site, width], rate))
    return clips, pairs, rates


def train(passes):
    clips, pairs, rates = learned()
    by_rate = {settings["clipRate"]: [p for pair in clips.values() for p in pair]}
    for parameters, rate in rates:
        by_rate.setdefault(rate, []).extend(parameters)
    optimiser = torch.optim.Adam([{"params": p, "lr": rate} for rate, p in by_rate.items()], foreach=True)
    steps, mean, count = len(passes), None, 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: 0.01 + 0.99 * (1 + math.cos(math.pi * t / steps)) / 2)
    everything = [p for parameters in by_rate.values() for p in parameters]
    total = torch.zeros(())
    for step, drawn in enumerate(passes):
        values = batches[step % len(batches)]
        # Losses of one step share their batch but no weights; backward per pass frees each graph at once.
        for widths in drawn:
            loss = loss_at(values, widths, clips, pairs)
            loss.backward()
            total += loss.detach()
        # Parameters of widths that were not drawn take part with a gradient of zero, as in ours.
        for p in everything:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)
        schedule.step()
        if step + 1 > steps * (1 - settings["average"]):
            count += 1
            if mean is None:
                mean = [p.detach().clone() for p in everything]
            else:
                torch._foreach_lerp_(mean, [p.detach() for p in everything], 1 / count)
    return float(total) / sum(len(drawn) for drawn in passes)


with torch.no_grad():
    clips, pairs, _ = learned()
    first = [float(loss_at(batches[0], widths, clips, pairs)) for widths in plan["passes"][0]]
train(plan["passes"])
seconds = []
for _ in range(plan["repeats"]):
    start = time.perf_counter()
    mean_loss = train(plan["passes"])
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": statistics.median(seconds), "first": first, "loss": mean_loss, "torch": torch.__version__}))
