import { assert, assertEquals } from "@std/assert";
import { openCheckpoint } from "../../../compiler/frontends/checkpoint.ts";
import { localFolder } from "../../../compiler/frontends/source.ts";
import { assertUserError, f32Safetensors, folderOf, rawSafetensors, storiesFolder } from "./fixtures.ts";

const config = JSON.stringify({
  model_type: "llama",
  vocab_size: 2,
  hidden_size: 2,
  intermediate_size: 4,
  num_hidden_layers: 1,
  num_attention_heads: 1,
});
const embedding = { shape: [2, 2], values: [1, 2, 3, 4] };
const weights = f32Safetensors({
  "model.embed_tokens.weight": embedding,
  "model.norm.weight": { shape: [2], values: [1, 1] },
});
const single = { "config.json": config, "model.safetensors": weights };

Deno.test("openCheckpoint() reads config and tensors of a single file", async () => {
  const checkpoint = await openCheckpoint(folderOf(single));
  assertEquals(checkpoint.config.hiddenSize, 2);
  assertEquals(checkpoint.names, ["model.embed_tokens.weight", "model.norm.weight"]);
  assertEquals(checkpoint.has("model.norm.weight"), true);
  assertEquals(checkpoint.has("lm_head.weight"), false);
  assertEquals(await checkpoint.tensor("model.embed_tokens.weight", [2, 2]), {
    shape: [2, 2],
    data: Float32Array.of(1, 2, 3, 4),
  });
});

Deno.test("openCheckpoint() finds the tensors of a bare decoder, which lack the prefix", async () => {
  const bare = f32Safetensors({ "embed_tokens.weight": embedding });
  const checkpoint = await openCheckpoint(folderOf({ ...single, "model.safetensors": bare }));
  assertEquals(checkpoint.has("model.embed_tokens.weight"), true);
  assertEquals((await checkpoint.tensor("model.embed_tokens.weight", [2, 2])).data[3], 4);
});

const index = (weightMap: unknown) => JSON.stringify({ metadata: { total_size: 24 }, weight_map: weightMap });
const sharded = {
  "config.json": config,
  "model.safetensors.index.json": index({
    "model.embed_tokens.weight": "a.safetensors",
    "model.norm.weight": "b.safetensors",
  }),
  "a.safetensors": f32Safetensors({ "model.embed_tokens.weight": embedding }),
  "b.safetensors": f32Safetensors({ "model.norm.weight": { shape: [2], values: [5, 6] } }),
};

Deno.test("openCheckpoint() reads tensors from the shards of the index", async () => {
  const checkpoint = await openCheckpoint(folderOf(sharded));
  assertEquals((await checkpoint.tensor("model.norm.weight", [2])).data, Float32Array.of(5, 6));
  assertEquals((await checkpoint.tensor("model.embed_tokens.weight", [2, 2])).data[0], 1);
});

Deno.test("openCheckpoint() rejects broken indices", async () => {
  const INDEX = "model.safetensors.index.json";
  const rejects = (content: string, pattern: RegExp) =>
    assertUserError(() => openCheckpoint(folderOf({ ...sharded, [INDEX]: content })), pattern);
  await rejects("{", /Cannot parse JSON.*index\.json/);
  await rejects("{}", /"weight_map" to be an object but found undefined/);
  await rejects(index([]), /"weight_map" to be an object/);
  await rejects(index({ a: 1 }), /safetensors file name for tensor "a" but found 1/);
  await rejects(index({ a: "../a.safetensors" }), /safetensors file name for tensor "a"/);
  await rejects(index({ a: "/etc/passwd" }), /safetensors file name for tensor "a"/);
  await rejects(index({ a: "c.safetensors" }), /Cannot read "model\/c\.safetensors"/);
  await rejects(index({ "model.norm.weight": "a.safetensors" }), /tensor "model.norm.weight" in "a\.safetensors"/);
  await rejects('{"weight_map":{"a":"a.safetensors","a":"b.safetensors"}}', /found "a" twice/);
});

