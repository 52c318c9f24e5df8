/**
 * Cuts a canonical graph into units, each of which becomes one kernel (rarely several).
 *
 * Anchors (contractions, reductions, transforms, attention, copies) are always computed by a kernel. Everything between them
 * is recomputed where it is used (recompute before you store), unless that would cost more than a store and a load. A stored
 * elementwise value is computed by the unit of one of its sources when it can be (an epilogue), else by a unit of its own.
 */
import { type Graph, nameOf, type Node, numberAttr, numbersAttr, usersOf } from "../../ir/node.ts";
import { isMap, isMovement, isReduce } from "../../ir/ops.ts";
import { concreteShape, isNarrow, sizeOf } from "../../ir/types.ts";

/** What one kernel computes: anchors of one kind, and stored elementwise values that hang on them. */
export interface Unit {
  readonly id: number;
  readonly kind: "map" | "row" | "dot" | "attention" | "topK" | "assemble";
  readonly anchors: Node[];
  /** Stored maps and cache updates computed here. */
  readonly attached: Node[];
  /** For `dot`: the contraction inside a scaled sum over groups (then the anchor is the sum). */
  readonly inner: Node | undefined;
}

/** The result of partitioning. */
export interface Partition {
  /** Units in an order in which they can run. */
  readonly units: readonly Unit[];
  readonly unitOf: ReadonlyMap<Node, Unit>;
  /** Nodes whose values lie in memory: results of units that others (or the outputs) need. Leaves are stored, too. */
  readonly stored: ReadonlySet<Node>;
}

/** Choices that a failed lowering makes for the next attempt. */
export interface Constraints {
  /** Movements and maps that must be stored. */
  readonly forced: ReadonlySet<Node>;
  /** Stored values that must not hang on the unit of any source. */
  readonly alone: ReadonlySet<Node>;
  /** Whether one kernel computes the gradients of attention in queries, keys and values. */
  readonly gradientsTogether: boolean;
  /** Whether integers that contractions read are written as codes once. */
  readonly storeCodes: boolean;
}

/** Elementwise operations that are worth a store and a load when they would be computed twice. */
const FUNCTIONS: ReadonlySet<string> = new Set(["exp", "log", "erf", "sigmoid", "sqrt"]);
/** More operations than this are not recomputed by a second reader. */
const CHEAP_OPERATIONS = 8;
/** Prologues run once per tile of the other operand: dequantization (cast, subtract, multiply) fits, little else. */
const PROLOGUE_OPERATIONS = 4;

const isAnchor = (node: Node): boolean =>
  !isMap(node.op) && node.inputs.length > 0 && (!isMovement(node.op) || isAssembly(node));
const isAssembly = (node: Node): boolean => node.op === "concat" || node.op === "pad";
const isLeaf = (node: Node): boolean => node.inputs.length === 0;
const isRowAnchor = (node: Node): boolean => isReduce(node.op) || node.op === "hadamard";
/** Whether a leaf is memory (constants and counters are written into the kernels). */
export const isBoundLeaf = (node: Node): boolean => node.op === "param" || node.op === "input";

/** Shape and row axes of a row anchor: anchors with equal spaces can share a kernel. */
export function rowSpace(node: Node): { shape: readonly number[]; axes: readonly number[] } {
  const shape = concreteShape((node.inputs[0] as Node).type.shape);
  return { shape, axes: node.op === "hadamard" ? [numberAttr(node.attrs, "axis")] : numbersAttr(node.attrs, "axes") };
}

/** The same text for row anchors that walk over the same rows of the same memory order, whatever their shapes. */
function walkOf(node: Node): string {
  const { shape, axes } = rowSpace(node), parts: { along: boolean; extent: number }[] = [];
  shape.forEach((extent, axis) => {
    const along = axes.includes(axis), last = parts.at(-1);
    if (extent === 1) return;
    if (last?.along === along) last.extent *= extent;
    else parts.push({ along, extent });
  });
  return JSON.stringify(parts);
}

