/**
 * Which kernels of a program take turns. A product whose rows the next kernel reads row after row, and nobody else, need not be
 * written to the end before it is read: some rows of it are made, then used, then overwritten by the next ones. So it stays in the
 * cache, takes little memory, and threads need not wait for each other between the two.
 */
import type { LoweredProgram } from "../regions/program.ts";
import type { GeneratedKernel } from "./kernel.ts";

/** Steps that take turns. */
export interface TurnPlan {
  /** Index of the first of the two steps. */
  readonly step: number;
  /** The value between them, and elements of it that exist per thread. */
  readonly value: number;
  readonly elements: number;
  readonly count: number;
  /** Chunks of the two kernels in a turn. */
  readonly chunks: readonly [number, number];
}

/** More than that in a turn would leave the cache again. */
const MOST_ELEMENTS = 2 ** 20;
/** Less than that of a value is in the cache anyway. */
const LEAST_ELEMENTS = 2 ** 15;
/** Turns per thread that share out the work evenly enough. */
const TURNS = 4;

/** Finds all pairs of neighbours that can take turns, by the walks that their kernels declare. */
export function planTurns(
  { values, steps }: LoweredProgram,
  kernels: readonly Pick<GeneratedKernel, "grid" | "walks">[],
  threads: number,
): readonly TurnPlan[] {
  const plans: TurnPlan[] = [];
  for (let step = 0; step + 1 < steps.length; step++) {
    const plan = turnsOf(step);
    if (!plan) continue;
    plans.push(plan);
    step++;
  }
  return plans;

  function turnsOf(step: number): TurnPlan | undefined {
    const [first, second] = [steps[step], steps[step + 1]], [producer, consumer] = [kernels[step], kernels[step + 1]];
    if (!first || !second || !producer || !consumer) return undefined;
    const written = first.kernel.buffers.flatMap(({ use }, i) => use === "read" ? [] : [i]), [own = -1] = written;
    const value = first.bindings[own] ?? -1, from = producer.walks.get(own);
    if (written.length !== 1 || !from || values[value]?.role !== "temporary") return undefined;
    const isAlone =
      values.every(({ inPlaceOf }, i) => inPlaceOf !== value && (i !== value || inPlaceOf === undefined)) &&
      steps.every(({ bindings }, i) => i === step || i === step + 1 || !bindings.includes(value)) &&
      first.bindings.filter((each) => each === value).length === 1;
    const read = second.bindings.flatMap((each, i) => each === value ? [i] : []), [other = -1] = read;
    const to = consumer.walks.get(other);
    // What the second one overwrites, the first one may still have to read in its next turn.
    const overwrites = second.kernel.buffers.some(({ use }, i) =>
      use !== "read" && first.bindings.includes(second.bindings[i] ?? -1)
    );
    if (!isAlone || read.length !== 1 || !to || overwrites || from.elements % to.elements !== 0) return undefined;
    const count = Math.ceil(producer.grid / from.chunks), perTurn = from.elements / to.elements * to.chunks;
    const fits = from.elements <= MOST_ELEMENTS && from.elements * count >= LEAST_ELEMENTS;
    const agree = Math.ceil(consumer.grid / perTurn) === count;
    if (!fits || !agree || count < Math.max(2, TURNS * (threads - 1))) return undefined;
    return { step, value, elements: from.elements, count, chunks: [from.chunks, perTurn] };
  }
}