Deno.test("openCheckpoint() rejects folders without a model", async () => {
  const rejects = (files: Record<string, string | Uint8Array>, pattern: RegExp) =>
    assertUserError(() => openCheckpoint(folderOf(files)), pattern);
  await rejects({}, /a Hugging Face model in "model" but found no config\.json/);
  await rejects({ "config.json": config }, /weights in "model" but found neither/);
  await rejects({ ...single, "config.json": config.replace("llama", "gpt2") }, /"gpt2", in "model\/config\.json"/);
  await rejects({ ...single, "model.safetensors": weights.subarray(0, 100) }, /header that fits.*"model\/model\.safe/);
  const deep = config.replace('"num_hidden_layers":1', '"num_hidden_layers":1000000000');
  await rejects({ ...single, "config.json": deep }, /weights of 1000000000 layers but found 2 tensors/);
});

Deno.test("tensor() and check() demand presence, shape and a float format", async () => {
  const integers = rawSafetensors('{"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}', new Uint8Array(2));
  const checkpoint = await openCheckpoint(folderOf(single));
  const quantized = await openCheckpoint(folderOf({ ...single, "model.safetensors": integers }));
  for (const method of ["tensor", "check"] as const) {
    await assertUserError(
      () => checkpoint[method]("lm_head.weight", [2, 2]),
      /tensor "lm_head\.weight" but found none/,
    );
    await assertUserError(
      () => checkpoint[method]("model.norm.weight", [3]),
      /to have shape \[3\] but found \[2\], in "model/,
    );
    await assertUserError(() => checkpoint[method]("model.norm.weight", [2, 1]), /to have shape \[2,1\]/);
    await assertUserError(() => quantized[method]("a", [2]), /"a" to be F32, F16, BF16 or F64 but found I8/);
  }
});

Deno.test("tensor() rejects NaN and infinities, naming tensor and file", async () => {
  for (const value of [NaN, Infinity, -Infinity]) {
    const bad = f32Safetensors({ "model.norm.weight": { shape: [3], values: [1, value, 1] } });
    const checkpoint = await openCheckpoint(folderOf({ ...single, "model.safetensors": bad }));
    await assertUserError(
      () => checkpoint.tensor("model.norm.weight", [3]),
      new RegExp(`finite weights in tensor "model.norm.weight" but found ${value} at position 1, in "model/model.safe`),
    );
  }
});

Deno.test("openCheckpoint() reads every parity golden", async () => {
  const goldens = new URL("../../parity/goldens", import.meta.url).pathname;
  const expected: Record<string, number> = {
    llama_gqa_tied: 20,
    llama_untied_biases: 35,
    llama3_rope: 21,
    mistral_f16: 21,
    qwen2_tied: 26,
    llama_bf16_shards: 21,
  };
  for (const [name, tensors] of Object.entries(expected)) {
    const checkpoint = await openCheckpoint(await localFolder(`${goldens}/${name}`));
    const { vocabSize, hiddenSize } = checkpoint.config;
    checkpoint.check("model.embed_tokens.weight", [vocabSize, hiddenSize]);
    const { data } = await checkpoint.tensor("model.norm.weight", [hiddenSize]);
    // Norms were drawn with mean 1 and deviation 0.2: other bytes, or another format, would not look like it.
    assert(data.every((value) => value > 0 && value < 2), name);
    assertEquals(checkpoint.names.length, tensors, name);
    assertEquals(checkpoint.has("lm_head.weight"), !checkpoint.config.tieEmbeddings, name);
  }
});

Deno.test("openCheckpoint() reads a real model", async () => {
  const path = await storiesFolder("openCheckpoint() reads a real model");
  if (!path) return;
  const checkpoint = await openCheckpoint(await localFolder(path));
  assertEquals(checkpoint.names.length, 47);
  const { data } = await checkpoint.tensor("model.layers.4.mlp.down_proj.weight", [64, 172]);
  assertEquals(data.length, 64 * 172);
});