/** Partitions a canonical graph; see the top of this file. */
export function partition(graph: Graph, constraints: Constraints): Partition {
  const outputs = new Set(graph.outputs.map(({ node }) => node).filter((node) => !isLeaf(node)));
  const grouped = groupedSums(graph), { alone, gradientsTogether } = constraints, rules = { alone, gradientsTogether };
  // Once with anchors alone, to see which readers will share a kernel; then with what that makes worth storing.
  const sketch = formUnits(graph, { ...rules, grouped, stored: new Set() });
  const choice = { outputs, forced: constraints.forced, storeCodes: constraints.storeCodes, sketch };
  // The second time knowing which readers are stored values themselves, so that what only they read stays within their units.
  const stored = chooseStored(graph, choice, chooseStored(graph, choice, outputs));
  const formed = formUnits(graph, { ...rules, grouped, stored });
  return { units: schedule(graph, formed), unitOf: formed.unitOf, stored: storedResults(formed, stored, outputs) };
}

interface Formation {
  /** Sums over groups and the contractions inside them. */
  readonly grouped: ReadonlyMap<Node, Node>;
  /** Elementwise values and movements that get a place in memory. */
  readonly stored: ReadonlySet<Node>;
  readonly alone: ReadonlySet<Node>;
  readonly gradientsTogether: boolean;
}

interface Formed {
  readonly units: readonly Unit[];
  readonly unitOf: ReadonlyMap<Node, Unit>;
  readonly dependencies: ReadonlyMap<Unit, ReadonlySet<Unit>>;
  /** Values in memory or anchors that a value is computed from. */
  readonly sourcesOf: (node: Node) => ReadonlySet<Node>;
  readonly isAnchor: (node: Node) => boolean;
  /** The latest unit that could compute a value behind its own anchors. */
  readonly hostOf: (node: Node) => Unit | undefined;
}

