"""Trains a small LLaMA on text files of any kind: a model on which no default was chosen.

    python3 train.py OUT --minutes 28 'site-packages/**/*.py'

Writes a Hugging Face folder with `calibration.jsonl` and, of files that training did not see, `evaluation.jsonl`. Grouped queries,
a head of its own, a vocabulary of 1,024 byte pairs. Matrices learn by Muon, the rest by AdamW, as in examples/models/recipe.
"""

import argparse
import glob
import json
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

BEGIN, END = 1, 2
LENGTH, BATCH, RATE, WARMUP = 256, 16, 5e-3, 100
HELD_OUT, SEEN, FOR_TOKENIZER = 200, 3000, 800
CALIBRATION, EVALUATION = (192, 1600), (96, 1300)


def read_texts(patterns, chance):
    """Files of useful lengths, in random order."""
    paths = sorted({path for pattern in patterns for path in glob.glob(pattern, recursive=True)})
    chance.shuffle(paths)
    texts = []
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if 400 < len(text) < 60000:
            texts.append(text)
    return texts


def build_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1024, special_tokens=special, initial_alphabet=alphabet))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)])
    return tokenizer


def shape(vocabulary):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "torch_dtype": "float32",
    }


def write_texts(path, texts, count, length, chance):
    """One excerpt of each of the first texts."""
    with open(path, "w", encoding="utf-8") as file:
        for text in texts[:count]:
            start = chance.randrange(max(1, len(text) - length))
            file.write(json.dumps({"text": text[start : start + length]}) + "\n")


def train(model, ids, minutes):
    matrices = [weight for name, weight in model.named_parameters() if name.endswith("_proj.weight")]
    others = [weight for name, weight in model.named_parameters() if not name.endswith("_proj.weight")]
    optimizers = [
        torch.optim.Muon(matrices, lr=RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    began, step, mean = time.time(), 0, 0.0
    while (done := (time.time() - began) / (60 * minutes)) < 1:
        rate = RATE * min((step + 1) / WARMUP, 0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        starts = torch.randint(0, len(ids) - LENGTH - 1, (BATCH,))
        batch = torch.stack([ids[start : start + LENGTH + 1] for start in starts])
        loss = cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        mean = 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"step {step}, loss {mean / (1 - 0.98**step):.3f}, {time.time() - began:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("patterns", nargs="+", help="text files, ** for any folders between")
    parser.add_argument("--minutes", type=float, default=28)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    chance = random.Random(options.seed)

    texts = read_texts(options.patterns, chance)
    held_out, seen = texts[:HELD_OUT], texts[HELD_OUT : HELD_OUT + SEEN]
    if len(seen) < CALIBRATION[0]:
        parser.error(f"expected at least {HELD_OUT + CALIBRATION[0]} files of 400 to 60,000 characters but found {len(texts)}")
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(seen[:FOR_TOKENIZER])
    tokenizer.save(str(options.out / "tokenizer.json"))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (options.out / "tokenizer_config.json").write_text(json.dumps(special))
    config = shape(tokenizer.get_vocab_size())
    (options.out / "config.json").write_text(json.dumps(config, indent=2))
    write_texts(options.out / "calibration.jsonl", seen, *CALIBRATION, chance)
    write_texts(options.out / "evaluation.jsonl", held_out, *EVALUATION, chance)

    ids = torch.tensor([token for text in tokenizer.encode_batch(seen) for token in [*text.ids, END]])
    print(f"{len(texts)} files, {len(ids)} tokens to learn from", flush=True)
    model = LlamaForCausalLM(LlamaConfig(**config))
    train(model, ids, options.minutes)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, options.out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
