/** From a graph to kernels: canonical form, partition, one specification per unit, values in memory. */
import { type Graph, nameOf, type Node } from "../../ir/node.ts";
import { isMap } from "../../ir/ops.ts";
import { sizeOf } from "../../ir/types.ts";
import { canonicalize } from "./canonical.ts";
import { checkInPlace } from "./in_place.ts";
import { lowerAttention, lowerTopK } from "./lower_attention.ts";
import { lowerDot } from "./lower_dot.ts";
import { lowerAssembly, lowerCopy, lowerMap } from "./lower_map.ts";
import { lowerRow } from "./lower_row.ts";
import { CannotLower, type LoweredKernel, type LoweringContext } from "./lower_unit.ts";
import type { LoweredProgram, LoweredStep, LoweredValue } from "./program.ts";
import { isBoundLeaf, labelOf, onlyLargeDot, type Partition, partition, type Unit } from "./partition.ts";

/** How to lower. */
export interface LowerOptions {
  /** Output name -> leaf name: results computed in the leaf's memory. */
  readonly inPlace?: Readonly<Record<string, string>>;
  /** Most buffers that one kernel may bind; the portable WebGPU limit by default. */
  readonly maxBuffers?: number;
  /** Whether integers that contractions read are written as codes once, rather than made again in every workgroup. */
  readonly storeCodes?: boolean;
  /** Whether one kernel computes all gradients of attention: probabilities once, but as few chunks as there are heads. */
  readonly gradientsTogether?: boolean;
}

const LOWERINGS: Readonly<Record<Unit["kind"], (unit: Unit, context: LoweringContext) => LoweredKernel[]>> = {
  map: lowerMap,
  row: (unit, context) => [lowerRow(unit, context)],
  dot: (unit, context) => [lowerDot(unit, context)],
  attention: (unit, context) => [lowerAttention(unit, context)],
  topK: (unit, context) => [lowerTopK(unit, context)],
  assemble: lowerAssembly,
};

/** Lowers a graph with concrete shapes: of two ways to keep within the buffers that there are, the one with fewer kernels. */
export function lowerGraph(graph: Graph, options: LowerOptions = {}): LoweredProgram {
  const { inPlace = {}, maxBuffers = 8, gradientsTogether = false, storeCodes = false } = options;
  const canonical = canonicalize(graph, maxBuffers);
  const order = new Map(canonical.nodes.map((node, i) => [node, i]));
  const position = (node: Node) => order.get(node) ?? -1;
  const leaves = new Map(canonical.nodes.filter(isBoundLeaf).map((node) => [nameOf(node), node]));
  const homes = new Map<Node, Node>();
  for (const node of canonical.nodes) {
    const cache = node.inputs[0];
    if (node.op === "update" && cache && isBoundLeaf(cache)) homes.set(node, cache);
  }
  for (const [output, leaf] of Object.entries(inPlace)) {
    const node = canonical.outputs.find(({ name }) => name === output)?.node, home = leaves.get(leaf);
    if (!node || !home) {
      throw new RangeError(
        `Cannot compute "${output}" in place of "${leaf}": the program has no such ${node ? "leaf" : "output"}`,
      );
    }
    if (node !== home) homes.set(node, home);
  }

  /** Lowers with what the failures before have taught; tells whether a product could have helped a kernel of too many buffers. */
  const lower = (byProducts: boolean): { readonly program: LoweredProgram; readonly canChoose: boolean } => {
    const forced = new Set<Node>(), alone = new Set<Node>();
    let canChoose = false;
    // Each failed attempt adds a constraint; every node can be constrained twice at most.
    for (let attempt = 0; attempt <= 2 * canonical.nodes.length + 2; attempt++) {
      const parts = partition(canonical, { forced, alone, gradientsTogether, storeCodes });
      const context: LoweringContext = { partition: parts, position, alias: (node) => homes.get(node) };
      const kernels: LoweredKernel[] = [], failures: CannotLower[] = [];
      for (const unit of parts.units) {
        try {
          kernels.push(...lowerUnit(unit, context, maxBuffers));
        } catch (error) {
          if (!(error instanceof CannotLower)) throw error;
          failures.push(error);
        }
      }
      if (failures.length === 0) return { program: assemble(canonical, parts, context, kernels), canChoose };
      for (const failure of failures) {
        canChoose ||= failure.epilogue !== undefined;
        if (byProducts && failure.epilogue) forced.add(failure.epilogue);
        else constrain(failure, forced, alone);
      }
    }
    throw new Error("Internal error in lowerGraph: no partition can be lowered");
  };
  const { program, canChoose } = lower(true), other = canChoose ? lower(false).program : program;
  return other.steps.length < program.steps.length ? other : program;
}

/** Keeps the failed result out of its unit or, where it is alone already, stores the value it could not reach. */
function constrain({ unit, root, reason, message }: CannotLower, forced: Set<Node>, alone: Set<Node>): void {
  const shares = unit.anchors.length + unit.attached.length > 1 && unit.anchors[0] !== root;
  if (shares && !alone.has(root)) alone.add(root);
  else if (!isBoundLeaf(reason)) forced.add(reason);
  else throw new Error(message);
}

