/** Whole programs of a decoder's block on WebGPU: the deployed block at mixed widths, and a train program. */
import { assert } from "@std/assert";
import { hostArray } from "../../../backends/backend.ts";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { PORTABLE } from "../../../backends/webgpu/traits.ts";
import { createBackend } from "../../../backends/webgpu/backend.ts";
import { describeAdapter } from "../../../backends/webgpu/device.ts";
import { widthsAt } from "../../../compiler/calibrate/block_programs.ts";
import { reconstructionLoss } from "../../../compiler/calibrate/block_losses.ts";
import { trainInPlace, trainProgram, withLearnedInputs } from "../../../compiler/calibrate/train_program.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { contractIntegers } from "../../../compiler/passes/contract_integers.ts";
import { specialize, topName } from "../../../compiler/passes/quantize/specialize.ts";
import { elasticModule, trainFunction } from "../../../compiler/pipeline.ts";
import { defaultRecipe } from "../../../compiler/recipe.ts";
import { type Graph, leavesOf, nameOf } from "../../../ir/node.ts";
import { halfBits, halfValue } from "../../../ir/numerics.ts";
import { sitesOf } from "../../../ir/sites.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { isInteger, isNarrow, rangeOf, sizeOf } from "../../../ir/types.ts";
import { openTestGpu } from "../../gpu.ts";
import { leafValues, quantizableBlock, SCHEME, uniformWidths } from "../../support/quantized_block.ts";
import { VARIANTS } from "../../support/random_decoder.ts";

type Leaves = Readonly<Record<string, Float64Array>>;

/** Random values that the leaves' types can hold. */
function typedLeaves(graph: Graph, given: Leaves = {}): Leaves {
  const values = leafValues(graph, given), types = [...leavesOf(graph, "param"), ...leavesOf(graph, "input")];
  return Object.fromEntries(types.map((node) => {
    const { dtype } = node.type, numbers = values[nameOf(node)] ?? new Float64Array();
    if (isNarrow(dtype)) return [nameOf(node), numbers];
    if (isInteger(dtype)) {
      const [low, high] = rangeOf("u2");
      return [nameOf(node), numbers.map((x) => Math.min(Math.max(Math.round(x * 64), low), high))];
    }
    return [nameOf(node), dtype === "f16" ? numbers.map((x) => halfValue(halfBits(x))) : numbers];
  }));
}

/** Fails where a result is off by more than `margin` of its output's largest magnitude. */
async function expectSame(
  graph: Graph,
  leaves: Leaves,
  margin: number,
  inPlace: Record<string, string> = {},
): Promise<void> {
  const gpu = await openTestGpu();
  if (!gpu) return;
  await using backend = createBackend({
    gpu,
    adapter: "test",
    software: describeAdapter(gpu.adapterInfo).software,
    owned: true,
    traits: PORTABLE,
  });
  const expected = evaluate(graph, leaves), executable = await backend.compile(graph, { inPlace });
  const bound = Object.fromEntries(
    Object.entries(executable.leaves).map(([name, type]) => {
      const values = hostArray(type.dtype, sizeOf(type.shape));
      values.set(leaves[name] ?? []);
      return [name, backend.upload(type, values)];
    }),
  );
  const names = Object.keys(expected), results = backend.run(executable, bound);
  const found = await Promise.all(names.flatMap((name) => results[name] ? [backend.download(results[name])] : []));
  names.forEach((name, k) => {
    const values = expected[name] ?? new Float64Array();
    const magnitude = values.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-9);
    values.forEach((want, i) => {
      const got = found[k]?.[i] ?? NaN;
      assert(Math.abs(want - got) <= margin * magnitude, `${name}[${i}]: expected ${want} but found ${got}`);
    });
  });
}

Deno.test("a deployed block with integer contractions and a quantized cache equals the reference", async () => {
  const block = quantizableBlock(), deployed = specialize(block, uniformWidths(block, 3, 8, 4), SCHEME, "deploy");
  const graph = bindSymbols(contractIntegers(deployed), { B: 2, T: 3, S: 8 });
  await expectSame(graph, typedLeaves(graph), 5e-6);
});

Deno.test("a train program equals the reference: quantizers, attention and their gradients, sums in place", async () => {
  const recipe = defaultRecipe("weights", 1),
    block = elasticModule(decoderModule(VARIANTS["tied, grouped queries"]), recipe).functions.block;
  const forward = withLearnedInputs(trainFunction(block as Graph, widthsAt(block as Graph, recipe, 4), recipe.scheme));
  const graph = trainProgram(bindSymbols(forward, { B: 2, T: 5 }), reconstructionLoss(2));
  const tops = Object.fromEntries(sitesOf(block as Graph).map(({ name }) => [topName(name), Float64Array.of(15)]));
  const leaves = typedLeaves(graph, tops), isScale = (name: string) => name.endsWith(".master.scales");
  // Weights around 0.3: with those of ten, softmax makes a thousandth of what is a rounding error in the scores.
  const calm = Object.entries(leaves).map(([name, x]) => [name, isScale(name) ? x.map((scale) => scale / 32) : x]);
  await expectSame(graph, Object.fromEntries(calm), 1e-5, trainInPlace(graph));
});
