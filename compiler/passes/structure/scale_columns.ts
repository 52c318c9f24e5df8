/**
 * Activation-aware scaling (AWQ; Lin et al., MLSys 2024): the columns of all linears that read one value are multiplied by s > 0,
 * and the value is divided by it, `x·Wᵀ = (x/s)·(W·s)ᵀ`. Columns with large inputs are then rounded with smaller errors.
 *
 * The division goes into what makes the value: the gain of a norm; the rows of the linear in front, be it what a gate multiplies
 * or what attention averages; its bias. Where nothing takes it, it stays a product.
 */
import { type Builder, createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf, type Node, usersOf } from "../../../ir/node.ts";
import { dotAxes } from "../../../ir/ops/contractions.ts";
import { tensorType } from "../../../ir/types.ts";
import { inputNames } from "../quantize/insert_activation_quantizers.ts";
import { linearsOf, mapWeights } from "../quantize/linears.ts";
import { isCheckpointTime } from "./values.ts";

/** A value that nothing but linears reads, and the shape of its scales. */
export interface ScaledInput {
  /** The value's name (see `inputNames`). */
  readonly value: string;
  /** The parameter f32[outer·inner] of time checkpoint that holds s. */
  readonly name: string;
  readonly source: Node;
  /** Names of the weights. */
  readonly weights: readonly string[];
  /**
   * Columns are [outer, repeats, inner], and s is repeated along the middle: heads that share keys and values share scales, since
   * the rows that make the values absorb them. Elsewhere outer and repeats are 1.
   */
  readonly outer: number;
  readonly repeats: number;
  readonly inner: number;
}

/** Every value of a function whose columns can be scaled. */
export function scaledInputs(graph: Graph): readonly ScaledInput[] {
  const names = inputNames(graph), users = usersOf(graph), readers = new Map<Node, Set<Node>>();
  const linears = linearsOf(graph), outputs = new Set(graph.outputs.map(({ node }) => node));
  for (const { source, dot } of linears) readers.set(source, (readers.get(source) ?? new Set()).add(dot));
  const readByLinearsAlone = (node: Node, dots: ReadonlySet<Node>): boolean =>
    !outputs.has(node) &&
    (users.get(node) ?? []).every((user) =>
      dots.has(user) || (user.op === "reshape" && readByLinearsAlone(user, dots))
    );
  return [...readers].flatMap(([source, dots]) => {
    const own = linears.filter(({ dot }) => dots.has(dot)), [first] = own;
    if (!first || source.op === "input" || !readByLinearsAlone(source, dots)) return [];
    const value = names.get(first.name) ?? first.name, weights = own.map((linear) => linear.name);
    return [{ value, name: `${value}.scale`, source, weights, ...columnsOf(source, first.columns) }];
  });
}

function columnsOf(source: Node, columns: number): Pick<ScaledInput, "outer" | "repeats" | "inner"> {
  const value = source.op === "attention" ? source.inputs[2] : undefined;
  if (!value) return { outer: 1, repeats: 1, inner: columns };
  const [kvHeads, width] = value.type.shape.slice(2).map(Number) as [number, number];
  return { outer: kvHeads, repeats: columns / width / kvHeads, inner: width };
}

/** The function with a scale at every value that linears read; scales of one leave it as it is. */
export function scaleColumns(graph: Graph): Graph {
  const b = createBuilder(), users = usersOf(graph), inputs = scaledInputs(graph);
  const edits: Edits = { operands: new Map(), results: new Map() };
  const scaleOf = (x: Builder, { name, outer, inner }: ScaledInput): Node =>
    x.param(name, tensorType("f32", [outer * inner]), "checkpoint");
  for (const input of inputs) {
    const inverse = b.div(1, scaleOf(b, input)), { source, outer, inner } = input;
    absorb(edits, users, source, source.op === "attention" ? b.reshape(inverse, [outer, inner]) : inverse);
  }
  return mapWeights(apply(graph, b, edits), (x, weight, { name }) => {
    const input = inputs.find(({ weights }) => weights.includes(name));
    if (!input) return weight;
    const { outer, repeats, inner } = input, shape = [outer, repeats, inner];
    const s = x.broadcast(x.reshape(scaleOf(x, input), [outer, 1, inner]), shape);
    return x.mul(weight, x.reshape(s, [outer * repeats * inner]));
  });
}

/** Factors of operands and of results. A factor has the shape of the last axes of what it multiplies. */
interface Edits {
  readonly operands: Map<Node, ReadonlyMap<number, Node>>;
  readonly results: Map<Node, Node>;
}

/** Notes where in the computation of `node` a factor of it goes. */
function absorb(edits: Edits, users: ReadonlyMap<Node, readonly Node[]>, node: Node, factor: Node): void {
  const operands = new Map(edits.operands.get(node)), into = takersOf(node, users);
  if (!into) {
    edits.results.set(node, factor);
    return;
  }
  for (const i of into) {
    const operand = node.inputs[i] as Node;
    if (isCheckpointTime(operand)) operands.set(i, factor);
    else absorb(edits, users, operand, factor);
  }
  edits.operands.set(node, operands);
}

/** The operands that have to be multiplied for the result to be, if every one of them can. */
function takersOf(node: Node, users: ReadonlyMap<Node, readonly Node[]>): readonly number[] | undefined {
  const takes = (i: number): boolean => {
    const operand = node.inputs[i] as Node;
    if (isCheckpointTime(operand)) return true;
    return (users.get(operand)?.length ?? 0) === 1 && takersOf(operand, users) !== undefined;
  };
  const all = (...list: readonly number[]) => list.every(takes) ? list : undefined;
  switch (node.op) {
    case "mul":
      return [1, 0].map((i) => all(i)).find((found) => found);
    case "add":
      return all(0, 1);
    case "attention":
      return all(2);
    case "dot":
      return isCheckpointTime(node.inputs[1] as Node) &&
          dotAxes(node.inputs.map(({ type }) => type), node.attrs).lhsBatch.length === 0
        ? [1]
        : undefined;
    default:
      return undefined;
  }
}

/** The graph with operands and results multiplied. */
function apply(graph: Graph, b: Builder, { operands, results }: Edits): Graph {
  const done = new Map<Node, Node>();
  for (const node of graph.nodes) {
    const factors = operands.get(node);
    const inputs = node.inputs.map((input, i) => {
      const factor = factors?.get(i), moved = done.get(input) as Node;
      if (!factor) return moved;
      return node.op === "dot" ? scaleRows(b, moved, factor, node) : scaled(b, moved, factor);
    });
    const made = b.make(node.op, inputs, node.attrs), factor = results.get(node);
    done.set(node, factor ? b.mul(made, factor) : made);
  }
  return graphOf(graph.outputs.map(({ name, node }) => ({ name, node: done.get(node) as Node })));
}

/** A value times a factor of its last axes; of what is repeated, one copy is multiplied. */
function scaled(b: Builder, node: Node, factor: Node): Node {
  const [inner] = node.inputs, size = factor.type.shape.join();
  return node.op === "broadcast" && inner?.type.shape.join() === size
    ? b.broadcast(b.mul(inner, factor), node.type.shape)
    : b.mul(node, factor);
}

/** The right operand of a dot times a factor of the axes that it gives to the result. */
function scaleRows(b: Builder, weight: Node, factor: Node, dot: Node): Node {
  const { rhsFree } = dotAxes(dot.inputs.map(({ type }) => type), dot.attrs);
  const shape = weight.type.shape.map((size, axis) => rhsFree.includes(axis) ? size : 1);
  return b.mul(weight, b.reshape(factor, shape));
}
