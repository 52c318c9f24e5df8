import { assert, assertEquals } from "@std/assert";
import { scaleColumns, scaledInputs } from "../../../../compiler/passes/structure/scale_columns.ts";
import { simplifyGraph } from "../../../../compiler/passes/structure/simplify.ts";
import { tokenTime } from "../../../../compiler/passes/structure/values.ts";
import { createBuilder } from "../../../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../../../../ir/node.ts";
import { print } from "../../../../ir/print.ts";
import { tensorType } from "../../../../ir/types.ts";
import { blockOf } from "../../../support/quantized_block.ts";
import { VARIANTS } from "../../../support/random_decoder.ts";

const scalesOf = (graph: Graph) =>
  leavesOf(graph, "param").filter((node) => nameOf(node).endsWith(".input.scale"))
    .map((node) => `${nameOf(node)}[${node.type.shape}]`).sort();

for (const variant of ["tied, grouped queries", "untied, heads of 8", "all biases, width 20"] as const) {
  Deno.test(`scaleColumns() scales all four inputs of a block at no cost per token: ${variant}`, () => {
    const config = VARIANTS[variant], block = blockOf(config), scaled = scaleColumns(block);
    assertEquals(scalesOf(scaled), [
      `attention.input.scale[${config.hiddenSize}]`,
      `attention.output.input.scale[${config.kvHeads * config.headDim}]`,
      `mlp.down.input.scale[${config.intermediateSize}]`,
      `mlp.input.scale[${config.hiddenSize}]`,
    ]);
    for (const op of ["mul", "div", "dot", "add"] as const) {
      assertEquals(tokenTime(scaled, op).length, tokenTime(block, op).length, op);
    }
  });
}

Deno.test("scaledInputs() lets heads that share values share scales", () => {
  const config = VARIANTS["tied, grouped queries"];
  const mixed = scaledInputs(blockOf(config)).find(({ name }) => name === "attention.output.input.scale");
  assert(config.heads > config.kvHeads);
  assertEquals(
    [mixed?.outer, mixed?.repeats, mixed?.inner],
    [config.kvHeads, config.heads / config.kvHeads, config.headDim],
  );
});

/** f(x·Wᵀ)·Vᵀ */
function between(f: (b: ReturnType<typeof createBuilder>, x: Node) => Node): Graph {
  const b = createBuilder(), axes = { lhsContract: [1], rhsContract: [1] };
  const weight = (name: string) => b.param(`${name}.weight`, tensorType("f32", [2, 2]), "checkpoint");
  const hidden = b.dot(b.input("x", tensorType("f32", ["T", 2])), weight("first"), axes);
  return graphOf({ y: b.dot(f(b, hidden), weight("second"), axes) });
}

Deno.test("scaleColumns() divides the rows in front", () => {
  assertEquals(
    print(simplifyGraph(scaleColumns(between((_, x) => x)))),
    `%0 = input {name="x", type="f32[T,2]"} : f32[T,2]
%1 = param {name="first.weight", time="checkpoint", type="f32[2,2]"} : f32[2,2]
%2 = constant {type="f32[2]", values=[1]} : f32[2]
%3 = param {name="second.input.scale", time="checkpoint", type="f32[2]"} : f32[2]
%4 = div %2 %3 : f32[2]
%5 = reshape %4 {shape=[2,1]} : f32[2,1]
%6 = broadcast %5 {shape=[2,2]} : f32[2,2]
%7 = mul %1 %6 : f32[2,2]
%8 = dot %0 %7 {lhsContract=[1], rhsContract=[1]} : f32[T,2]
%9 = param {name="second.weight", time="checkpoint", type="f32[2,2]"} : f32[2,2]
%10 = broadcast %3 {shape=[2,2]} : f32[2,2]
%11 = mul %9 %10 : f32[2,2]
%12 = dot %8 %11 {lhsContract=[1], rhsContract=[1]} : f32[T,2]
return y=%12
`,
  );
});

Deno.test("scaleColumns() multiplies the value itself where nothing takes the factor, and leaves what others read alone", () => {
  const behind = scaleColumns(between((b, x) => b.exp(x)));
  assertEquals(scalesOf(behind), ["second.input.scale[2]"]);
  assertEquals(tokenTime(behind, "mul").length, 1);
  // Both factors come from one linear: neither takes the factor without the other.
  const squared = scaleColumns(between((b, x) => b.mul(x, x)));
  assertEquals([tokenTime(squared, "mul").length, tokenTime(squared, "dot").length], [2, 2]);
  const alsoRead = between((_, x) => x), hidden = alsoRead.outputs[0]?.node.inputs[0] as Node;
  assertEquals(scalesOf(scaleColumns(graphOf([...alsoRead.outputs, { name: "hidden", node: hidden }]))), []);
});
