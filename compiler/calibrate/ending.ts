/**
 * @file What follows the last block that is calibrated, in full precision: its output becomes logits there, and by those it learns,
 * too. Blocks learn to put out what they did before, every value alike; of the last one's output only what shows in logits matters,
 * and what earlier blocks did wrong can be made good where it shows most. By logits alone it would learn the calibration texts too
 * well (docs/quality.md).
 */
import type { Tensor } from "../../backends/backend.ts";
import { createBuilder } from "../../ir/builder.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../../ir/node.ts";
import { inline } from "../../ir/rewrite.ts";
import { stage } from "../passes/stage.ts";
import { prepareCall, type PrepareInput } from "./prepare_call.ts";
import { createPool } from "./programs.ts";

/** The input of an ending's graph that is the last block's output. */
export const ENDING_INPUT = "ending.input";

/** The calls behind the last block as one function. */
export interface Ending {
  readonly calls: readonly Call[];
  /** What they compute of `ENDING_INPUT`; other inputs are the calls' held values, see `openEnding`. */
  readonly graph: Graph;
}

const heldName = (call: number, name: string): string => `ending.${call}.${name}`;

/**
 * The calls of a module behind call `last`.
 *
 * @throws {TypeError} unless each of them takes what the one before puts out, and nothing else
 */
export function endingOf(module: Module, last: number): Ending {
  const b = createBuilder(), calls = module.calls.slice(last + 1);
  let before = module.calls[last], value: Node | undefined;
  for (const [i, call] of calls.entries()) {
    const [input, ...more] = Object.values(call.inputs), outputs = Object.values(before?.outputs ?? {});
    if (input === undefined || more.length > 0 || outputs.length !== 1 || outputs[0] !== input) {
      throw new TypeError(
        `Cannot calibrate by logits: expected "${call.function}" to take one value, of the call before; logits=0 does without`,
      );
    }
    const previous: Node | undefined = value;
    const results: Readonly<Record<string, Node>> = inline(b, stage(functionOf(module, call)).step, (node) => {
      if (node.op === "input") return previous ?? b.input(ENDING_INPUT, node.type);
      return node.op === "param" ? b.input(heldName(i, nameOf(node)), node.type) : undefined;
    });
    [value, before] = [Object.values(results)[0], call];
  }
  if (!value) throw new TypeError("Cannot calibrate by logits: expected calls behind the last block");
  return { calls, graph: graphOf({ logits: value }) };
}

/** The names of what an ending's graph reads beside the block's output. */
export const heldNames = (ending: Graph | undefined): readonly string[] =>
  (ending ? leavesOf(ending, "input") : []).map(nameOf).filter((name) => name !== ENDING_INPUT);

/** What an ending's graph reads beside the block's output, on the backend; nothing without an ending. */
export async function openEnding(input: PrepareInput, module: Module, ending: Ending | undefined) {
  const pool = createPool(input.programs.backend), tensors: Record<string, Tensor> = {};
  for (const [i, call] of (ending?.calls ?? []).entries()) {
    const { held } = await prepareCall(input, module, call, pool);
    for (const [name, tensor] of Object.entries(held)) tensors[heldName(i, name)] = tensor;
  }
  return { tensors: tensors as Readonly<Record<string, Tensor>>, release: () => pool.release() };
}
