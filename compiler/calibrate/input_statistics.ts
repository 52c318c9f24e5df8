/** How large the values are that linears read, column by column: what scales of columns and clips are searched with. */
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf, type Node } from "../../ir/node.ts";
import { tensorType } from "../../ir/types.ts";
import { inputNames } from "../passes/quantize/insert_activation_quantizers.ts";
import { linearsOf } from "../passes/quantize/linears.ts";
import { stage } from "../passes/stage.ts";
import type { Batches, Values } from "./batches.ts";
import { type ExactCall, type ExactProgram, sumResults } from "./exact_call.ts";
import { TRAIN_LEAVES } from "./train_program.ts";

/** What is known of one value that linears read, f32[columns] each. */
export interface InputStatistics {
  /** Mean of |x| over tokens. */
  readonly magnitude: Float32Array;
  /** Mean of x². */
  readonly power: Float32Array;
}

/** Statistics of every value that linears of a call read, by the name of the value (see `inputNames`). */
export async function inputStatistics(
  exact: ExactCall,
  graph: Graph,
  name: string,
  batches: Batches,
  track: readonly Values[],
): Promise<ReadonlyMap<string, InputStatistics>> {
  const sums = await sumResults(exact, namedStatistics(graph, name), batches, track);
  const tokens = batches.list.reduce((all, { weights }) => weights.reduce((a, b) => a + b, all), 0);
  const mean = (output: string) => Float32Array.from(sums.get(output) ?? [], (sum) => sum / Math.max(1, tokens));
  return new Map(
    [...new Set(inputNames(graph).values())].map((input) => [input, {
      magnitude: mean(`${input}.magnitude`),
      power: mean(`${input}.power`),
    }]),
  );
}

/** The statistics of a function as a program of its exact calls. */
export const namedStatistics = (graph: Graph, name: string): ExactProgram => ({
  name: `statistics ${name}`,
  graph: () => statisticsProgram(graph),
});

/** `<input>.magnitude` and `<input>.power` f32[columns]: sums of |x| and x² over the weighted tokens of a batch. */
export function statisticsProgram(graph: Graph): Graph {
  const b = createBuilder(), names = inputNames(graph), outputs: Record<string, Node> = {};
  for (const { name, source, sourceShape } of linearsOf(graph)) {
    const input = names.get(name) ?? name, x = b.reshape(b.adopt(source), sourceShape);
    const tokens = sourceShape.slice(0, -1),
      weights = b.input(TRAIN_LEAVES.tokenWeights, tensorType("f32", [...tokens, 1]));
    const sum = (values: Node) => b.sum(b.mul(values, weights), tokens.map((_, axis) => axis));
    outputs[`${input}.magnitude`] = b.reshape(sum(b.abs(x)), [sourceShape.at(-1) ?? 1]);
    outputs[`${input}.power`] = b.reshape(sum(b.mul(x, x)), [sourceShape.at(-1) ?? 1]);
  }
  return stage(graphOf(outputs)).step;
}
