/**
 * Folds the gains of norms into the linear layers that follow: `(x · g) · W = x · (W · g)`, with g known with the checkpoint.
 * A norm without a gain commutes with rotations, and costs less.
 *
 * A weight that is used in more than one place (an embedding tied to the head) is left alone: folding would make two of it.
 */
import { type Builder, createBuilder } from "../../../ir/builder.ts";
import { mapFunctions, type Module, parametersOf } from "../../../ir/module.ts";
import { type Graph, graphOf, nameOf, type Node, usersOf } from "../../../ir/node.ts";
import { dotAxes } from "../../../ir/ops/contractions.ts";
import type { NamedPass } from "../pass.ts";
import { isCheckpointTime, isConstantAlong } from "./values.ts";

/** The pass. */
export const fuseNorms: NamedPass = {
  name: "fuse_norms",
  run: (module) => {
    const shared = sharedParameters(module);
    return mapFunctions(module, (graph, name) => foldGains(graph, shared.get(name) ?? new Set()));
  },
};

/** Local names of each function's parameters that several calls read under one global name. */
function sharedParameters(module: Module): ReadonlyMap<string, ReadonlySet<string>> {
  const readers = new Map<string, number>();
  for (const call of module.calls) {
    for (const name of parametersOf(module, call).keys()) readers.set(name, (readers.get(name) ?? 0) + 1);
  }
  const shared = new Map<string, Set<string>>();
  for (const call of module.calls) {
    const names = shared.get(call.function) ?? new Set<string>();
    for (const name of parametersOf(module, call).keys()) {
      if ((readers.get(name) ?? 0) > 1) names.add(name.slice(call.prefix.length));
    }
    shared.set(call.function, names);
  }
  return shared;
}

/** `value · gain`, the gain repeated from a parameter-sized value. */
interface Scaled {
  readonly value: Node;
  readonly gain: Node;
}

function foldGains(graph: Graph, shared: ReadonlySet<string>): Graph {
  const users = usersOf(graph);
  const foldable = new Set(graph.nodes.filter((node) => {
    const scaled = asScaled(node), readers = users.get(node) ?? [];
    return scaled && readers.length > 0 && !graph.outputs.some((output) => output.node === node) &&
      readers.every((reader) => canFold(reader, node, scaled, users, shared));
  }));
  if (foldable.size === 0) return graph;
  const b = createBuilder(), done = new Map<Node, Node>();
  const moved = (node: Node) => done.get(node) ?? node;
  for (const node of graph.nodes) {
    const [x, w] = node.inputs, scaled = x && foldable.has(x) ? asScaled(x) : undefined;
    const operands = scaled && w
      ? [moved(scaled.value), scaleWeight(b, node, moved(scaled.gain), moved(w))]
      : node.inputs.map(moved);
    done.set(node, b.make(node.op, operands, node.attrs));
  }
  return graphOf(graph.outputs.map(({ name, node }) => ({ name, node: moved(node) })));
}

function asScaled(node: Node): Scaled | undefined {
  const [p, q] = node.inputs;
  if (node.op !== "mul" || !p || !q || isCheckpointTime(node)) return undefined;
  if (isGain(q)) return { value: p, gain: q };
  return isGain(p) ? { value: q, gain: p } : undefined;
}

const isGain = (node: Node): boolean => node.op === "broadcast" && isCheckpointTime(node);

function canFold(
  reader: Node,
  node: Node,
  { gain }: Scaled,
  users: ReadonlyMap<Node, readonly Node[]>,
  shared: ReadonlySet<string>,
): boolean {
  const [x, w] = reader.inputs;
  if (reader.op !== "dot" || x !== node || !w || !isCheckpointTime(w)) return false;
  const { lhsContract } = dotAxes([x.type, w.type], reader.attrs);
  const variesElsewhere = gain.type.shape.some((_, axis) =>
    !lhsContract.includes(axis) && !isConstantAlong(gain, axis)
  );
  return !variesElsewhere && !isShared(w, users, shared);
}

/** Whether any parameter behind a weight has another use. */
function isShared(w: Node, users: ReadonlyMap<Node, readonly Node[]>, shared: ReadonlySet<string>): boolean {
  const another = w.op === "param" && shared.has(nameOf(w));
  return another || (users.get(w)?.length ?? 0) > 1 || w.inputs.some((input) => isShared(input, users, shared));
}

/** W with its contracted axes multiplied by the gain, which is brought to the order of W's axes first. */
function scaleWeight(b: Builder, dot: Node, gain: Node, w: Node): Node {
  const [small] = gain.inputs, { lhsContract, rhsContract } = dotAxes([gain.type, w.type], dot.attrs);
  if (!small) throw new Error("Internal error in fuse_norms: a broadcast without an operand");
  const added = gain.type.shape.length - small.type.shape.length;
  const sizeAt = (axis: number) => small.type.shape[axis - added] ?? 1;
  const pairOf = (weightAxis: number) => lhsContract[rhsContract.indexOf(weightAxis)] ?? -1;
  const axes = [...lhsContract].sort((p, q) => p - q), weightAxes = [...rhsContract].sort((p, q) => p - q);
  const ordered = b.transpose(b.reshape(small, axes.map(sizeAt)), weightAxes.map((axis) => axes.indexOf(pairOf(axis))));
  return b.mul(
    w,
    b.reshape(ordered, w.type.shape.map((_, axis) => rhsContract.includes(axis) ? sizeAt(pairOf(axis)) : 1)),
  );
}
