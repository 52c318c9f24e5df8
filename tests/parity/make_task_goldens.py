"""Goldens of multiple-choice tasks: the answers of the LM Evaluation Harness on the bundled model.

Writes small question files in the layouts of PIQA, ARC, HellaSwag and WinoGrande, made of sentences of the bundled model's world, to
tests/data/tasks, and what `lm_eval` makes of them with its own prompts to tests/parity/goldens/tasks.json.

Needs torch, transformers, accelerate and lm-eval (made with lm-eval 0.4.13).

    python tests/parity/make_task_goldens.py
"""

import json
import random
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples/models/world"
DATA = ROOT / "tests/data/tasks"
ITEMS = 16


def questions():
    """Rows of every layout, from the model's own cloze questions."""
    rng = random.Random(7)
    cloze = [json.loads(line) for line in (MODEL / "cloze.jsonl").read_text().splitlines()]
    cloze = [row for row in cloze if len(row["context"]) < 420]
    picked = rng.sample(cloze, 3 * ITEMS)
    piqa, arc, hellaswag, winogrande = [], [], [], []
    for row in picked[:ITEMS]:
        wrong = rng.choice([i for i in range(len(row["choices"])) if i != row["answer"]])
        pair = [row["choices"][row["answer"]].strip(), row["choices"][wrong].strip() + " " + rng.choice(["", "and the red ball"])]
        label = rng.randrange(2)
        if label == 1:
            pair.reverse()
        piqa.append({"goal": row["context"], "sol1": pair[0].strip(), "sol2": pair[1].strip(), "label": label})
    for row in picked[ITEMS:2 * ITEMS]:
        labels = "ABCDE" if rng.random() < 0.7 else "12345"
        texts = [choice.strip() + rng.choice(["", " .", " at the sea"]) for choice in row["choices"]]
        arc.append({
            "id": f"item_{len(arc)}",
            "question": row["context"],
            "choices": {"text": texts, "label": list(labels[: len(texts)])},
            "answerKey": labels[row["answer"]],
        })
    for row in picked[2 * ITEMS:]:
        first, _, last = row["context"].rpartition(". ")
        endings = [choice.strip() + rng.choice(["", " [step] and went home.", "  at the river."]) for choice in row["choices"]]
        hellaswag.append({
            "ind": len(hellaswag),
            "activity_label": "Story [title] one",
            "ctx_a": first + ".",
            "ctx_b": last.lower(),
            "ctx": row["context"],
            "endings": endings,
            "source_id": "world",
            "split": "val",
            "split_type": "indomain",
            "label": str(row["answer"]),
        })
    people, things, places = ["Emil", "Tara", "Otto", "Anna", "Yara", "Lily"], ["red drum", "blue hat", "golden key"], ["beach", "forest", "river"]
    for _ in range(ITEMS):
        a, b = rng.sample(people, 2)
        thing, other = rng.sample(things, 2)
        place = rng.choice(places)
        winogrande.append({
            "sentence": f"{a} took the {thing} and {b} took the {other}. At the {place} _ had the {thing}.",
            "option1": a,
            "option2": b,
            "answer": "1",
        } if rng.random() < 0.5 else {
            "sentence": f"{b} went to the {place} and {a} went home. Then _ found 2 shells at the {place}.",
            "option1": a,
            "option2": b,
            "answer": "2",
        })
    return {"piqa": piqa, "arc": arc, "hellaswag": hellaswag, "winogrande": winogrande}


SOURCES = {"piqa": "piqa/piqa.yaml", "arc": "arc/arc_easy.yaml", "hellaswag": "hellaswag/hellaswag.yaml", "winogrande": "winogrande/default.yaml"}


def main():
    DATA.mkdir(parents=True, exist_ok=True)
    for name, rows in questions().items():
        (DATA / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(MODEL / "tokenizer.json"), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32")
    harness = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=True, batch_size=1, max_length=256)
    tasks = Path(lm_eval.__file__).parent / "tasks"
    with tempfile.TemporaryDirectory() as folder:
        for name, source in SOURCES.items():
            files = {split: str(DATA / f"{name}.jsonl") for split in ("train", "validation")}
            config = f"include: {tasks / source}\ntask: local_{name}\ndataset_path: json\ndataset_name: null\n"
            config += f"test_split: null\nvalidation_split: validation\ndataset_kwargs:\n  data_files: {json.dumps(files)}\n"
            (Path(folder) / f"{name}.yaml").write_text(config)
        results = lm_eval.simple_evaluate(
            model=harness,
            tasks=[f"local_{name}" for name in SOURCES],
            task_manager=TaskManager(include_path=folder),
            bootstrap_iters=0,
        )
    goldens = {}
    for name in SOURCES:
        samples = sorted(results["samples"][f"local_{name}"], key=lambda sample: sample["doc_id"])
        scores = results["results"][f"local_{name}"]
        goldens[name] = {
            "acc": scores["acc,none"],
            "accNorm": scores.get("acc_norm,none"),
            "logLikelihoods": [[round(float(pair[0]), 5) for pair in sample["filtered_resps"]] for sample in samples],
        }
    (ROOT / "tests/parity/goldens/tasks.json").write_text(json.dumps(goldens) + "\n")
    print({name: (golden["acc"], golden["accNorm"]) for name, golden in goldens.items()})


main()
