/**
 * Lowers units of reductions and transforms over one axis: a sweep over the row per phase. Whatever does not vary along the row
 * is computed once per row; costly elements that several results share are kept; everything else is recomputed per sweep.
 */
import { flagAttr, type Node } from "../../ir/node.ts";
import { isMap, isMovement, isReduce } from "../../ir/ops.ts";
import { stridesOf } from "../../ir/ops/record.ts";
import { bitsOf, isNarrow, sizeOf } from "../../ir/types.ts";
import { valuesIn } from "../exprs.ts";
import type { Access, Expr, RowElement, RowKernel, RowPhase, RowTransform, Store } from "../kernel.ts";
import { accessKey, refineExtents } from "./access.ts";
import { accessesIn, collapsed, collapseLoops, mapAccesses } from "./collapse.ts";
import { createExpressions, NotAffine, scalarOf } from "./expressions.ts";
import { accessesOfStores, mapStores } from "./lower_map.ts";
import { type LoweredKernel, type LoweringContext, relatedShapes, storeOf, unitTools } from "./lower_unit.ts";
import { rowSpace, type Unit } from "./partition.ts";

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer U)[] ? U[] : T[K] };
type Phase = Mutable<RowPhase>;
type LocalKind = "scalar" | "reduction" | "element" | "transform";

const COSTLY: ReadonlySet<string> = new Set(["exp", "log", "erf", "sigmoid"]);

/** One kernel: phases over rows. */
export function lowerRow(unit: Unit, context: LoweringContext): LoweredKernel {
  const { isStored, newBuffers, attempt, results, fuses, kernelName } = unitTools(unit, context);
  const first = unit.anchors[0] as Node;
  const loops = rowLoops(unit, isStored), { outer, row, extents, full, reduced } = loops;
  const buffers = newBuffers(), kept = sharedCostlyNodes(unit, results, isStored, loops.size);
  const phases: Phase[] = [];
  const phase = (i: number): Phase => {
    while (phases.length <= i) {
      phases.push({ elements: [], reductions: [], stores: [], scalars: [], transforms: [], rowStores: [] });
    }
    return phases[i] as Phase;
  };

  let nextId = 0;
  const locals = new Map<number, { kind: LocalKind; phase: number }>();
  const named = new Map<Node, Expr>();
  const define = (kind: LocalKind, at: number, expr: Expr): Expr & { kind: "value" } => {
    const id = nextId++;
    locals.set(id, { kind, phase: at });
    return { kind: "value", id, scalar: expr.scalar };
  };

  /** The first sweep in which an expression can be computed per element, or the sweep after which it is known per row. */
  const elementPhase = (expr: Expr) =>
    latest(expr, (local) => local.kind === "element" ? local.phase : local.phase + 1);
  const rowPhase = (expr: Expr) => latest(expr, (local) => local.phase);
  const latest = (root: Expr, ready: (local: { kind: LocalKind; phase: number }) => number): number => {
    let phaseOf = 0;
    for (const id of valuesIn(root)) {
      const local = locals.get(id);
      if (local) phaseOf = Math.max(phaseOf, ready(local));
    }
    return phaseOf;
  };

  const scalars = new Map<Node, Map<string, Expr>>();
  const expressions = createExpressions(extents, {
    buffers,
    isStored,
    local: (node, index) => {
      const value = named.get(node);
      if (!value) return undefined;
      const wanted = isReduce(node.op) && unit.anchors.includes(node) ? reduced : full;
      if (accessKey(index) !== accessKey(wanted)) throw new NotAffine(node);
      return value;
    },
    hoist: (node, index, inlined) => {
      const constantAlongRow = index.strides.slice(outer.length).every((stride) => stride === 0);
      if (constantAlongRow && loops.length > 1) {
        const known = scalars.get(node) ?? new Map<string, Expr>();
        scalars.set(node, known);
        const key = accessKey(index), found = known.get(key);
        if (found) return found;
        const value = inlined();
        if (value.kind === "constant") return value;
        const at = rowPhase(value), made = define("scalar", at, value);
        phase(at).scalars.push({ id: made.id, value });
        known.set(key, made);
        return made;
      }
      if (!kept.has(node) || accessKey(index) !== accessKey(full)) return undefined;
      const made = keepElement(inlined());
      named.set(node, made);
      return made;
    },
  });
  const { build } = expressions;

  function keepElement(value: Expr): Expr & { kind: "value" } {
    const at = elementPhase(value), made = define("element", at, value);
    phase(at).elements.push({ id: made.id, value, keep: true });
    return made;
  }

  const order = [...unit.anchors, ...unit.attached].sort((a, b) => context.position(a) - context.position(b));
  for (const node of order) attempt(node, () => place(node));

  function place(node: Node): void {
    if (isReduce(node.op) && unit.anchors.includes(node)) {
      const value = build(node.inputs[0] as Node, full),
        at = elementPhase(value),
        made = define("reduction", at, value);
      phase(at).reductions.push({
        id: made.id,
        op: node.op,
        value,
        scalar: scalarOf(node.type.dtype) === "i32" ? "i32" : "f32",
      });
      named.set(node, made);
    } else if (node.op === "hadamard" && unit.anchors.includes(node)) placeTransform(node);
    if (results.includes(node)) placeStore(node);
  }

  function placeTransform(node: Node): void {
    const [x, signs] = node.inputs as readonly [Node, Node | undefined];
    const value = build(x, full), known = value.kind === "value" ? locals.get(value.id) : undefined;
    const source = value.kind === "value" && (known?.kind === "element" || known?.kind === "transform")
      ? value
      : keepElement(value);
    const at = known?.kind === "transform" ? known.phase + 1 : (locals.get(source.id)?.phase ?? 0);
    if (signs && !isStored(signs)) throw new NotAffine(signs);
    const made = define("transform", at, value);
    const transform: RowTransform = {
      id: made.id,
      source: source.id,
      transposed: flagAttr(node.attrs, "transposed"),
      ...(signs ? { signs: buffers.read(signs) } : {}),
    };
    phase(at).transforms.push(transform);
    named.set(node, made);
  }

  function placeStore(node: Node): void {
    const size = sizeOf((node.op === "update" ? node.inputs[1] as Node : node).type.shape);
    if (size === loops.size && !(isReduce(node.op) && unit.anchors.includes(node))) {
      const store = storeOf(node, full, extents, build, buffers);
      phase(storePhase(store, elementPhase)).stores.push(store);
    } else {
      const store = storeOf(node, reduced, extents, build, buffers);
      phase(storePhase(store, rowPhase)).rowStores.push(store);
    }
  }

  const kernel: RowKernel = {
    kind: "row",
    name: kernelName(first),
    fuses: fuses(),
    buffers: buffers.buffers,
    ...joinLoops(outer, row, phases),
  };
  return { kernel, nodes: buffers.nodes };
}

