/** Builds kernel expressions from graph nodes at affine indices. */
import type { Node } from "../../ir/node.ts";
import { numberAttr, numbersAttr, stringAttr } from "../../ir/node.ts";
import { isMap } from "../../ir/ops.ts";
import { directionOf } from "../../ir/ops/maps.ts";
import { stridesOf } from "../../ir/ops/record.ts";
import { concreteShape, type DType, isFloat, isNarrow, rangeOf, sizeOf } from "../../ir/types.ts";
import type { Access, Expr, KernelBuffer, Scalar } from "../kernel.ts";
import { accessKey, digitOf, throughView, viewOf } from "./access.ts";

/** The expression needs an index that is not affine: `node` must be stored, and the partition made again. */
export class NotAffine extends Error {
  override readonly name = "NotAffine";
  constructor(readonly node: Node) {
    super(`Internal error in regions: no affine index into ${node.op}`);
  }
}

/** Type of a value inside a kernel. */
export function scalarOf(dtype: DType): Scalar {
  if (isFloat(dtype)) return "f32";
  return dtype === "bool" ? "bool" : "i32";
}

/** Buffers of one kernel, each bound once. */
export interface BufferTable {
  readonly buffers: readonly KernelBuffer[];
  /** The nodes behind the buffers, in the same order. */
  readonly nodes: readonly Node[];
  read(node: Node): number;
  write(node: Node): number;
}

/** An empty table. `nameOf` names values for people; `alias` says in which leaf's memory a result is computed. */
export function createBuffers(label: (node: Node) => string, alias: (node: Node) => Node | undefined): BufferTable {
  const buffers: KernelBuffer[] = [], nodes: Node[] = [];
  const entry = (node: Node, use: "read" | "write"): number => {
    const home = use === "write" ? alias(node) ?? node : node;
    const found = nodes.indexOf(home);
    if (found < 0) {
      nodes.push(home);
      buffers.push({ name: label(home), type: home.type, use });
      return nodes.length - 1;
    }
    const known = buffers[found] as KernelBuffer;
    if (known.use !== use) buffers[found] = { ...known, use: "update" };
    return found;
  };
  return { buffers, nodes, read: (node) => entry(node, "read"), write: (node) => entry(node, "write") };
}

/** What an expression builder asks its kernel about. */
export interface ExpressionContext {
  readonly buffers: BufferTable;
  /** Whether the value comes from memory (a leaf, or the result of another kernel). */
  isStored(node: Node): boolean;
  /** The value of a node computed inside this kernel, if it is one; throws `NotAffine` when it is wanted at another index. */
  local?(node: Node, index: Access): Expr | undefined;
  /** Called for maps; may return a name for the value (hoisting it) instead of its inlined expression. */
  hoist?(node: Node, index: Access, build: () => Expr): Expr | undefined;
}

/** Builds expressions over loops of the given extents; equal (node, index) pairs give the same object. */
export function createExpressions(extents: readonly number[], context: ExpressionContext) {
  const known = new Map<Node, Map<string, Expr>>();

  const build = (node: Node, index: Access): Expr => {
    const key = accessKey(index), memo = known.get(node) ?? new Map<string, Expr>();
    known.set(node, memo);
    const found = memo.get(key);
    if (found) return found;
    const made = create(node, index);
    memo.set(key, made);
    return made;
  };

  const create = (node: Node, index: Access): Expr => {
    const local = context.local?.(node, index);
    if (local) return local;
    const scalar = scalarOf(node.type.dtype);
    if (node.op === "constant" && !context.isStored(node)) return constant(node, index, extents);
    if (context.isStored(node)) return { kind: "load", buffer: context.buffers.read(node), access: index, scalar };
    if (node.op === "iota") return iota(node, index, extents);
    if (isMap(node.op)) {
      const inlined = () => mapExpression(node, node.inputs.map((input) => build(input, index)));
      return context.hoist?.(node, index, inlined) ?? inlined();
    }
    const x = node.inputs[0] as Node;
    if (node.op === "reshape") return build(x, index);
    if (node.op === "gather") return gather(node, index);
    const view = viewOf(node), inner = view && throughView(view, index, extents);
    if (!inner) throw new NotAffine(node);
    return build(x, inner);
  };

  const gather = (node: Node, index: Access): Expr => {
    const [table, indices] = node.inputs as readonly [Node, Node];
    const width = sizeOf(table.type.shape.slice(1)), count = sizeOf(indices.type.shape);
    const row = digitOf(index, width, count, extents), column = digitOf(index, 1, width, extents);
    if (!row || !column) throw new NotAffine(node);
    if (!context.isStored(table)) throw new NotAffine(table);
    return {
      kind: "gather",
      buffer: context.buffers.read(table),
      index: build(indices, row),
      extent: Number(table.type.shape[0]),
      stride: width,
      access: column,
      scalar: scalarOf(node.type.dtype),
    };
  };

  return { build };
}

/** The expression of one elementwise node. */
function mapExpression(node: Node, args: readonly Expr[]): Expr {
  const op = node.op;
  if (!isMap(op)) throw new TypeError(`Internal error in regions: ${op} is not elementwise`);
  const scalar = scalarOf(node.type.dtype), from = node.inputs[0]?.type.dtype ?? "f32";
  if (op === "cast") {
    const to = node.type.dtype, arg = args[0] as Expr;
    if (to === "f16" && from === "f32") return roundedToHalf(arg);
    if (isFloat(to) && isFloat(from)) return arg;
    // Of all integers only wide ones have more digits than a half.
    if (to === "f16" && from === "i32") return roundedToHalf({ kind: "map", op, args, scalar });
    if (!isNarrow(to)) return { kind: "map", op, args, scalar };
    return { kind: "map", op, args, scalar, range: rangeOf(to) };
  }
  return op === "compare"
    ? { kind: "map", op, args, scalar, direction: directionOf(stringAttr(node.attrs, "direction")) }
    : { kind: "map", op, args, scalar };
}

/** What is stored as f16 and what the same kernel computes from it agree only if the kernel rounds, too. */
const roundedToHalf = (x: Expr): Expr => ({ kind: "map", op: "cast", args: [x], scalar: "f32", half: true });

function constant(node: Node, index: Access, extents: readonly number[]): Expr {
  const values = numbersAttr(node.attrs, "values"), scalar = scalarOf(node.type.dtype);
  const single = (value: number): Expr => ({ kind: "constant", value, scalar });
  if (values.length === 1) return single(values[0] ?? 0);
  // A short table: compare the index with each position.
  const at = digitOf(index, 1, values.length, extents);
  if (!at) throw new NotAffine(node);
  const position: Expr = { kind: "index", access: at, scalar: "i32" };
  return values.slice(0, -1).reduceRight<Expr>((rest, value, i) => {
    const here: Expr = {
      kind: "map",
      op: "compare",
      direction: "eq",
      scalar: "bool",
      args: [position, { kind: "constant", value: i, scalar: "i32" }],
    };
    return { kind: "map", op: "select", scalar, args: [here, single(value), rest] };
  }, single(values.at(-1) ?? 0));
}

function iota(node: Node, index: Access, extents: readonly number[]): Expr {
  const shape = concreteShape(node.type.shape), axis = numberAttr(node.attrs, "axis");
  const digit = digitOf(index, stridesOf(shape)[axis] ?? 1, shape[axis] ?? 1, extents);
  if (!digit) throw new NotAffine(node);
  const position: Expr = { kind: "index", access: digit, scalar: "i32" };
  return isFloat(node.type.dtype) ? { kind: "map", op: "cast", args: [position], scalar: "f32" } : position;
}
