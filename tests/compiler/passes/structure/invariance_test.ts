/** No structure pass changes what a model computes, in any variant of the decoder family. */
import { assert, assertEquals } from "@std/assert";
import { openCheckpoint } from "../../../../compiler/frontends/checkpoint.ts";
import { decoderModule } from "../../../../compiler/frontends/decoder.ts";
import { decoderSource } from "../../../../compiler/frontends/decoder_source.ts";
import { localFolder } from "../../../../compiler/frontends/source.ts";
import { type NamedPass, runPasses } from "../../../../compiler/passes/pass.ts";
import { fuseNorms } from "../../../../compiler/passes/structure/fuse_norms.ts";
import { onlineHadamard } from "../../../../compiler/passes/structure/online_hadamard.ts";
import { rotateHeads } from "../../../../compiler/passes/structure/rotate_heads.ts";
import { rotateResidual } from "../../../../compiler/passes/structure/rotate_residual.ts";
import { mapBlocks } from "../../../../compiler/passes/quantize/linears.ts";
import { scaleColumns } from "../../../../compiler/passes/structure/scale_columns.ts";
import { simplify } from "../../../../compiler/passes/structure/simplify.ts";
import { tokenTime } from "../../../../compiler/passes/structure/values.ts";
import type { Module } from "../../../../ir/module.ts";
import { concreteShape } from "../../../../ir/types.ts";
import { randomParameters, VARIANTS } from "../../../support/random_decoder.ts";
import { type Load, maxDifference, runModule, tokenInputs } from "../../../support/run_module.ts";

const seed = 7;
const scaled: NamedPass = { name: "scale_columns", run: (module) => mapBlocks(module, scaleColumns) };
const PIPELINES: Readonly<Record<string, readonly NamedPass[]>> = {
  "simplify": [simplify],
  "fuse_norms": [fuseNorms],
  "rotate_residual": [rotateResidual({ seed })],
  "rotate_heads": [rotateHeads({ seed })],
  "online_hadamard": [onlineHadamard({ keys: false })],
  "online_hadamard with keys": [onlineHadamard({ keys: true })],
  "scale_columns": [scaled],
  "all passes": [
    fuseNorms,
    rotateResidual({ seed }),
    rotateHeads({ seed }),
    onlineHadamard({ keys: true }),
    simplify,
    scaled,
  ],
};

const ids = [1, 5, 3, 16, 0, 9, 9, 2];
const logitsOf = async (module: Module): Promise<Float64Array> =>
  (await runModule(module, tokenInputs(ids), randomParameters(3))).logits ?? new Float64Array();

for (const [variant, config] of Object.entries(VARIANTS)) {
  Deno.test(`structure passes keep the logits: ${variant}`, async (t) => {
    const module = decoderModule(config), expected = await logitsOf(module);
    assert(expected.some((x) => Math.abs(x) > 0.5), "logits are not all small");
    for (const [name, passes] of Object.entries(PIPELINES)) {
      await t.step(name, async () => {
        const difference = maxDifference(await logitsOf(runPasses(module, passes)), expected);
        assert(difference <= 1e-4, `largest difference ${difference}`);
      });
    }
  });
}

Deno.test("structure passes keep the logits of stories260K, whose MLP has 172 = 43·4 channels", async () => {
  const folder = new URL("../../../../../shared/data/stories260K-hf/", import.meta.url);
  if (!await Deno.stat(folder).catch(() => undefined)) {
    return console.warn("SKIPPED: ../shared/data/stories260K-hf is absent");
  }
  const checkpoint = await openCheckpoint(await localFolder(folder.pathname)),
    source = decoderSource(checkpoint.config);
  const load: Load = async (name, type) =>
    Float64Array.from((await checkpoint.tensor(source(name), concreteShape(type.shape))).data);
  const logits = async (module: Module) =>
    (await runModule(module, tokenInputs([1, 403, 407, 261]), load)).logits ?? [];
  const module = decoderModule(checkpoint.config), notes: string[] = [];
  const passes = [fuseNorms, rotateResidual({ seed }), rotateHeads({ seed }), onlineHadamard({ keys: true }), simplify];
  const changed = runPasses(module, passes, { note: (text) => notes.push(text) });
  const difference = maxDifference(await logits(changed), await logits(module));
  assert(difference <= 1e-4, `largest difference ${difference}`);
  assertEquals(notes, []);
});

/** Transforms that a token pays for, by function. */
const transforms = (module: Module): Record<string, number> =>
  Object.fromEntries(
    Object.entries(module.functions).map(([name, graph]) => [name, tokenTime(graph, "hadamard").length]),
  );

for (const variant of ["tied, grouped queries", "untied, heads of 8", "all biases, width 20"] as const) {
  Deno.test(`rotations leave no transform in the blocks: ${variant}`, () => {
    const config = VARIANTS[variant];
    const rotated = runPasses(decoderModule(config), [fuseNorms, rotateResidual({ seed }), rotateHeads({ seed })]);
    // A tied head keeps its gain and its matrix, so the way back from the rotated basis is a transform of its own.
    assertEquals(transforms(rotated), { embed: 1, block: 0, head: config.tieEmbeddings ? 1 : 0 });
    const online = runPasses(rotated, [onlineHadamard({ keys: false })]);
    assertEquals(transforms(online), { embed: 1, block: 1, head: config.tieEmbeddings ? 1 : 0 });
    const keys = runPasses(rotated, [onlineHadamard({ keys: true })]);
    assertEquals(transforms(keys), { embed: 1, block: 3, head: config.tieEmbeddings ? 1 : 0 });
  });
}

Deno.test("passes leave out and report axes without a Hadamard matrix", () => {
  const config = VARIANTS["no transforms of these widths"], notes: string[] = [];
  const passes = [rotateResidual({ seed }), rotateHeads({ seed }), onlineHadamard({ keys: true })];
  const module = runPasses(decoderModule(config), passes, { note: (text) => notes.push(text) });
  assertEquals(transforms(module), { embed: 0, block: 0, head: 0 });
  assertEquals(notes, [
    'rotate_residual: the stream "h" keeps its basis: no Hadamard matrix of order 18 is known here',
    'rotate_heads: the heads of "block" keep their basis: no Hadamard matrix of order 6 is known here',
    'online_hadamard: queries and keys of "block" keep their basis: no Hadamard matrix of order 6 is known here',
    'online_hadamard: inputs of a linear layer of "block" keep their basis: no Hadamard matrix of order 22 is known here',
  ]);
});

Deno.test("runPasses() shows the module before the first pass and after each", () => {
  const config = VARIANTS["untied, heads of 8"], seen: string[] = [];
  runPasses(decoderModule(config), [fuseNorms, simplify], { watch: (name) => seen.push(name) });
  assertEquals(seen, ["start", "fuse_norms", "simplify"]);
});