/** Puts every anchor and every stored value into a unit, in graph order. */
function formUnits(graph: Graph, { grouped, stored, alone, gradientsTogether }: Formation): Formed {
  const inner = new Set(grouped.values());
  const anchor = (node: Node) => isAnchor(node) && !inner.has(node);
  const sources = new Map<Node, ReadonlySet<Node>>();
  const sourcesOf = (node: Node): ReadonlySet<Node> => {
    const found = sources.get(node);
    if (found) return found;
    const all = new Set<Node>();
    for (const input of node.inputs) {
      if (isBoundLeaf(input) || anchor(input) || stored.has(input)) all.add(input);
      else for (const source of sourcesOf(input)) all.add(source);
    }
    sources.set(node, all);
    return all;
  };

  const units: Unit[] = [];
  const unitOf = new Map<Node, Unit>();
  const dependencies = new Map<Unit, Set<Unit>>();
  const reaches = (from: Unit, to: Unit): boolean => {
    const seen = new Set<Unit>(), stack = [from];
    for (let unit = stack.pop(); unit; unit = stack.pop()) {
      if (unit === to) return true;
      if (seen.has(unit)) continue;
      seen.add(unit);
      stack.push(...dependencies.get(unit) ?? []);
    }
    return false;
  };
  const open = (kind: Unit["kind"], innerDot?: Node): Unit => {
    const unit: Unit = { id: units.length, kind, anchors: [], attached: [], inner: innerDot };
    units.push(unit);
    dependencies.set(unit, new Set());
    return unit;
  };
  const place = (node: Node, unit: Unit, list: Node[] = unit.anchors) => {
    list.push(node);
    unitOf.set(node, unit);
    for (const source of sourcesOf(node)) {
      const other = unitOf.get(source);
      if (other && other !== unit) dependencies.get(unit)?.add(other);
    }
  };
  /** Whether computing `node` in `unit` leaves an order of units: none of its sources may depend on that unit. */
  const joins = (node: Node, unit: Unit) =>
    [...sourcesOf(node)].every((source) => {
      const other = unitOf.get(source);
      return !other || other === unit || !reaches(other, unit);
    });

  const sharesRow = (unit: Unit, node: Node): boolean => {
    if (unit.kind !== "row" || alone.has(node)) return false;
    const space = walkOf(node);
    if (unit.anchors.some((other) => walkOf(other) !== space)) return false;
    const size = sizeOf(rowSpace(node).shape), needs = sourcesOf(node);
    const related = unit.attached.some((other) => needs.has(other)) ||
      unit.anchors.some((other) =>
        needs.has(other) ||
        [...sourcesOf(other)].some((source) => needs.has(source) && sizeOf(source.type.shape) * 2 > size)
      );
    return related && joins(node, unit);
  };

  const hostOf = (node: Node): Unit | undefined => {
    const size = loopSize(node), needs = sourcesOf(node);
    const candidates = [...needs].flatMap((source) => unitOf.get(source) ?? []);
    // Units that read what the value is computed from, too; caches are written where rows of the same value are made.
    const siblings = units.filter(({ kind, anchors, attached }) =>
      (kind === "map" || (kind === "row" && node.op === "update")) &&
      [...anchors, ...attached].some((other) =>
        [...sourcesOf(other)].some((source) => needs.has(source) && sizeOf(source.type.shape) >= size)
      )
    );
    // Rows first: what they are reduced from is at hand there, while a product's epilogue would load it again.
    const isRow = (unit: Unit) => Number(unit.kind === "row");
    return [...new Set([...candidates, ...siblings])].sort((a, b) => isRow(b) - isRow(a) || b.id - a.id)
      .find((unit) => fits(unit, size) && joins(node, unit));
  };

  for (const node of graph.nodes) {
    if (inner.has(node) || (isLeaf(node) && !stored.has(node))) continue;
    if (node.op === "update" || (stored.has(node) && !anchor(node))) {
      const unit = (alone.has(node) ? undefined : hostOf(node)) ?? open("map");
      place(node, unit, unit.attached);
    } else if (grouped.has(node)) place(node, open("dot", grouped.get(node)));
    else if (isRowAnchor(node)) {
      const shared = units.filter((unit) => sharesRow(unit, node));
      // What had to leave a unit takes along what is computed with it.
      const parted = shared.findLast(({ anchors }) => anchors.some((other) => alone.has(other)));
      place(node, parted ?? shared[0] ?? open("row"));
    } else if (node.op === "attention" || node.op === "attentionGrad") {
      place(node, units.find((unit) => sharesAttention(unit, node, gradientsTogether)) ?? open("attention"));
    } else if (node.op === "dot") place(node, open("dot"));
    else if (node.op === "topK") place(node, open("topK"));
    else if (isAssembly(node)) place(node, open("assemble"));
  }
  return { units, unitOf, dependencies, sourcesOf, isAnchor: anchor, hostOf };
}

function sharesAttention(unit: Unit, node: Node, gradientsTogether: boolean): boolean {
  const other = unit.anchors[0];
  return unit.kind === "attention" && other?.op === node.op &&
    other.inputs.every((input, i) => input === node.inputs[i]) &&
    other.attrs.scale === node.attrs.scale && other.attrs.causal === node.attrs.causal &&
    other.attrs.window === node.attrs.window &&
    // Gradients of keys and values walk over queries, that of queries over keys: where chunks are small they are two kernels. With a
    // bias there is one buffer too many for keys and values in one.
    (node.op === "attention" || gradientsTogether ||
      (node.inputs.length <= 6 && (node.attrs.of === "q") === (other.attrs.of === "q")));
}

/** Elements that a value is computed for: of an update those that are new. */
const loopSize = (node: Node): number => sizeOf((node.op === "update" ? node.inputs[1] as Node : node).type.shape);

/** Whether a unit's loops are those of a value of `size` elements. */
function fits(unit: Unit, size: number): boolean {
  if (unit.kind === "map") return unit.attached.every((other) => loopSize(other) === size);
  const first = unit.anchors[0];
  if (!first) return false;
  if (unit.kind === "dot") return sizeOf(first.type.shape) === size;
  if (unit.kind !== "row") return false;
  const { shape, axes } = rowSpace(first), full = sizeOf(shape);
  return size === full || size === full / sizeOf(axes.map((axis) => shape[axis] ?? 1));
}

