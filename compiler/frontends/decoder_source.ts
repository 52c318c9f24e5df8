/** @file The names of a decoder's parameters in Hugging Face checkpoints. */
import type { DecoderConfig } from "./config.ts";

const OUTSIDE: ReadonlyMap<string, string> = new Map(Object.entries({
  "embedding.weight": "model.embed_tokens.weight",
  "final.norm.weight": "model.norm.weight",
  "head.weight": "lm_head.weight",
}));

const INSIDE: ReadonlyMap<string, string> = new Map(Object.entries({
  "attention.norm": "input_layernorm",
  "attention.query": "self_attn.q_proj",
  "attention.key": "self_attn.k_proj",
  "attention.value": "self_attn.v_proj",
  "attention.output": "self_attn.o_proj",
  "mlp.norm": "post_attention_layernorm",
  "mlp.gate": "mlp.gate_proj",
  "mlp.up": "mlp.up_proj",
  "mlp.down": "mlp.down_proj",
}));

/**
 * Where the parameters of `decoderModule(config)` come from: maps `layers.0.attention.query.weight` to
 * `model.layers.0.self_attn.q_proj.weight`.
 *
 * @returns a function that throws a `RangeError` on names which the module's checkpoint does not hold
 */
export function decoderSource({ layers }: DecoderConfig): (parameter: string) => string {
  return (parameter) => {
    const outside = OUTSIDE.get(parameter);
    if (outside) return outside;
    const [, layer, linear = "", kind] = /^layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(parameter) ?? [];
    const inside = INSIDE.get(linear);
    if (inside && Number(layer) < layers) return `model.layers.${layer}.${inside}.${kind}`;
    throw new RangeError(`Expected a parameter of a decoder with ${layers} layers but found "${parameter}"`);
  };
}