const storePhase = ({ value, scatter }: Store, phaseOf: (expr: Expr) => number): number =>
  Math.max(phaseOf(value), scatter ? phaseOf(scatter.index) : 0);

interface RowLoops {
  readonly outer: readonly number[];
  readonly row: readonly number[];
  readonly extents: readonly number[];
  /** Index of an element and of a row's single value, over [...outer, ...row]. */
  readonly full: Access;
  readonly reduced: Access;
  /** Elements in all rows, and in one. */
  readonly size: number;
  readonly length: number;
}

/** Loops over rows and along them, fine enough for all shapes involved. */
function rowLoops(unit: Unit, isStored: (node: Node) => boolean): RowLoops {
  const { shape, axes } = rowSpace(unit.anchors[0] as Node), weights = stridesOf(shape);
  const roots = [...unit.anchors.map((node) => node.inputs[0] as Node), ...unit.attached];
  const fine = refineExtents(shape, relatedShapes(roots, isStored)), fineWeights = stridesOf(fine);
  const axisOf = (weight: number) =>
    shape.findIndex((dim, axis) => dim > 1 && weight >= (weights[axis] ?? 1) && weight < (weights[axis] ?? 1) * dim);
  const digits = fine.map((extent, i) => ({
    extent,
    weight: fineWeights[i] ?? 1,
    along: axes.includes(axisOf(fineWeights[i] ?? 1)),
  }));
  const over = digits.filter(({ along }) => !along), along = digits.filter((digit) => digit.along);
  if (over.length === 0) over.push({ extent: 1, weight: 0, along: false });
  if (along.length === 0) along.push({ extent: 1, weight: 0, along: true });
  const outer = over.map(({ extent }) => extent), row = along.map(({ extent }) => extent);
  return {
    outer,
    row,
    extents: [...outer, ...row],
    full: { offset: 0, strides: [...over, ...along].map(({ weight, extent }) => extent > 1 ? weight : 0) },
    reduced: {
      offset: 0,
      strides: [...stridesOf(outer).map((stride, i) => (outer[i] ?? 1) > 1 ? stride : 0), ...row.map(() => 0)],
    },
    size: sizeOf(shape),
    length: sizeOf(row),
  };
}

