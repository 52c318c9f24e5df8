/**
 * Keeps the residual stream between calls in a rotated basis (the R1 of QuaRot and SpinQuant; quept-method.md 6.1), which spreads
 * outlier channels before activations are quantized.
 *
 * The rotation enters as a sandwich: whoever makes the stream rotates its result, whoever reads it rotates back first, and
 * whoever reads and remakes it does both. The rules of `rotation_rules.ts` then cancel the pairs and move what is left into
 * weights. Where they cannot, as in an embedding or a head that shares the embedding's matrix, the transform stays visible.
 */
import { createBuilder } from "../../../ir/builder.ts";
import { hadamardFactor } from "../../../ir/hadamard.ts";
import { type Call, functionOf, mapFunctions, type Module } from "../../../ir/module.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../../../ir/node.ts";
import { inline, rewriteToFixpoint } from "../../../ir/rewrite.ts";
import { type TensorType, tensorType, typeText } from "../../../ir/types.ts";
import type { NamedPass, PassContext } from "../pass.ts";
import { inverse, rotate, type Rotation, ROTATION_RULES } from "./rotation_rules.ts";
import { declareSigns } from "./signs.ts";

/** Local name of the rotation's signs in every function that touches the stream. */
export const RESIDUAL_SIGNS = "rotation.residual.signs";

/** The pass; `seed` draws the signs. */
export const rotateResidual = ({ seed }: { readonly seed: number }): NamedPass => ({
  name: "rotate_residual",
  run: (module, context) => {
    const stream = residualStream(module);
    if (stream === undefined) return module;
    const obstacle = whyNot(module, stream);
    if (obstacle !== undefined) return leaveOut(module, context, stream, obstacle);
    const wrapped = mapFunctions(module, (graph, name) => {
      const { reads, writes } = portsOf(module, name, stream);
      return reads.size + writes.size === 0 ? graph : rewriteToFixpoint(wrap(graph, reads, writes), ROTATION_RULES);
    });
    return declareSigns(wrapped, RESIDUAL_SIGNS, seed);
  },
});

function leaveOut(module: Module, { note }: PassContext, stream: string, obstacle: string): Module {
  note(`the stream "${stream}" keeps its basis: ${obstacle}`);
  return module;
}

/** The value that most calls read and give anew: what a model's blocks pass on to each other. */
function residualStream(module: Module): string | undefined {
  const counts = new Map<string, number>();
  for (const { inputs, outputs } of module.calls) {
    const read = new Set(Object.values(inputs));
    for (const name of Object.values(outputs)) if (read.has(name)) counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0];
}

/** Inputs and outputs of a function that are bound to the stream. */
interface Ports {
  readonly reads: ReadonlySet<string>;
  readonly writes: ReadonlySet<string>;
}

const boundTo = (bindings: Readonly<Record<string, string>>, stream: string): readonly string[] =>
  Object.keys(bindings).filter((port) => bindings[port] === stream).sort();

function portsOf(module: Module, name: string, stream: string): Ports {
  const calls = module.calls.filter((call) => call.function === name);
  return {
    reads: new Set(calls.flatMap(({ inputs }) => boundTo(inputs, stream))),
    writes: new Set(calls.flatMap(({ outputs }) => boundTo(outputs, stream))),
  };
}

/** What forbids one rotation of the whole stream. */
function whyNot(module: Module, stream: string): string | undefined {
  if (module.inputs.includes(stream)) return "it is given from outside";
  if (module.outputs.includes(stream)) return "it is a result of the model";
  const types = new Set(module.calls.flatMap((call) => typesOf(module, call, stream)).map(typeText));
  if (types.size > 1) return `its calls see different types, ${[...types].join(" and ")}`;
  for (const call of module.calls) {
    const { reads, writes } = portsOf(module, call.function, stream);
    if (boundTo(call.inputs, stream).length !== reads.size || boundTo(call.outputs, stream).length !== writes.size) {
      return `calls of "${call.function}" use it in different places`;
    }
  }
  const width = typesOf(module, module.calls.find((call) => boundTo(call.inputs, stream).length > 0), stream)[0]?.shape
    .at(-1);
  if (typeof width === "number" && hadamardFactor(width)) return undefined;
  return `no Hadamard matrix of order ${width} is known here`;
}

function typesOf(module: Module, call: Call | undefined, stream: string): TensorType[] {
  if (!call) return [];
  const graph = functionOf(module, call), reads = boundTo(call.inputs, stream), writes = boundTo(call.outputs, stream);
  return [
    ...leavesOf(graph, "input").filter((node) => reads.includes(nameOf(node))).map((node) => node.type),
    ...graph.outputs.filter(({ name }) => writes.includes(name)).map(({ node }) => node.type),
  ];
}

/** R f(R⁻¹ h): the function as seen from the rotated basis. */
function wrap(graph: Graph, reads: ReadonlySet<string>, writes: ReadonlySet<string>): Graph {
  const b = createBuilder();
  const rotationOf = ({ type: { shape } }: Node): Rotation => {
    const axis = shape.length - 1, signs = b.param(RESIDUAL_SIGNS, tensorType("f32", [shape[axis] ?? 1]), "checkpoint");
    return { axis, signs, transposed: false };
  };
  const outputs = inline(
    b,
    graph,
    (leaf) =>
      leaf.op === "input" && reads.has(nameOf(leaf)) ? rotate(b, b.adopt(leaf), inverse(rotationOf(leaf))) : undefined,
  );
  return graphOf(graph.outputs.map(({ name }) => {
    const node = outputs[name] as Node;
    return { name, node: writes.has(name) ? rotate(b, node, rotationOf(node)) : node };
  }));
}
