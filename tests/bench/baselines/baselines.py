"""Single-width baselines in PyTorch on a Hugging Face folder of the LLaMA family: rounding to nearest, GPTQ and AWQ.

    python3 tests/bench/baselines/baselines.py MODEL --calib FILE --eval FILE [--widths 2,3,4] [--methods rtn,gptq,awq] [--group -1]

Every method optimises one width alone, on the grids that Vernier uses: asymmetric, one scale and zero point per row (or group of
columns), the range including zero. Inputs of a block are what its quantized predecessors give. Perplexity is measured text by text, as
`compile.ts eval` does. One JSON object per line.
"""

import argparse
import copy
import json
import math
import time

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

GROUPS_OF_LINEARS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def read_texts(path):
    return [json.loads(line)["text"] for line in open(path) if line.strip()]


def module_of(block, name):
    for part in name.split("."):
        block = getattr(block, part)
    return block


# Grids


def grid_of(low, high, width):
    """Scale and zero point of ranges that include zero."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / (2**width - 1)).clamp(min=1e-5)
    return scale, torch.round(-low / scale)


def quantize(w, scale, zero, width):
    return (torch.clamp(torch.round(w / scale) + zero, 0, 2**width - 1) - zero) * scale


def in_groups(w, group):
    """[rows, columns] as [rows, groups, columns of a group], padded with zeros."""
    size = w.shape[1] if group == -1 else group
    padded = F.pad(w, (0, -w.shape[1] % size))
    return padded.reshape(w.shape[0], -1, size)


def rounded(w, width, group, shrink=1.0):
    v = in_groups(w, group)
    scale, zero = grid_of(shrink * v.amin(-1, keepdim=True), shrink * v.amax(-1, keepdim=True), width)
    return quantize(v, scale, zero, width).reshape(w.shape[0], -1)[:, : w.shape[1]]


def bytes_of(model, width, group):
    bits = 0
    for block in model.model.layers:
        for names in GROUPS_OF_LINEARS:
            for name in names:
                rows, columns = module_of(block, name).weight.shape
                groups = 1 if group == -1 else math.ceil(columns / group)
                bits += width * rows * columns + rows * groups * (16 + width)
    return math.ceil(bits / 8)


# GPTQ


def gptq(w, hessian, width, group, act_order, damping=0.01):
    """Rounds column by column and spreads each column's error over those that follow."""
    w, h = w.clone(), hessian.clone()
    columns = w.shape[1]
    dead = torch.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    order = torch.argsort(torch.diag(h), descending=True) if act_order else torch.arange(columns)
    size = columns if group == -1 else group
    # With a changed order groups keep the columns that they have in memory, and grids are those of the original weights.
    v = in_groups(w, group)
    fixed = grid_of(v.amin(-1), v.amax(-1), width)
    w, h = w[:, order], h[order][:, order]
    h += damping * torch.diag(h).mean() * torch.eye(columns)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    result = torch.zeros_like(w)
    scale = zero = None
    for i in range(columns):
        at = int(order[i]) // size
        if act_order or group == -1:
            scale, zero = fixed[0][:, at], fixed[1][:, at]
        elif i % size == 0:
            part = F.pad(w[:, i : i + size], (0, max(0, i + size - columns)))
            scale, zero = grid_of(part.amin(1), part.amax(1), width)
        result[:, i] = quantize(w[:, i], scale, zero, width)
        error = (w[:, i] - result[:, i]) / inverse[i, i]
        w[:, i:] -= error[:, None] * inverse[i, i:][None]
    back = torch.argsort(order)
    return result[:, back]


# Blocks and their inputs


class Walk:
    """Inputs of the block at hand: hidden states after quantized predecessors, and what else a block takes."""

    def __init__(self, model, sequences):
        self.model, self.hidden, self.extra = model, [], []
        first = model.model.layers[0]

        class Stop(Exception):
            pass

        def keep(_, args, kwargs):
            self.hidden.append((args[0] if args else kwargs["hidden_states"]).detach())
            self.extra.append({k: v for k, v in kwargs.items() if k != "hidden_states"})
            raise Stop

        hook = first.register_forward_pre_hook(keep, with_kwargs=True)
        for ids in sequences:
            try:
                model(ids, use_cache=False)
            except Stop:
                pass
        hook.remove()

    def run(self, block):
        outputs = []
        for h, extra in zip(self.hidden, self.extra):
            output = block(h, **extra)
            outputs.append(output[0] if isinstance(output, tuple) else output)
        return outputs

    def inputs_of(self, block, name):
        """Inputs of a linear, [tokens, columns]."""
        found = []
        hook = module_of(block, name).register_forward_pre_hook(lambda _, args: found.append(args[0].detach()[0]))
        self.run(block)
        hook.remove()
        return torch.cat(found)


