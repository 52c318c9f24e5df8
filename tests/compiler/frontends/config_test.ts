import { assertEquals, assertThrows } from "@std/assert";
import { parseDecoderConfig } from "../../../compiler/frontends/config.ts";
import { UserError } from "../../../ir/errors.ts";
import { utf8 } from "./fixtures.ts";

const sizes = {
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
};
const llama = { model_type: "llama", ...sizes };
const parse = (config: object) => parseDecoderConfig(utf8(JSON.stringify(config)), "m/config.json");
const rejects = (config: object, message: string) => assertThrows(() => parse(config), UserError, message);

Deno.test("parseDecoderConfig() gives absent fields the defaults of LLaMA", () => {
  assertEquals(parse(llama), {
    modelType: "llama",
    vocabSize: 64,
    hiddenSize: 32,
    intermediateSize: 40,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    rmsNormEps: 1e-6,
    ropeTheta: 10000,
    ropeScaling: null,
    maxPositions: 2048,
    tieEmbeddings: false,
    attentionBias: { qkv: false, output: false },
    mlpBias: false,
    slidingWindow: null,
    bosTokenId: 1,
    eosTokenIds: [2],
  });
});

Deno.test("parseDecoderConfig() reads every field of LLaMA 3", () => {
  const config = parse({
    ...llama,
    architectures: ["LlamaForCausalLM"],
    hidden_act: "silu",
    head_dim: 16,
    rms_norm_eps: 1e-5,
    rope_theta: 500000,
    rope_scaling: {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
    max_position_embeddings: 131072,
    tie_word_embeddings: true,
    attention_bias: true,
    mlp_bias: true,
    bos_token_id: 128000,
    eos_token_id: [128001, 128009],
  });
  assertEquals(config.headDim, 16);
  assertEquals(config.rmsNormEps, 1e-5);
  assertEquals(config.ropeTheta, 500000);
  assertEquals(config.ropeScaling, {
    type: "llama3",
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPosition: 8192,
  });
  assertEquals(config.maxPositions, 131072);
  assertEquals(config.tieEmbeddings, true);
  assertEquals(config.attentionBias, { qkv: true, output: true });
  assertEquals(config.mlpBias, true);
  assertEquals([config.bosTokenId, config.eosTokenIds], [128000, [128001, 128009]]);
});

Deno.test("parseDecoderConfig() reads rotary parameters in old and new spellings", () => {
  const rope = (fields: object) => {
    const { ropeTheta, ropeScaling } = parse({ ...llama, max_position_embeddings: 4096, ...fields });
    return [ropeTheta, ropeScaling];
  };
  assertEquals(rope({ rope_theta: 5 }), [5, null]);
  assertEquals(rope({ rope_theta: 5, rope_scaling: null }), [5, null]);
  assertEquals(rope({ rope_theta: 5, rope_scaling: { rope_type: "default" } }), [5, null]);
  assertEquals(rope({ rope_scaling: { type: "linear", factor: 2 } }), [10000, { type: "linear", factor: 2 }]);
  assertEquals(rope({ rope_parameters: { rope_type: "default", rope_theta: 7 } }), [7, null]);
  assertEquals(rope({ rope_parameters: { rope_theta: 7 } }), [7, null]);
  assertEquals(rope({ rope_theta: 5, rope_parameters: { rope_type: "default" } }), [5, null]);
  const linear = { rope_type: "linear", factor: 4, rope_theta: 7 };
  assertEquals(rope({ rope_scaling: {}, rope_parameters: linear }), [7, { type: "linear", factor: 4 }]);
  const scaled = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4, rope_theta: 7 };
  const own = rope({
    original_max_position_embeddings: 64,
    rope_parameters: { ...scaled, original_max_position_embeddings: 32 },
  });
  assertEquals((own[1] as { originalMaxPosition?: number }).originalMaxPosition, 64);
  assertEquals(rope({ rope_parameters: scaled }), [
    7,
    { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPosition: 4096 },
  ]);
});

Deno.test("parseDecoderConfig() reads Mistral's window, 4096 where it is absent", () => {
  const mistral = { ...llama, model_type: "mistral" };
  assertEquals(parse(mistral).slidingWindow, 4096);
  assertEquals(parse({ ...mistral, sliding_window: 8 }).slidingWindow, 8);
  assertEquals(parse({ ...mistral, sliding_window: null }).slidingWindow, null);
  rejects({ ...mistral, sliding_window: 0 }, '"sliding_window" to be a positive integer but found 0');
});

Deno.test("parseDecoderConfig() gives Qwen2 biases of q, k and v, and windows only where they are switched on", () => {
  const qwen2 = { ...llama, model_type: "qwen2", sliding_window: 8 };
  assertEquals(parse(qwen2).attentionBias, { qkv: true, output: false });
  assertEquals([parse(qwen2).bosTokenId, parse(qwen2).eosTokenIds], [null, []]);
  assertEquals(parse(qwen2).slidingWindow, null);
  const on = { ...qwen2, use_sliding_window: true };
  assertEquals(parse(on).slidingWindow, null, "from layer 28 on, of 2");
  assertEquals(parse({ ...on, max_window_layers: 0 }).slidingWindow, 8);
  assertEquals(parse({ ...on, layer_types: ["sliding_attention", "sliding_attention"] }).slidingWindow, 8);
  assertEquals(parse({ ...on, layer_types: ["full_attention", "full_attention"] }).slidingWindow, null);
  rejects({ ...on, max_window_layers: 1 }, '"max_window_layers" to be such that all layers have one attention window');
  rejects({ ...on, layer_types: ["full_attention", "sliding_attention"] }, '"layer_types" to be such that all layers');
});