/** What an anchor's operand is computed from packed codes, if it is: to unpack them again costs more than to keep the value. */
function unpackedOperand(anchor: Node): Node | undefined {
  let operand = anchor.inputs[0];
  while (operand && operand.op === "reshape") operand = operand.inputs[0];
  return operand && isMap(operand.op) && readsPacked(operand) ? operand : undefined;
}

/** Whether an expression reads codes of less than a byte. */
function readsPacked(root: Node): boolean {
  const stack = [root], seen = new Set<Node>();
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node) || !(isMap(node.op) || isMovement(node.op))) continue;
    seen.add(node);
    for (const input of node.inputs) {
      const { dtype } = input.type;
      if (isNarrow(dtype) && bitsOf(dtype) < 8) return true;
      stack.push(input);
    }
  }
  return false;
}

/** Costly elements from which several anchors or results of the unit are computed. */
function sharedCostlyNodes(
  unit: Unit,
  results: readonly Node[],
  isStored: (node: Node) => boolean,
  size: number,
): ReadonlySet<Node> {
  const readers = new Map<Node, number>(), unpacked = new Set(unit.anchors.map(unpackedOperand));
  const isCostly = (node: Node) => COSTLY.has(node.op) || unpacked.has(node);
  for (const root of new Set([...unit.anchors, ...results])) {
    const seen = new Set<Node>(), stack = isMap(root.op) ? [root] : [...root.inputs];
    for (let node = stack.pop(); node; node = stack.pop()) {
      if (seen.has(node) || isStored(node) || unit.anchors.includes(node)) continue;
      seen.add(node);
      if (isCostly(node) && sizeOf(node.type.shape) === size) readers.set(node, (readers.get(node) ?? 0) + 1);
      stack.push(...node.inputs);
    }
  }
  return new Set([...readers].filter(([, count]) => count > 1).map(([node]) => node));
}

/** Joins loops where all accesses allow it; what is computed per row keeps the outer loops alone. */
function joinLoops(
  outer: readonly number[],
  row: readonly number[],
  phases: readonly Phase[],
): Pick<RowKernel, "outer" | "row" | "phases"> {
  const elements = (phase: Phase): RowElement[] => phase.elements;
  const accesses = phases.flatMap((phase) => [
    ...accessesOfStores([...phase.stores, ...phase.rowStores]),
    ...accessesIn([...elements(phase), ...phase.reductions, ...phase.scalars].map(({ value }) => value)),
  ]);
  const loops = collapseLoops(
    [...outer, ...row],
    [[0, outer.length], [outer.length, outer.length + row.length]],
    accesses,
  );
  const split = loops.kept.filter((loop) => loop < outer.length).length;
  const overRow = collapsed(loops),
    overOuter = (access: Access): Access => {
      const { offset, strides } = overRow(access);
      return { offset, strides: strides.slice(0, split) };
    };
  const perElement = mapAccesses(overRow), perRow = mapAccesses(overOuter);
  return {
    outer: loops.extents.slice(0, split),
    row: loops.extents.slice(split),
    phases: phases.map((phase) => ({
      elements: phase.elements.map((element) => ({ ...element, value: perElement(element.value) })),
      reductions: phase.reductions.map((reduction) => ({ ...reduction, value: perElement(reduction.value) })),
      stores: mapStores(phase.stores, overRow, perElement),
      scalars: phase.scalars.map((scalar) => ({ ...scalar, value: perRow(scalar.value) })),
      transforms: phase.transforms,
      rowStores: mapStores(phase.rowStores, overOuter, perRow),
    })),
  };
}
