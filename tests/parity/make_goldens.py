"""Makes the parity goldens: small random models saved by Hugging Face transformers, with the logits it computes for them.

Run from the repository root: python3 tests/parity/make_goldens.py
Needs torch, transformers and safetensors (made with transformers 5.23.0). The models are seeded; the logits come from
the folder as it was written, loaded back and computed in float32, so they are the truth about exactly these files.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

GOLDENS = pathlib.Path(__file__).parent / "goldens"
VOCABULARY = 64
TOKENS = 24

SHARED = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, max_position_embeddings=128)

MODELS = {
    "llama_gqa_tied": dict(
        config=LlamaConfig(
            **SHARED, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True
        )
    ),
    # Heads of 8 although 36 / 3 = 12, one of them for keys and values, biases everywhere, every other position.
    "llama_untied_biases": dict(
        config=LlamaConfig(
            **{**SHARED, "hidden_size": 36},
            intermediate_size=40,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=8,
            attention_bias=True,
            mlp_bias=True,
            rms_norm_eps=1e-5,
            rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0),
        )
    ),
    # One frequency of each head is kept, one is blended, two are divided. Spelt as transformers did before version 5.
    "llama3_rope": dict(
        config=LlamaConfig(
            **{**SHARED, "max_position_embeddings": 4096},
            intermediate_size=40,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            eos_token_id=[2, 3],
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=500000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=512,
            ),
        ),
        old_rope_spelling=True,
    ),
    # The window is shorter than the sequence.
    "mistral_f16": dict(
        config=MistralConfig(
            **SHARED, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, sliding_window=8
        ),
        dtype=torch.float16,
    ),
    "qwen2_tied": dict(
        config=Qwen2Config(
            **SHARED,
            intermediate_size=40,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
        )
    ),
    "llama_bf16_shards": dict(
        config=LlamaConfig(**SHARED, intermediate_size=56, num_attention_heads=4, num_key_value_heads=4),
        dtype=torch.bfloat16,
        max_shard_size="16KB",
    ),
}


def make_random(model):
    """Replaces every parameter, since the usual start (zero biases, unit norms, small weights) hides mistakes."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        if name.endswith("norm.weight"):
            values = 1 + 0.2 * noise
        elif parameter.dim() == 1:
            values = 0.3 * noise
        else:
            values = noise * 1.5 / parameter.shape[1] ** 0.5
        parameter.data = values.to(parameter.dtype)
    model.tie_weights()


def use_old_rope_spelling(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    path.write_text(json.dumps(config, indent=2) + "\n")


def make(name, config, dtype=torch.float32, max_shard_size="1GB", old_rope_spelling=False):
    torch.manual_seed(sum(name.encode()))
    folder = GOLDENS / name
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    make_random(model)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if old_rope_spelling:
        use_old_rope_spelling(folder)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(0, VOCABULARY, (1, TOKENS))
    with torch.no_grad():
        logits = model(ids).logits[0]
    rows = ",\n".join("[" + ",".join(f"{value:.7g}" for value in row) + "]" for row in logits.tolist())
    (folder / "logits.json").write_text(f'{{"ids":{json.dumps(ids[0].tolist())},"logits":[\n{rows}\n]}}\n')
    for file in folder.iterdir():
        file.chmod(0o644)
    tensors = [tensor for file in folder.glob("*.safetensors") for tensor in load_file(file).values()]
    print(name, sum(tensor.numel() for tensor in tensors), "values, logits' deviation", logits.std().item())


if __name__ == "__main__":
    for name, recipe in MODELS.items():
        make(name, **recipe)
