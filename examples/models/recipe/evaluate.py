"""Measures the model folder with transformers: perplexity against the entropy bound, cloze accuracy, a greedy story.

    python evaluate.py ../world

Each story is scored on its own, from `<s>` on. A story's probability is a product of known odds, and its end is certain from
its text, so that the mean of -log p over tokens is what no model can beat.
"""

import argparse
import json
import math
from collections import defaultdict
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from generate import stories
from vocabulary import BEGIN, END


def bound(tokenizer: Tokenizer, purpose: str, amount: int) -> float:
    """The perplexity per token of a perfect model on so many stories."""
    told = list(islice(stories(purpose), amount))
    tokens = sum(len(story.ids) - 1 for story in tokenizer.encode_batch([story.text for story in told]))
    return math.exp(-sum(story.log_probability for story in told) / tokens)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def log_probabilities(model: LlamaForCausalLM, ids: list[int]) -> torch.Tensor:
    """Of each token after the first."""
    scores = model(input_ids=torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    return scores.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def perplexity(model: LlamaForCausalLM, tokenizer: Tokenizer, texts: list[str]) -> tuple[float, int]:
    scores = torch.cat([log_probabilities(model, tokenizer.encode(text).ids) for text in texts])
    return math.exp(-scores.double().mean().item()), len(scores)


def cloze(model: LlamaForCausalLM, tokenizer: Tokenizer, items: list[dict]) -> dict[str, list[bool]]:
    """Whether the true choice is the likeliest, by kind of fact."""
    right = defaultdict(list)
    for item in items:
        start = len(tokenizer.encode(item["context"]).ids)
        scores = [
            log_probabilities(model, tokenizer.encode(item["context"] + choice).ids)[start - 1 :].sum().item()
            for choice in item["choices"]
        ]
        right[item["kind"]].append(max(range(len(scores)), key=scores.__getitem__) == item["answer"])
    return right


@torch.no_grad()
def greedy(model: LlamaForCausalLM, tokenizer: Tokenizer, prompt: str) -> str:
    ids = tokenizer.encode(prompt).ids
    while ids[-1] != END and len(ids) < model.config.max_position_embeddings:
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return tokenizer.decode(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the language model of the small world.")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))

    texts = [line["text"] for line in read_lines(options.folder / "evaluation.jsonl")]
    reached, tokens = perplexity(model, tokenizer, texts)
    least = bound(tokenizer, "evaluation", len(texts))
    print(f"evaluation.jsonl: {len(texts)} stories, {tokens} predicted tokens")
    print(f"perplexity {reached:.5f}, entropy bound of these stories {least:.5f}, ratio {reached / least:.4f}")
    print(f"entropy bound over 20000 stories {bound(tokenizer, 'bound', 20000):.4f}")
    right = cloze(model, tokenizer, read_lines(options.folder / "cloze.jsonl"))
    every = [answer for answers in right.values() for answer in answers]
    print(f"cloze accuracy {sum(every) / len(every):.4f} of {len(every)}")
    for kind, answers in sorted(right.items()):
        print(f"  {kind:<10} {sum(answers)}/{len(answers)}")
    for prompt in ("Once", "Long ago there was a tall, kind boy"):
        print(f"greedy: {greedy(model, tokenizer, prompt)}")


if __name__ == "__main__":
    main()
