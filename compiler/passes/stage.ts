/**
 * @file Slices a specialised graph into the programs of its binding times (design.md 1). Values cross from one program to a
 * later one as `hold`s only; what lies between a hold and its use is computed again where it is used, and whatever else
 * would cross is an error.
 */
import { type Builder, createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf, nameOf, type Node, type Output, stringAttr } from "../../ir/node.ts";
import { BINDING_TIMES, type BindingTime, bindingTimeOf } from "../../ir/ops/state.ts";
import { typeText } from "../../ir/types.ts";

/** The programs that one graph is sliced into; chained, they compute what the graph does. */
export interface Stages {
  /** Checkpoint parameters in, checkpoint holds out. */
  readonly prepare: Graph;
  /** Checkpoint holds and learned parameters in, configuration holds out. */
  readonly switch: Graph;
  /** Held values and inputs in, the graph's outputs out; token holds are gone. */
  readonly step: Graph;
}

/** A program to be cut out of a graph. */
interface Program {
  readonly name: string;
  /** Earliest binding time of its own leaves; holds of earlier times are its parameters, other leaves of earlier times errors. */
  readonly from: BindingTime;
  /** Latest binding time of its leaves. */
  readonly to: BindingTime;
}

const PREPARE: Program = { name: "prepare", from: "checkpoint", to: "checkpoint" };
const SWITCH: Program = { name: "switch", from: "calibration", to: "configuration" };
const STEP: Program = { name: "step", from: "token", to: "token" };
const TRAIN: Program = { name: "train", from: "calibration", to: "token" };

/**
 * Slices a graph at its holds. A hold of time t is an output of the program of time t and, in every later program that needs
 * it, a parameter of its name and time. `holdParameters` runs before.
 *
 * @throws {TypeError} naming operation and parameter, when anything but a hold or a constant crosses, when a hold depends on
 * something later, and when two values are held under one name
 */
export function stage(graph: Graph): Stages {
  const early = graph.nodes.find((node) => node.op === "hold" && timeOf(node) === "calibration");
  if (early) {
    throw new TypeError(
      `Cannot stage: expected holds of time checkpoint, configuration or token but found "${
        nameOf(early)
      }" of time calibration`,
    );
  }
  return {
    prepare: prepareGraph(graph),
    switch: cut(SWITCH, holdsOf(graph, "configuration")),
    step: cut(STEP, graph.outputs),
  };
}

/**
 * The program that calibration differentiates: checkpoint holds become parameters of their names, all later holds vanish,
 * parameters of time calibration are its variables.
 *
 * @throws {TypeError} when anything but a hold crosses from the checkpoint
 */
export function trainGraph(graph: Graph): Graph {
  return cut(TRAIN, graph.outputs);
}

/** The prepare program alone. It does not depend on widths, so the graph need not be specialised. */
export function prepareGraph(graph: Graph): Graph {
  return cut(PREPARE, holdsOf(graph, "checkpoint"));
}

function holdsOf(graph: Graph, time: BindingTime): readonly Output[] {
  const own = graph.nodes.filter((node) => node.op === "hold" && timeOf(node) === time);
  const twice = own.find((node, i) => own.findIndex((other) => nameOf(other) === nameOf(node)) !== i);
  if (twice) throw new TypeError(`Cannot stage: expected one value held as "${nameOf(twice)}" but found several`);
  return own.map((node) => ({ name: nameOf(node), node }));
}

function cut(program: Program, outputs: readonly Output[]): Graph {
  const b = createBuilder(), done = new Map<Node, Node>();
  for (const { node: root } of outputs) {
    // Users behind the node in hand, nearest last, for messages.
    const stack = [root];
    for (let node = stack.at(-1); node; node = stack.at(-1)) {
      if (done.has(node)) {
        stack.pop();
        continue;
      }
      const leaf = leafOf(b, program, node, stack);
      const missing = leaf ? [] : node.inputs.filter((input) => !done.has(input));
      if (missing.length > 0) stack.push(...missing.slice(-1));
      else {
        done.set(node, leaf ?? inner(b, node, node.inputs.map((input) => done.get(input) as Node)));
        stack.pop();
      }
    }
  }
  return graphOf(outputs.map(({ name, node }) => ({ name, node: done.get(node) as Node })));
}

/** Holds inside their own program are the value itself. */
const inner = (b: Builder, node: Node, inputs: readonly Node[]): Node =>
  node.op === "hold" ? inputs[0] as Node : b.make(node.op, inputs, node.attrs);

/** What a node is when the program does not compute it: a parameter or input; `undefined`: it is computed. */
function leafOf(b: Builder, program: Program, node: Node, path: readonly Node[]): Node | undefined {
  if (node.op === "param" || node.op === "input") {
    const time = node.op === "input" ? "token" : timeOf(node);
    if (rank(time) < rank(program.from) || rank(time) > rank(program.to)) throw crossing(program, node, path);
    return b.adopt(node);
  }
  if (node.op !== "hold" || rank(timeOf(node)) >= rank(program.from)) {
    if (node.op === "hold" && rank(timeOf(node)) > rank(program.to)) throw crossing(program, node, path);
    return undefined;
  }
  return b.param(nameOf(node), node.type, timeOf(node));
}

const timeOf = (node: Node): BindingTime => bindingTimeOf(stringAttr(node.attrs, "time"));
const rank = (time: BindingTime): number => BINDING_TIMES.indexOf(time);

function crossing(program: Program, leaf: Node, path: readonly Node[]): TypeError {
  const time = leaf.op === "input" ? "token" : timeOf(leaf), user = path.at(-2);
  const what = `${leaf.op} "${nameOf(leaf)}" ${typeText(leaf.type)} of time ${time}`;
  const use = user ? ` used by ${user.op} ${typeText(user.type)}` : " as a result";
  const hold = path.findLast((node) => node.op === "hold" && node !== leaf);
  const where = hold ? ` on the way to the hold "${nameOf(hold)}"` : "";
  const mend = rank(time) < rank(program.from)
    ? `mark what crosses with hold(…, ${time === "calibration" ? "configuration" : time}, name)`
    : `hold it at that time`;
  return new TypeError(
    `Cannot stage: expected only holds and constants to enter the ${program.name} program but found ${what}${use}${where}; ${mend}`,
  );
}
