import { assert, assertEquals, assertThrows } from "@std/assert";
import { type Checkpoint, openCheckpoint } from "../../../compiler/frontends/checkpoint.ts";
import { checkContext, decoderModule } from "../../../compiler/frontends/decoder.ts";
import { decoderSource } from "../../../compiler/frontends/decoder_source.ts";
import { inverseFrequencies } from "../../../compiler/frontends/rope.ts";
import { localFolder } from "../../../compiler/frontends/source.ts";
import { UserError } from "../../../ir/errors.ts";
import { parametersOf } from "../../../ir/module.ts";
import { concreteShape } from "../../../ir/types.ts";
import { type Load, maxDifference, runModule, tokenInputs } from "../../support/run_module.ts";

const goldens = new URL("../../parity/goldens/", import.meta.url);
const stories = new URL("../../../../shared/data/stories260K-hf/", import.meta.url);

const loadFrom = (checkpoint: Checkpoint): Load => {
  const source = decoderSource(checkpoint.config);
  return async (name, type) =>
    Float64Array.from((await checkpoint.tensor(source(name), concreteShape(type.shape))).data);
};

const logitsOf = async (checkpoint: Checkpoint, ids: readonly number[]): Promise<Float64Array> => {
  const { logits } = await runModule(decoderModule(checkpoint.config), tokenInputs(ids), loadFrom(checkpoint));
  return logits ?? new Float64Array();
};

const folders = [...Deno.readDirSync(goldens)].filter((entry) => entry.isDirectory).map((entry) => entry.name).sort();

Deno.test("the parity goldens cover the families", () => assert(folders.length >= 6, `${folders}`));

for (const name of folders) {
  Deno.test(`decoderModule() gives the logits of transformers for ${name}`, async () => {
    const folder = new URL(`${name}/`, goldens).pathname, checkpoint = await openCheckpoint(await localFolder(folder));
    const golden: { ids: number[]; logits: number[][] } = JSON.parse(await Deno.readTextFile(`${folder}logits.json`));
    assertEquals(golden.logits.length, golden.ids.length);
    const found = await logitsOf(checkpoint, golden.ids), difference = maxDifference(found, golden.logits.flat());
    assert(difference <= 1e-4, `largest difference ${difference}`);
  });
}

Deno.test("decoderModule() gives the logits of stories260K", async () => {
  if (!await Deno.stat(stories).catch(() => undefined)) {
    return console.warn("SKIPPED: ../shared/data/stories260K-hf is absent");
  }
  const checkpoint = await openCheckpoint(await localFolder(stories.pathname));
  const found = await logitsOf(checkpoint, [1, 403, 407]), last = found.subarray(2 * checkpoint.config.vocabSize);
  const expected = [-12.141098, 1.776247, -12.142951, -12.14102, -12.140547, -12.142583, -12.139871, -12.14181];
  const difference = maxDifference(last.subarray(0, expected.length), expected);
  assert(difference <= 1e-4, `largest difference ${difference}`);
});

Deno.test("every parameter of every call has a tensor in the checkpoint, of its shape", async () => {
  for (const name of folders) {
    const checkpoint = await openCheckpoint(await localFolder(new URL(`${name}/`, goldens).pathname));
    const module = decoderModule(checkpoint.config),
      source = decoderSource(checkpoint.config),
      used = new Set<string>();
    for (const call of module.calls) {
      for (const [parameter, type] of parametersOf(module, call)) {
        if (module.derived[parameter]) continue;
        checkpoint.check(source(parameter), concreteShape(type.shape));
        used.add(source(parameter));
      }
    }
    assertEquals([...used].sort(), [...checkpoint.names].sort());
  }
});

Deno.test("decoderSource() refuses names of no checkpoint", async () => {
  const { config } = await openCheckpoint(await localFolder(new URL(`${folders[0]}/`, goldens).pathname));
  const source = decoderSource(config);
  assertEquals(source("layers.1.mlp.norm.weight"), "model.layers.1.post_attention_layernorm.weight");
  for (const name of ["rope.cos", "layers.99.mlp.up.weight", "layers.0.mlp.up.codes", "layers.0.constructor.weight"]) {
    assertThrows(() => source(name), RangeError, "Expected a parameter of a decoder");
  }
});

Deno.test("decoderModule() bounds attention only by windows that are shorter than the context", async () => {
  const { config } = await openCheckpoint(await localFolder(new URL("mistral_f16/", goldens).pathname));
  const windowAt = (slidingWindow: number | null) => {
    const { block } = decoderModule({ ...config, slidingWindow }).functions;
    return block?.nodes.find(({ op }) => op === "attention")?.attrs.window;
  };
  assertEquals([8, 127, 128, 4096, null].map(windowAt), [8, 127, undefined, undefined, undefined]);
});

Deno.test("checkContext() refuses contexts beyond the model's positions", async () => {
  const { config } = await openCheckpoint(await localFolder(new URL("mistral_f16/", goldens).pathname));
  checkContext(config, 128);
  assertThrows(() => checkContext(config, 129), UserError, "at most 128 tokens, the model's context, but found 129");
});

Deno.test("inverseFrequencies() follows the definitions of linear and llama3 scaling", () => {
  assertEquals([...inverseFrequencies({ ropeTheta: 16, ropeScaling: null }, 4)], [1, 0.25]);
  assertEquals([...inverseFrequencies({ ropeTheta: 16, ropeScaling: { type: "linear", factor: 4 } }, 4)], [
    0.25,
    0.0625,
  ]);
  const scaling = {
    type: "llama3",
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPosition: 8192,
  } as const;
  const plain = inverseFrequencies({ ropeTheta: 500000, ropeScaling: null }, 64);
  const scaled = inverseFrequencies({ ropeTheta: 500000, ropeScaling: scaling }, 64);
  const ratio = (j: number) => (plain[j] ?? 0) / (scaled[j] ?? 1);
  assertEquals(ratio(0), 1);
  assert(Math.abs(ratio(31) - 8) < 1e-12, "the slowest pair is slowed in full");
  const blended = [...plain.keys()].filter((j) => ratio(j) > 1.001 && ratio(j) < 7.999);
  assert(blended.length > 0 && blended.every((j) => ratio(j) > ratio(j - 1)), "the blend is monotonous");
});
