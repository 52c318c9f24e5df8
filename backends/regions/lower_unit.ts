/** What the lowerings of all kinds of units share: which values are memory, buffers, stores, texts. */
import { createBuilder } from "../../ir/builder.ts";
import { graphOf, type Node } from "../../ir/node.ts";
import { isMap } from "../../ir/ops.ts";
import { print } from "../../ir/print.ts";
import { concreteShape, sizeOf } from "../../ir/types.ts";
import type { Access, Expr, KernelSpec, Store } from "../kernel.ts";
import { combine, digitOf } from "./access.ts";
import { type BufferTable, createBuffers, NotAffine } from "./expressions.ts";
import { isBoundLeaf, labelOf, type Partition, type Unit } from "./partition.ts";

/** A kernel and the nodes behind its buffers. */
export interface LoweredKernel {
  readonly kernel: KernelSpec;
  readonly nodes: readonly Node[];
}

/** A failed lowering: `root` cannot be computed in this unit, because of `reason`; or could, were `epilogue` stored by a product. */
export class CannotLower extends Error {
  override readonly name = "CannotLower";
  constructor(readonly unit: Unit, readonly root: Node, readonly reason: Node, readonly epilogue?: Node) {
    super(`Internal error in regions: cannot compute ${root.op} in a ${unit.kind} kernel because of ${reason.op}`);
  }
}

/** Everything a lowering needs to know about its program. */
export interface LoweringContext {
  readonly partition: Partition;
  /** Position of a node in the graph, for names. */
  readonly position: (node: Node) => number;
  /** The leaf in whose memory a value is computed, if any. */
  readonly alias: (node: Node) => Node | undefined;
}

/** Helpers bound to one unit. */
export function unitTools(unit: Unit, { partition, position, alias }: LoweringContext) {
  const label = (node: Node) => labelOf(node, position(node));
  const isStored = (node: Node) =>
    isBoundLeaf(node) || (partition.stored.has(node) && partition.unitOf.get(node) !== unit);
  const newBuffers = (): BufferTable => createBuffers(label, alias);
  /** Runs a part of the lowering on behalf of one result, and says which one failed. */
  const attempt = <T>(root: Node, build: () => T): T => {
    try {
      return build();
    } catch (error) {
      if (error instanceof NotAffine) throw new CannotLower(unit, root, error.node);
      throw error;
    }
  };
  const results = [...unit.anchors, ...unit.attached].filter((node) =>
    partition.stored.has(node) || node.op === "update"
  );
  const fuses = () => describe(unit, results, isStored, label);
  const kernelName = (main: Node) => `${unit.kind}_${main.op}_${position(main)}`;
  return { label, isStored, newBuffers, attempt, results, fuses, kernelName };
}

/** IR text of what a unit computes: memory it reads appears as inputs. */
function describe(
  unit: Unit,
  results: readonly Node[],
  isStored: (node: Node) => boolean,
  label: (node: Node) => string,
): string {
  const b = createBuilder(), done = new Map<Node, Node>();
  const walk = (node: Node): Node => {
    const found = done.get(node);
    if (found) return found;
    const made = isStored(node) ? b.input(label(node), node.type) : b.make(node.op, node.inputs.map(walk), node.attrs);
    done.set(node, made);
    return made;
  };
  const roots = results.length > 0 ? results : unit.anchors;
  return print(graphOf(roots.map((node) => ({ name: label(node), node: walk(node) }))));
}

/** Shapes of the values that a result is computed from at its own linear index: maps and reshapes away, up to memory. */
export function relatedShapes(roots: readonly Node[], isStored: (node: Node) => boolean): (readonly number[])[] {
  const shapes: (readonly number[])[] = [], seen = new Set<Node>(), stack = [...roots];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    shapes.push(concreteShape(node.type.shape));
    if (!isStored(node) && (isMap(node.op) || node.op === "reshape")) stack.push(...node.inputs);
  }
  return shapes;
}

/** The store of a result at its linear index; for a cache update, the rows go to the positions that data tells. */
export function storeOf(
  node: Node,
  index: Access,
  extents: readonly number[],
  build: (node: Node, index: Access) => Expr,
  buffers: BufferTable,
): Store {
  if (node.op !== "update") {
    return { value: unrounded(build(node, index), node), buffer: buffers.write(node), access: index };
  }
  const [cache, rows, positions] = node.inputs as readonly [Node, Node, Node];
  const width = sizeOf(rows.type.shape.slice(2)),
    tokens = Number(rows.type.shape[1]),
    batch = Number(rows.type.shape[0]);
  const context = Number(cache.type.shape[1]);
  const sequence = digitOf(index, tokens * width, batch, extents),
    token = digitOf(index, width, batch * tokens, extents);
  const column = digitOf(index, 1, width, extents);
  if (!sequence || !token || !column) throw new NotAffine(node);
  return {
    value: unrounded(build(rows, index), node),
    scatter: { index: build(positions, token), extent: context, stride: width },
    access: combine(extents.length, [[sequence, context * width], [column, 1]]),
    buffer: buffers.write(node),
  };
}

/** A store as f16 rounds by itself. */
function unrounded(value: Expr, { type }: Node): Expr {
  return type.dtype === "f16" && value.kind === "map" && value.half ? value.args[0] as Expr : value;
}
