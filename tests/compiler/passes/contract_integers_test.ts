import { assert, assertEquals } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { contractIntegers } from "../../../compiler/passes/contract_integers.ts";
import { insertActivationQuantizers } from "../../../compiler/passes/quantize/insert_activation_quantizers.ts";
import { insertWeightQuantizers } from "../../../compiler/passes/quantize/insert_weight_quantizers.ts";
import { specialize } from "../../../compiler/passes/quantize/specialize.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf } from "../../../ir/node.ts";
import { type QuantizationScheme, segmentEnds } from "../../../ir/sites.ts";
import { tensorType } from "../../../ir/types.ts";
import { dotTypes, leafValues, quantizableBlock, run, SCHEME, uniformWidths } from "../../support/quantized_block.ts";
import { maxDifference } from "../../support/run_module.ts";

/** y = x·Wᵀ for x [2,3,20] and W [6,20], quantized. */
function linear(widths: Record<string, number>, groupSize: number): Graph {
  const b = createBuilder(), x = b.input("x", tensorType("f32", [2, 3, 20]));
  const y = b.dot(x, b.param("up.weight", tensorType("f32", [6, 20]), "checkpoint"), {
    lhsContract: [2],
    rhsContract: [1],
  });
  const scheme: QuantizationScheme = {
    ...SCHEME,
    groupSizes: { 2: groupSize, 3: groupSize, 4: groupSize, 5: groupSize, 6: groupSize, 7: groupSize, 8: groupSize },
  };
  return specialize(
    insertActivationQuantizers(insertWeightQuantizers(graphOf({ y }), scheme)),
    widths,
    scheme,
    "deploy",
  );
}

Deno.test("contractIntegers() equals fake quantization at every width, with rows, whole groups and padded groups", () => {
  for (const width of [2, 3, 4, 5, 6, 7, 8]) {
    for (const activation of [4, 5, 6, 7, 8]) {
      for (const groupSize of [-1, 5, 8]) {
        const fake = linear({ "up.weight": width, "up.input": activation }, groupSize),
          integer = contractIntegers(fake);
        const where = `W${width}A${activation}, groups of ${groupSize}`;
        assertEquals(dotTypes(integer), { i32: 1 }, where);
        const leaves = leafValues(fake), y = (graph: Graph) => evaluate(graph, leaves).y ?? [];
        assert(maxDifference(y(integer), y(fake)) < 2e-6, where);
        const exact = (graph: Graph) => evaluate(graph, leaves, { precision: "f64" }).y ?? [];
        assert(maxDifference(exact(integer), exact(fake)) < 1e-14, where);
      }
    }
  }
});

Deno.test("contractIntegers() emits the pattern that region fusion knows", () => {
  const shapes = (graph: Graph) =>
    graph.nodes.filter(({ op, type }) => op === "dot" || op === "sum" && type.dtype === "f32").map((
      { op, inputs, type, attrs },
    ) =>
      `${op} ${inputs.map((x) => `${x.type.dtype}[${x.type.shape}]`).join(" ")} -> ${type.dtype}[${type.shape}] ${
        JSON.stringify(attrs)
      }`
    );
  const widths = { "up.weight": 4, "up.input": 8 };
  assertEquals(shapes(contractIntegers(linear(widths, 8))), [
    'dot i8[2,3,3,8] u4[6,3,8] -> i32[3,2,3,6] {"lhsBatch":[2],"lhsContract":[3],"rhsBatch":[1],"rhsContract":[2]}',
    'sum f32[3,2,3,6] -> f32[1,2,3,6] {"axes":[0]}',
  ]);
  assertEquals(shapes(contractIntegers(linear(widths, -1))), [
    'dot i8[2,3,1,20] u4[6,1,20] -> i32[2,3,6] {"lhsContract":[2,3],"rhsContract":[1,2]}',
  ]);
});

Deno.test("contractIntegers() leaves weight-only linears alone", () => {
  const graph = linear({ "up.weight": 4 }, 8);
  assertEquals(contractIntegers(graph), graph);
});

Deno.test("contractIntegers() contracts every linear of a decoder's block", () => {
  const block = quantizableBlock();
  for (const width of [4, 5, 6, 7, 8] as const) {
    const fake = specialize(block, uniformWidths(block, width, width, 16), SCHEME, "deploy"),
      integer = contractIntegers(fake);
    // Seven linears, and their adapters' products: one for each segment of the cascade that the width uses.
    const segments = segmentEnds(SCHEME.adapters, "common").filter((end) => end <= SCHEME.adapters.uses[width].rank);
    assertEquals(dotTypes(integer), { i32: 7 * (1 + segments.length) });
    const h = (graph: Graph) => run(graph, {}, undefined, { precision: "f64" }).h ?? [];
    assert(maxDifference(h(integer), h(fake)) < 1e-11, `${width} bits`);
  }
});
