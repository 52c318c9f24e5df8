/** Tables around the blocks: what is stored, how near it is, and that nothing unpacks them. */
import { assert, assertEquals } from "@std/assert";
import { lowerGraph } from "../../../backends/regions/lower.ts";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { holdParameters } from "../../../compiler/passes/hold_parameters.ts";
import { insertTables } from "../../../compiler/passes/quantize/insert_tables.ts";
import { stage } from "../../../compiler/passes/stage.ts";
import { masterOf } from "../../../compiler/recipe.ts";
import type { Graph } from "../../../ir/node.ts";
import { MASTER_KINDS, type MasterKind } from "../../../ir/sites.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { sizeOf } from "../../../ir/types.ts";
import { holdsOf, leafValues } from "../../support/quantized_block.ts";
import { VARIANTS } from "../../support/random_decoder.ts";

const SYMBOLS = { B: 2, T: 3 };
/** The largest error of a stored weight, in parts of its row's largest. */
const ERRORS: Readonly<Record<MasterKind, number>> = { fp16: 2 ** -11, int8: 0.5 / 127, int10: 0.125 / 127 };

function functionsOf(tied: boolean): Readonly<Record<"embed" | "head", Graph>> {
  const { embed, head } = decoderModule(VARIANTS[tied ? "tied, grouped queries" : "untied, heads of 8"]).functions;
  if (!embed || !head) throw new Error("Expected functions around the blocks");
  return { embed, head };
}

Deno.test("insertTables() stores embeddings and heads as the master is, and nothing else of their functions", () => {
  const kept = (master: MasterKind, tied: boolean) =>
    Object.values(functionsOf(tied)).map((graph) => holdsOf(insertTables(graph, { master: masterOf(master) })));
  const tenBits = (name: string, shape: string) => [
    `checkpoint ${name}.codes u8[${shape}]`,
    `checkpoint ${name}.fine u2[${shape}]`,
    `checkpoint ${name}.scale f32[${shape.split(",")[0]},1]`,
  ];
  const { vocabSize: V, hiddenSize: h } = VARIANTS["tied, grouped queries"], own = VARIANTS["untied, heads of 8"];
  assertEquals(kept("int10", true), [
    tenBits("embedding.weight", `${V},${h}`),
    tenBits("embedding.weight", `${V},${h}`),
  ]);
  const shape = `${own.vocabSize},${own.hiddenSize}`;
  assertEquals(kept("int10", false), [tenBits("embedding.weight", shape), tenBits("head.weight", shape)]);
  const odd = decoderModule({ ...VARIANTS["tied, grouped queries"], hiddenSize: 18 }).functions.embed as Graph;
  const codesAlone = tenBits("embedding.weight", `${V},18`).filter((line) => !/fine/.test(line));
  assertEquals(holdsOf(insertTables(odd, { master: masterOf("int10") })), codesAlone, "fine codes come in fours");
  assertEquals(kept("fp16", true)[1], [`checkpoint embedding.weight f16[${V},${h}]`]);
  assertEquals(kept("int8", true)[0], tenBits("embedding.weight", `${V},${h}`).filter((line) => !/fine/.test(line)));
});

Deno.test("insertTables() changes embeddings by the error of rounding, and logits by no more than that", () => {
  for (const master of MASTER_KINDS) {
    for (const graph of Object.values(functionsOf(true))) {
      const exact = bindSymbols(graph, SYMBOLS), values = leafValues(exact);
      const stored = evaluate(bindSymbols(insertTables(graph, { master: masterOf(master) }), SYMBOLS), values);
      for (const [name, expected] of Object.entries(evaluate(exact, values))) {
        const found = stored[name] ?? new Float64Array();
        const table = values["embedding.weight"] ?? [], largest = Math.max(...table.map(Math.abs));
        // A logit sums as many errors as there are columns, times normed values.
        const columns = VARIANTS["tied, grouped queries"].hiddenSize, sums = name === "logits" ? 3 * columns : 1;
        const error = expected.reduce((most, x, i) => Math.max(most, Math.abs(x - (found[i] ?? NaN))), 0);
        assert(error <= sums * ERRORS[master] * largest + 1e-6, `${master} ${name}: ${error}`);
        if (name === "h" || name === "logits") assert(error > 0, "something is rounded");
      }
    }
  }
});

Deno.test("no program around the blocks unpacks a whole table", () => {
  for (const tied of [true, false]) {
    for (const graph of Object.values(functionsOf(tied))) {
      const { step } = stage(holdParameters(insertTables(graph, { master: masterOf("int10") })));
      const bound = bindSymbols(step, SYMBOLS);
      const { vocabSize, hiddenSize } = VARIANTS[tied ? "tied, grouped queries" : "untied, heads of 8"];
      const made = lowerGraph(bound).values.filter(({ leaf }) => leaf === undefined);
      for (const { name, type } of made) assert(sizeOf(type.shape) < vocabSize * hiddenSize, `${name} is as large`);
    }
  }
});