Deno.test("parseDecoderConfig() takes a null for as many key-value heads as heads", () => {
  assertEquals(parse({ ...llama, num_key_value_heads: null }).kvHeads, 4);
  assertEquals(parse({ ...llama, model_type: "mistral", num_key_value_heads: null }).kvHeads, 4);
});

Deno.test("parseDecoderConfig() refuses what it cannot compute, naming file, field and mend", () => {
  rejects(
    { ...llama, model_type: "gpt2" },
    '"model_type" to be a supported model type but found "gpt2", in "m/config.json"',
  );
  rejects({ ...llama, model_type: "gpt2" }, 'use a checkpoint of type "llama", "mistral" or "qwen2"');
  rejects({ ...llama, model_type: "toString" }, '"model_type"');
  rejects({ ...sizes }, '"model_type" to be a supported model type but found none');
  rejects({ ...llama, architectures: ["GPT2LMHeadModel"] }, '"architectures"');
  rejects({ ...llama, architectures: "LlamaForCausalLM" }, '"architectures"');
  rejects({ ...llama, architectures: ["MistralForCausalLM"] }, '"architectures"');
  rejects({ ...llama, hidden_act: "gelu" }, '"hidden_act" to be the activation "silu" but found "gelu"');
  rejects({ ...llama, quantization_config: { quant_method: "gptq" } }, '"quantization_config"');
  for (const type of ["yarn", "dynamic", "longrope", "su", "mrope"]) {
    rejects(
      { ...llama, rope_scaling: { rope_type: type, factor: 2 } },
      `"rope_scaling.rope_type" to be a supported rope`,
    );
    rejects({ ...llama, rope_scaling: { type, factor: 2 } }, `rope type but found "${type}"`);
    rejects({ ...llama, rope_parameters: { rope_type: type, factor: 2 } }, '"rope_parameters.rope_type"');
  }
  rejects({ ...llama, rope_scaling: { factor: 2 } }, '"rope_scaling.type" to be a string but found none');
  rejects({ ...llama, partial_rotary_factor: 0.5 }, '"partial_rotary_factor" to be 1 but found 0.5');
  rejects({ ...llama, rope_parameters: { partial_rotary_factor: 0.5 } }, '"rope_parameters.partial_rotary_factor"');
});

Deno.test("parseDecoderConfig() checks the type of every field", () => {
  for (const key of Object.keys(sizes)) {
    for (const value of ["32", 0, -1, 1.5, 2 ** 31, true, [], {}]) {
      rejects({ ...llama, [key]: value }, `"${key}" to be a positive integer but found ${JSON.stringify(value)}`);
    }
  }
  for (const key of Object.keys(sizes).filter((key) => key !== "num_key_value_heads")) {
    rejects({ ...llama, [key]: undefined }, `"${key}" to be a positive integer but found none`);
  }
  for (const key of ["rms_norm_eps", "rope_theta"]) {
    for (const value of ["1e-5", 0, -1, false]) rejects({ ...llama, [key]: value }, `"${key}" to be a positive number`);
  }
  for (const key of ["tie_word_embeddings", "attention_bias", "mlp_bias"]) {
    for (const value of ["true", 0, 1]) rejects({ ...llama, [key]: value }, `"${key}" to be true or false`);
  }
  for (const key of ["bos_token_id", "eos_token_id"]) {
    for (const value of ["1", -1, 0.5, [1, "2"]]) rejects({ ...llama, [key]: value }, `"${key}" to be a token id`);
  }
  rejects({ ...llama, hidden_act: 1 }, '"hidden_act" to be a string');
  rejects({ ...llama, rope_scaling: "linear" }, '"rope_scaling" to be an object');
  rejects({ ...llama, rope_scaling: { type: "linear", factor: "2" } }, '"rope_scaling.factor" to be a positive number');
  const bands = { type: "llama3", factor: 8, low_freq_factor: 4, high_freq_factor: 4 };
  rejects({ ...llama, rope_scaling: bands }, '"rope_scaling.high_freq_factor" to be above low_freq_factor 4');
});

Deno.test("parseDecoderConfig() checks that heads fit", () => {
  rejects({ ...llama, num_attention_heads: 5 }, '"num_key_value_heads" to be a divisor of the 5 attention heads');
  rejects({ ...llama, num_attention_heads: 6 }, '"num_attention_heads" to be a divisor of the hidden size 32');
  assertEquals(parse({ ...llama, num_attention_heads: 6, head_dim: 8 }).headDim, 8);
  rejects({ ...llama, head_dim: 7 }, '"head_dim" to be such that heads have an even size');
  rejects({ ...llama, hidden_size: 36 }, '"num_attention_heads" to be such that heads have an even size');
});

Deno.test("parseDecoderConfig() rejects what is not a JSON object", () => {
  for (const text of ["", "[]", "null", "{", '"llama"']) {
    assertThrows(() => parseDecoderConfig(utf8(text), "m/config.json"), UserError, '"m/config.json"');
  }
});