def quantize_rtn(block, walk, width, group):
    for names in GROUPS_OF_LINEARS:
        for name in names:
            weight = module_of(block, name).weight
            weight.copy_(rounded(weight, width, group))


def quantize_gptq(block, walk, width, group, act_order=False):
    for names in GROUPS_OF_LINEARS:
        x = walk.inputs_of(block, names[0]).double()
        hessian = (2 * x.T @ x).float() / x.shape[0]
        for name in names:
            weight = module_of(block, name).weight
            weight.copy_(gptq(weight, hessian, width, group, act_order))


def quantize_awq(block, walk, width, group, steps=20):
    """Scales of channels by a grid search over the block's output, then of ranges by one over each linear's output."""
    producers = ["input_layernorm", "self_attn.v_proj", "post_attention_layernorm", "mlp.up_proj"]
    target = walk.run(block)
    for names, producer in zip(GROUPS_OF_LINEARS, producers):
        linears, source = [module_of(block, name) for name in names], module_of(block, producer)
        x = walk.inputs_of(block, names[0])
        if source.weight.shape[0] != x.shape[1]:
            continue  # grouped-query attention: a value's scale cannot be undone in the output projection
        magnitude = x.abs().mean(0).clamp(min=1e-8)
        kept = [linear.weight.clone() for linear in linears]
        best, chosen = math.inf, None
        for step in range(steps):
            scale = magnitude ** (step / steps)
            scale = (scale / (scale.max() * scale.min()).sqrt()).clamp(min=1e-4)
            for linear, weight in zip(linears, kept):
                linear.weight.copy_(rounded(weight * scale, width, group) / scale)
            loss = sum(float((a - b).pow(2).sum()) for a, b in zip(walk.run(block), target))
            if loss < best:
                best, chosen = loss, scale
        for linear, weight in zip(linears, kept):
            linear.weight.copy_(weight * chosen)
        inverse = 1 / chosen
        source.weight.copy_(source.weight * (inverse if source.weight.dim() == 1 else inverse[:, None]))
    for names in GROUPS_OF_LINEARS:
        x = walk.inputs_of(block, names[0])
        x = x[:: max(1, x.shape[0] // 2048)]
        for name in names:
            weight = module_of(block, name).weight
            best = torch.full((weight.shape[0], 1), math.inf)
            result = weight.clone()
            clip = range(1) if names[0] == "self_attn.q_proj" and name != "self_attn.v_proj" else range(steps // 2)
            for step in clip:
                candidate = rounded(weight, width, group, 1 - step / steps)
                loss = ((candidate - weight) @ x.T).pow(2).mean(1, keepdim=True)
                result = torch.where(loss < best, candidate, result)
                best = torch.minimum(loss, best)
            weight.copy_(result)


METHODS = {
    "rtn": quantize_rtn,
    "gptq": quantize_gptq,
    "gptq, act-order": lambda *args: quantize_gptq(*args, act_order=True),
    "awq": quantize_awq,
}


def score(model, full, sequences):
    """Perplexity, and the mean divergence of next-token distributions from those of `full`, in nats."""
    loss, divergence, tokens = 0.0, 0.0, 0
    for ids in sequences:
        found, exact = (F.log_softmax(each(ids).logits[0, :-1], -1) for each in (model, full))
        loss += float(F.nll_loss(found, ids[0, 1:], reduction="sum"))
        divergence += float(F.kl_div(found, exact, log_target=True, reduction="sum"))
        tokens += ids.shape[1] - 1
    return {"perplexity": math.exp(loss / tokens), "kl": divergence / tokens}


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--widths", default="8,7,6,5,4,3,2")
    parser.add_argument("--methods", default="rtn;gptq;gptq, act-order;awq")
    parser.add_argument("--group", type=int, default=-1)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{options.model}/tokenizer.json")
    bos = model.config.bos_token_id

    def sequences(path, most, tokens):
        found = []
        for text in read_texts(path)[:most]:
            ids = tokenizer(text)["input_ids"]
            ids = ids if ids[0] == bos else [bos, *ids]
            found.append(torch.tensor([ids[:tokens]]))
        return found

    limit = model.config.max_position_embeddings
    calibration = sequences(options.calib, options.sequences, min(limit, options.tokens))
    evaluation = sequences(options.eval, None, min(limit, 512))
    print(json.dumps({"method": "full precision", "width": 16, **score(model, model, evaluation)}), flush=True)
    for method in options.methods.split(";"):
        for width in map(int, options.widths.split(",")):
            start, own = time.time(), copy.deepcopy(model)
            walk = Walk(own, calibration)
            for block in own.model.layers:
                METHODS[method](block, walk, width, options.group)
                walk.hidden = walk.run(block)
            seconds = time.time() - start
            row = {"method": method, "width": width, "group": options.group, **score(own, model, evaluation)}
            print(json.dumps({**row, "bytes": bytes_of(own, width, options.group), "seconds": round(seconds, 2)}), flush=True)


main()