/** Everything in memory beside the leaves: results of units that other units or the outputs need. */
function storedResults(
  { units, unitOf, sourcesOf }: Formed,
  chosen: ReadonlySet<Node>,
  outputs: ReadonlySet<Node>,
): ReadonlySet<Node> {
  const stored = new Set([...chosen, ...outputs]);
  for (const unit of units) {
    for (const node of [...unit.anchors, ...unit.attached]) {
      for (const source of sourcesOf(node)) if (!isBoundLeaf(source) && unitOf.get(source) !== unit) stored.add(source);
    }
    // These write all their results, wanted or not.
    if (unit.kind === "assemble" || unit.kind === "attention" || unit.kind === "topK") {
      for (const node of unit.anchors) {
        stored.add(node);
      }
    }
  }
  return stored;
}

/** Sums over a leading axis of an expression whose one large source is a contraction batched over that axis. */
function groupedSums(graph: Graph): ReadonlyMap<Node, Node> {
  const users = usersOf(graph), found = new Map<Node, Node>();
  const outputs = new Set(graph.outputs.map(({ node }) => node));
  for (const node of graph.nodes) {
    const x = node.inputs[0];
    if (node.op !== "sum" || !x || x.type.shape.length < 2 || numbersAttr(node.attrs, "axes").join() !== "0") continue;
    const dot = onlyLargeDot(x, sizeOf(x.type.shape));
    if (!dot || dot.type.shape[0] !== x.type.shape[0] || sizeOf(dot.type.shape) !== sizeOf(x.type.shape)) continue;
    // Every path from the contraction must end in this sum.
    const reached = new Set<Node>(), stack = [dot];
    let leaks = outputs.has(dot);
    for (let y = stack.pop(); y && !leaks; y = stack.pop()) {
      for (const user of users.get(y) ?? []) {
        if (user === node || reached.has(user)) continue;
        if (isAnchor(user) || outputs.has(user)) leaks = true;
        reached.add(user);
        stack.push(user);
      }
    }
    if (!leaks) found.set(node, dot);
  }
  return found;
}

/** The one contraction of a size that an elementwise value is computed from, if it is one. */
export function onlyLargeDot(x: Node, size: number): Node | undefined {
  const dots = new Set<Node>(), seen = new Set<Node>(), stack = [x];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    if (node.op === "dot" && sizeOf(node.type.shape) === size) dots.add(node);
    else if (isMap(node.op) || node.op === "reshape" || node.op === "broadcast") stack.push(...node.inputs);
  }
  return dots.size === 1 ? [...dots][0] : undefined;
}

interface Choice {
  readonly outputs: ReadonlySet<Node>;
  readonly forced: ReadonlySet<Node>;
  readonly storeCodes: boolean;
  readonly sketch: Formed;
}

/**
 * Decides which elementwise values are stored: results, forced ones, and those dearer to recompute than to load. Decided from
 * the sources on, so that a value is judged by what is stored below it.
 */
function chooseStored(
  graph: Graph,
  { outputs, forced, storeCodes, sketch }: Choice,
  ends: ReadonlySet<Node>,
): ReadonlySet<Node> {
  const { isAnchor: anchor } = sketch;
  const users = usersOf(graph), readers = readersOf(graph, users, sketch, ends), stored = new Set<Node>();
  for (const node of graph.nodes) {
    if (anchor(node)) continue;
    if (forced.has(node) || outputs.has(node)) stored.add(node);
    else if (isMap(node.op)) {
      const { operations, functions, loads } = lazyCost(node, (x) => anchor(x) || stored.has(x));
      const dear = (limit: number) => functions > 0 || operations > limit || loads > 1;
      // With a single user of its own size, that user is the better value to store.
      const [user, ...others] = new Set(users.get(node) ?? []);
      const passesOn = user && others.length === 0 && isMap(user.op);
      const twice = (readers.get(node)?.size ?? 0) > 1 && !passesOn;
      const operand = readsAsOperand(node, users, anchor);
      const perRow = isPerRow(node, readers.get(node) ?? new Set());
      // Codes take a quarter of the memory of what they are made from.
      const codes = storeCodes && operand && isNarrow(node.type.dtype) && operations > 1;
      if ((twice && !perRow && dear(CHEAP_OPERATIONS)) || (operand && dear(PROLOGUE_OPERATIONS)) || codes) {
        stored.add(node);
      }
    }
  }
  return stored;
}

