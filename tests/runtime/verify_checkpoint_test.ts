import { assertMatch } from "@std/assert";
import { openCheckpoint } from "../../compiler/frontends/checkpoint.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { decoderSource } from "../../compiler/frontends/decoder_source.ts";
import { parametersOf } from "../../ir/module.ts";
import { concreteShape } from "../../ir/types.ts";
import { verifyCheckpoint } from "../../runtime/verify_checkpoint.ts";
import { assertUserError, f32Safetensors, folderOf } from "../compiler/frontends/fixtures.ts";

const CONFIG = {
  model_type: "llama",
  vocab_size: 4,
  hidden_size: 4,
  intermediate_size: 8,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  tie_word_embeddings: true,
};

const ones = (...shape: number[]) => ({ shape, values: Array<number>(shape.reduce((a, b) => a * b)).fill(1) });

/** Verifies a model of one layer with more tensors than it needs. */
async function verifyWith(
  extra: readonly string[],
  head?: { shape: number[]; values: number[] },
): Promise<string> {
  const config = JSON.stringify(CONFIG);
  const { config: parsed } = await openCheckpoint(
    folderOf({ "config.json": config, "model.safetensors": f32Safetensors({ "model.norm.weight": ones(4) }) }),
  );
  const module = decoderModule(parsed), nameOf = decoderSource(parsed);
  const needed = module.calls.flatMap((call) => [...parametersOf(module, call)])
    .filter(([name]) => !module.derived[name])
    .map(([name, { shape }]) => [nameOf(name), ones(...concreteShape(shape))] as const);
  const others = [
    ...extra.map((name) => [name, ones(4)] as const),
    ...(head ? [["lm_head.weight", head] as const] : []),
  ];
  const weights = f32Safetensors(Object.fromEntries([...needed, ...others]));
  return await verifyCheckpoint(
    await openCheckpoint(folderOf({ "config.json": config, "model.safetensors": weights })),
    module,
  );
}

Deno.test("verifyCheckpoint() refuses layers and biases that the configuration does not speak of", async () => {
  for (
    const name of [
      "model.layers.1.input_layernorm.weight",
      "layers.1.input_layernorm.weight",
      "model.layers.0.self_attn.q_proj.bias",
      "model.layers.0.self_attn.q_norm.weight",
    ]
  ) {
    await assertUserError(
      () => verifyWith([name]),
      new RegExp(`only tensors that the config\\.json accounts for but found "${name}", in "model"`),
    );
  }
});

Deno.test("verifyCheckpoint() lets pass what transformers ignores as well, and hashes without it", async () => {
  const hash = await verifyWith([]);
  assertMatch(hash, /^[0-9a-f]{64}$/);
  const extended = await verifyWith(["model.layers.0.self_attn.rotary_emb.inv_freq"], ones(4, 4));
  assertMatch(extended, new RegExp(`^${hash}$`));
});

Deno.test("verifyCheckpoint() refuses a head that is not the embedding it is said to be tied to", async () => {
  const head = ones(4, 4);
  await assertUserError(
    () => verifyWith([], { ...head, values: head.values.with(5, 0.5) }),
    /^Expected "lm_head\.weight" to be the embedding, as config\.json says, but found other values, in "model"; set/,
  );
  await assertUserError(() => verifyWith([], ones(4)), /"lm_head\.weight".*\[4,4\] but found \[4\]/);
});
