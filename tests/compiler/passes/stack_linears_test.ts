import { assert, assertEquals } from "@std/assert";
import { contractIntegers } from "../../../compiler/passes/contract_integers.ts";
import { holdParameters } from "../../../compiler/passes/hold_parameters.ts";
import { specialize } from "../../../compiler/passes/quantize/specialize.ts";
import { stackLinears } from "../../../compiler/passes/stack_linears.ts";
import { stage } from "../../../compiler/passes/stage.ts";
import { type Graph, leavesOf, nameOf } from "../../../ir/node.ts";
import { quantizableBlock, run, SCHEME, uniformWidths } from "../../support/quantized_block.ts";
import { maxDifference } from "../../support/run_module.ts";

const block = holdParameters(quantizableBlock());
const deployed = (changes: Readonly<Record<string, number>> = {}, weight = 4): Graph =>
  specialize(block, { ...uniformWidths(block, weight, 8, 16), ...changes }, SCHEME, "deploy");

/** Names of the weights whose codes a step program reads. */
const coded = (graph: Graph): string[] =>
  leavesOf(stage(graph).step, "param").filter(({ attrs }) => attrs.time === "configuration").map(nameOf)
    .filter((name) => name.endsWith(".codes")).sort();

const dots = (graph: Graph): number => graph.nodes.filter(({ op }) => op === "dot").length;

const QKV = ["key", "query", "value"].map((name) => `attention.${name}.weight`).join("+");
const GATE_UP = "mlp.gate.weight+mlp.up.weight";

Deno.test("stackLinears() makes one product of queries, keys and values, and one of gate and up", () => {
  const graph = deployed(), stacked = stackLinears(graph);
  assertEquals(dots(graph) - dots(stacked), 3);
  assertEquals(coded(stacked), [
    `${QKV}.codes`,
    "attention.output.weight.codes",
    "mlp.down.weight.codes",
    `${GATE_UP}.codes`,
  ]);
});

Deno.test("stackLinears() changes no value, at any width and with integer contractions", () => {
  for (const weight of [2, 3, 4, 8]) {
    const graph = deployed({}, weight), stacked = stackLinears(graph);
    for (const form of [(x: Graph) => x, contractIntegers]) {
      const [expected, found] = [run(form(graph)), run(form(stacked))];
      for (const [name, values] of Object.entries(expected)) {
        assert(maxDifference(found[name] ?? [], values) < 1e-5, `${name} at ${weight} bits`);
      }
    }
  }
});

Deno.test("stackLinears() stacks weights of one width and one group size alone", () => {
  const mixed = coded(stackLinears(deployed({ "attention.key.weight": 3, "mlp.up.weight": 2 })));
  assert(mixed.includes("attention.query.weight+attention.value.weight.codes"), `${mixed}`);
  assert(["attention.key", "mlp.gate", "mlp.up"].every((name) => mixed.includes(`${name}.weight.codes`)), `${mixed}`);
  const full = coded(stackLinears(deployed({ "mlp.gate.weight": 16 })));
  assert(full.includes("mlp.up.weight.codes") && !full.some((name) => name.includes("gate")), `${full}`);
});

Deno.test("stackLinears() makes in one switch program what single ones make, rows of one weight behind those of another", () => {
  const names = QKV.split("+"), widths = Object.fromEntries(names.map((name) => [name, 4]));
  const graph = specialize(block, widths, SCHEME, "deploy");
  const apart = run(stage(graph).switch), together = run(stage(stackLinears(graph)).switch);
  for (const part of ["codes", "scale", "zero"]) {
    const expected = names.flatMap((name) => Array.from(apart[`${name}.${part}`] ?? []));
    assert(expected.length > 0);
    assertEquals(Array.from(together[`${QKV}.${part}`] ?? []), expected, part);
  }
});