/** Values of which a row kernel needs one per row cost next to nothing, however they are computed. */
const SHORT_ROW = 8;
function isPerRow(node: Node, readers: ReadonlySet<Unit | Node>): boolean {
  return [...readers].every((reader) => {
    const anchor = "kind" in reader && reader.kind === "row" ? reader.anchors[0] : undefined;
    return anchor && sizeOf(rowSpace(anchor).shape) >= SHORT_ROW * sizeOf(node.type.shape);
  });
}

/** The units that would compute each value, were no elementwise values stored but `ends`. */
function readersOf(
  graph: Graph,
  users: ReadonlyMap<Node, readonly Node[]>,
  { isAnchor: anchor, unitOf, hostOf }: Formed,
  ends: ReadonlySet<Node>,
): ReadonlyMap<Node, ReadonlySet<Unit | Node>> {
  const readers = new Map<Node, Set<Unit | Node>>();
  for (const node of [...graph.nodes].reverse()) {
    const all = new Set<Unit | Node>();
    readers.set(node, all);
    if (isLeaf(node)) continue;
    for (const user of users.get(node) ?? []) {
      if (anchor(user) || user.op === "update") all.add(unitOf.get(user) ?? user);
      else if (ends.has(user)) all.add(hostOf(user) ?? user);
      else for (const reader of readers.get(user) ?? []) all.add(reader);
    }
  }
  return readers;
}

/** Whether a contraction or attention reads the value, directly or through movements: then it would run once per tile. */
function readsAsOperand(
  node: Node,
  users: ReadonlyMap<Node, readonly Node[]>,
  anchor: (node: Node) => boolean,
): boolean {
  return (users.get(node) ?? []).some((user) =>
    user.op === "dot" || user.op === "attention" || user.op === "attentionGrad" ||
    (isMovement(user.op) && !anchor(user) && readsAsOperand(user, users, anchor))
  );
}

/** Elementwise operations between a value and memory, and how many values of its own size it is computed from. */
function lazyCost(
  root: Node,
  isMemory: (node: Node) => boolean,
): { operations: number; functions: number; loads: number } {
  const seen = new Set<Node>(), stack = [root], size = sizeOf(root.type.shape);
  let operations = 0, functions = 0, loads = 0;
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    // What is computed once per row does not count against an element.
    const large = sizeOf(node.type.shape) * 2 > size;
    if (isBoundLeaf(node) || (isMemory(node) && node !== root)) {
      if (large) loads++;
      continue;
    }
    if (isMap(node.op) && large) {
      operations++;
      if (FUNCTIONS.has(node.op)) functions++;
    }
    stack.push(...node.inputs);
  }
  return { operations, functions, loads };
}

/** Units in dependency order; of those that are ready, the one that comes first in the graph. */
function schedule(graph: Graph, { units, dependencies }: Formed): Unit[] {
  const order = new Map(graph.nodes.map((node, i) => [node, i]));
  const first = (unit: Unit) => Math.min(...[...unit.anchors, ...unit.attached].map((node) => order.get(node) ?? 0));
  const waiting = [...units].sort((a, b) => first(a) - first(b)), done = new Set<Unit>(), result: Unit[] = [];
  while (waiting.length > 0) {
    const next = waiting.findIndex((unit) => [...dependencies.get(unit) ?? []].every((other) => done.has(other)));
    const unit = waiting[next];
    if (!unit) throw new Error("Internal error in partition: units depend on each other in a circle");
    waiting.splice(next, 1);
    done.add(unit);
    result.push(unit);
  }
  return result;
}

/** A name for a value, for people. */
export function labelOf(node: Node, index: number): string {
  return isBoundLeaf(node) ? nameOf(node) : `${node.op}_${index}`;
}