function lowerUnit(unit: Unit, context: LoweringContext, maxBuffers: number): LoweredKernel[] {
  const kernels = LOWERINGS[unit.kind](unit, context);
  // An update of a computed cache starts from a copy of it; one of a leaf is done in the leaf's memory.
  for (const update of unit.attached.filter((node) => node.op === "update" && !context.alias(node))) {
    kernels.unshift(lowerCopy(unit, update, update.inputs[0] as Node, context));
  }
  const widest = Math.max(...kernels.map(({ nodes }) => nodes.length));
  if (widest > maxBuffers) {
    const last = unit.attached.at(-1), shares = last && unit.anchors.length + unit.attached.length > 1;
    // A product before a row that computes what the row gathers from most buffers, in its epilogue, leaves it one of them.
    const gathered = unit.kind === "row" ? busiestOperand(unit, context, maxBuffers, isEpilogue) : undefined;
    const helps = gathered && widest - gathered.sources + 1 <= maxBuffers;
    throw new CannotLower(
      unit,
      (last && anchorBelow(unit, last)) ?? last ?? (unit.anchors.at(-1) as Node),
      shares ? last : operandOf(unit, context, maxBuffers),
      helps ? gathered.node : undefined,
    );
  }
  return kernels;
}

/** Whether a value is computed from one product of its own size. */
const isEpilogue = (node: Node): boolean => onlyLargeDot(node, sizeOf(node.type.shape)) !== undefined;

/** The first row anchor of a unit that a value is computed from, if others stand in front of it: the two can part there. */
function anchorBelow({ anchors }: Unit, value: Node): Node | undefined {
  const seen = new Set<Node>(), stack = [value];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    stack.push(...node.inputs);
  }
  const at = anchors.findIndex((anchor) => seen.has(anchor));
  return at > 0 ? anchors[at] : undefined;
}

/** The elementwise value inside a unit that gathers most sources, but few enough for a kernel of its own, and how many. */
function busiestOperand(
  unit: Unit,
  { partition: { stored, unitOf } }: LoweringContext,
  maxBuffers: number,
  isWanted: (node: Node) => boolean = () => true,
): { readonly node: Node; readonly sources: number } | undefined {
  const isMemory = (node: Node) => isBoundLeaf(node) || (stored.has(node) && unitOf.get(node) !== unit);
  const sources = (root: Node): number => {
    const all = new Set<Node>(), seen = new Set<Node>(), stack = [...root.inputs];
    for (let node = stack.pop(); node; node = stack.pop()) {
      if (seen.has(node)) continue;
      seen.add(node);
      if (isMemory(node)) all.add(node);
      else stack.push(...node.inputs);
    }
    return all.size;
  };
  const roots = [...unit.anchors, ...unit.attached],
    seen = new Set<Node>(),
    stack = roots.flatMap((node) => [...node.inputs]);
  let best: Node | undefined, most = 1;
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node) || isMemory(node)) continue;
    seen.add(node);
    const count = isMap(node.op) && !roots.includes(node) ? sources(node) : 0;
    if (count > most && count < maxBuffers && isWanted(node)) [best, most] = [node, count];
    stack.push(...node.inputs);
  }
  return best && { node: best, sources: most };
}

function operandOf(unit: Unit, context: LoweringContext, maxBuffers: number): Node {
  const best = busiestOperand(unit, context, maxBuffers);
  if (best) return best.node;
  const ops = [...new Set([...unit.anchors, ...unit.attached].map((node) => node.op))].join(" and ");
  throw new RangeError(
    `Expected kernels that bind at most ${maxBuffers} buffers but found ${ops} with more operands; raise maxBuffers`,
  );
}

/** Gives every stored node a value, adds copies for outputs that are leaves or named twice, and checks results in place. */
function assemble(
  graph: Graph,
  parts: Partition,
  context: LoweringContext,
  kernels: readonly LoweredKernel[],
): LoweredProgram {
  const values: LoweredValue[] = [], indexOf = new Map<Node, number>();
  for (const node of graph.nodes.filter(isBoundLeaf)) {
    indexOf.set(node, values.length);
    values.push({ name: nameOf(node), type: node.type, role: "leaf", leaf: nameOf(node) });
  }
  const steps: LoweredStep[] = [], copies: { name: string; node: Node }[] = [];
  const outputOf = new Map<Node, string>();
  for (const { name, node } of graph.outputs) {
    if (node.inputs.length > 0 && !outputOf.has(node)) outputOf.set(node, name);
    else copies.push({ name, node });
  }
  const valueOf = (node: Node): number => {
    const found = indexOf.get(node);
    if (found !== undefined) return found;
    const home = context.alias(node), output = outputOf.get(node);
    indexOf.set(node, values.length);
    values.push({
      name: output ?? labelOf(node, context.position(node)),
      type: node.type,
      role: output === undefined ? "temporary" : "output",
      ...(output === undefined ? {} : { output }),
      ...(home ? { inPlaceOf: valueOf(home) } : {}),
    });
    return values.length - 1;
  };
  for (const node of [...parts.stored, ...context.partition.unitOf.keys()]) {
    if (!isBoundLeaf(node) && (parts.stored.has(node) || node.op === "update")) valueOf(node);
  }
  for (const { kernel, nodes } of kernels) steps.push({ kernel, bindings: nodes.map(valueOf) });
  for (const { name, node } of copies) {
    // The unit stands for nothing but a place to copy in.
    const unit: Unit = { id: -1, kind: "map", anchors: [], attached: [], inner: undefined };
    const target: Node = { ...node };
    const { kernel, nodes } = lowerCopy(unit, target, node, { ...context, alias: () => undefined });
    indexOf.set(target, values.length);
    values.push({ name, type: node.type, role: "output", output: name });
    steps.push({ kernel: { ...kernel, name: `copy_${name}` }, bindings: nodes.map(valueOf) });
  }
  const program = { values, steps };
  checkInPlace(program);
  return program;
}
