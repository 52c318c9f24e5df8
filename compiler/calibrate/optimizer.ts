/** AdamW without decay (which is Adam) on flat arrays, and the learning rate's schedule (quept-method 8.2). */
import type { Tensor } from "../../backends/backend.ts";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf } from "../../ir/node.ts";
import { tensorType } from "../../ir/types.ts";
import { narrowestUser } from "../adapters.ts";
import type { Recipe } from "../recipe.ts";
import type { LearnedLayout } from "./learned.ts";
import type { Programs, TensorPool } from "./programs.ts";
import type { CalibrationSettings } from "./settings.ts";

const BETA1 = 0.9, BETA2 = 0.999, EPSILON = 1e-8;

/** Scalars that change per step: the rate, and the corrections of the moments' bias. */
export interface StepScalars {
  readonly rate: number;
  readonly correction1: number;
  readonly correction2: number;
}

/** Scalars of step `t` (counted from 1) of `total`, with the cosine from `rate` to a hundredth of it, no warm-up. */
export function stepScalars(t: number, total: number, rate: number): StepScalars {
  const least = rate / 100, done = (t - 1) / total;
  return {
    rate: least + (rate - least) * (1 + Math.cos(Math.PI * done)) / 2,
    correction1: 1 / (1 - BETA1 ** t),
    correction2: 1 / (1 - BETA2 ** t),
  };
}

/**
 * One step on `n` values: leaves and outputs `values`, `moment1`, `moment2`, `gradient`, all f32[n] and all in place; the
 * gradient is left at zero. Scalar leaves `rate`, `correction1`, `correction2`, f32[1].
 */
export function adamProgram(n: number): Graph {
  const b = createBuilder(), flat = tensorType("f32", [n]), scalar = tensorType("f32", [1]);
  const [values, moment1, moment2, gradient] = ["values", "moment1", "moment2", "gradient"].map((name) =>
    b.input(name, flat)
  ) as [ReturnType<typeof b.input>, ReturnType<typeof b.input>, ReturnType<typeof b.input>, ReturnType<typeof b.input>];
  const mean = b.add(b.mul(moment1, BETA1), b.mul(gradient, 1 - BETA1));
  const square = b.add(b.mul(moment2, BETA2), b.mul(b.mul(gradient, gradient), 1 - BETA2));
  const step = b.div(
    b.mul(mean, b.input("correction1", scalar)),
    b.add(b.sqrt(b.mul(square, b.input("correction2", scalar))), EPSILON),
  );
  return graphOf({
    values: b.sub(values, b.mul(step, b.input("rate", scalar))),
    moment1: mean,
    moment2: square,
    gradient: b.mul(gradient, 0),
  });
}

/** Everything in place. */
export const ADAM_IN_PLACE = {
  values: "values",
  moment1: "moment1",
  moment2: "moment2",
  gradient: "gradient",
} as const;

/** The flat arrays of a block that Adam works on. */
export type OptimizerState = Readonly<Record<"learned" | "moment1" | "moment2" | "gradient", Tensor>>;

/** What decides the parts and their rates. */
export interface OptimizerInput {
  readonly layout: LearnedLayout;
  readonly settings: CalibrationSettings;
  readonly recipe: Recipe;
}

/** Rate of adapters that count steps of a grid, in rates of those that are added to weights; see `CalibrationSettings`. */
const GRID_RATE = 10;

/** Learning rate of a pair of adapters at the start: the narrowest width that uses it decides how far its columns may move in a step. */
export function adapterRateOf({ settings, recipe: { scheme } }: Omit<OptimizerInput, "layout">, pair: string): number {
  // A step of the grid is as long at every width already.
  if (scheme.adapterSpace !== "weight") return settings.adapterRate * GRID_RATE;
  const width = narrowestUser(scheme.adapters, pair) ?? 2;
  return settings.adapterRate * 2 ** (-settings.rateSlope * Math.max(0, width - 4));
}

/** Adam on the parts of the flat arrays: the clips, and the adapters pair by pair, each with a rate of its own. */
export async function openOptimizer(
  programs: Programs,
  pool: TensorPool,
  { layout, settings, recipe }: OptimizerInput,
  flat: OptimizerState,
): Promise<(step: number, steps: number) => void> {
  const { backend } = programs, scalar = () => pool.allocate(tensorType("f32", [1]));
  const corrections = { correction1: scalar(), correction2: scalar() };
  const part = async (offset: number, length: number, start: number) => {
    const run = await programs.get(`adam ${length}`, () => adamProgram(length), {}, { inPlace: ADAM_IN_PLACE });
    const view = (tensor: Tensor) => backend.view(tensor, offset, tensorType("f32", [length]));
    const leaves = {
      values: view(flat.learned),
      moment1: view(flat.moment1),
      moment2: view(flat.moment2),
      gradient: view(flat.gradient),
      rate: scalar(),
      ...corrections,
    };
    return { run, leaves, start };
  };
  const parts = layout.clips > 0 ? [await part(0, layout.clips, settings.clipRate)] : [];
  for (const { pair, offset, length } of layout.pairs) {
    parts.push(await part(offset, length, adapterRateOf({ settings, recipe }, pair)));
  }
  return (step, steps) => {
    // All writes, then all runs: what is written between runs would part a GPU's submission.
    for (const { leaves, start } of parts) {
      backend.write(leaves.rate, Float32Array.of(stepScalars(step, steps, start).rate));
    }
    const { correction1, correction2 } = stepScalars(step, steps, 0);
    backend.write(corrections.correction1, Float32Array.of(correction1));
    backend.write(corrections.correction2, Float32Array.of(correction2));
    for (const { run, leaves } of parts) backend.run(run, leaves);
  };
}
