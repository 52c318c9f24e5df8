/** What threads of a program do one after the other, and what of it they must not do at one time. */
import type { KernelBuffer } from "../kernel.ts";
import type { LoweredProgram, LoweredValue } from "../regions/program.ts";
import type { Span, TouchingStep } from "./barriers.ts";
import type { GeneratedKernel } from "./kernel.ts";
import type { TurnPlan } from "./turns.ts";

/** What threads do without meeting each other: a lowered step, or that one and the next, which take turns. */
export interface Entry {
  readonly step: number;
  readonly turn: TurnPlan | undefined;
}

/** The entries of a program, in order. */
export function entriesOf({ steps }: LoweredProgram, turns: readonly TurnPlan[]): readonly Entry[] {
  const byStep = new Map(turns.map((turn) => [turn.step, turn]));
  return steps.flatMap((_, step) => byStep.has(step - 1) ? [] : [{ step, turn: byStep.get(step) }]);
}

/** First and last step of the entry, for every step of it. */
export const rangesOf = ({ step, turn }: Entry): (readonly [first: number, last: number])[] =>
  turn ? [[step, step + 1], [step, step + 1]] : [[step, step]];

/** What an entry touches, of what its steps do. */
export function touchesTogether({ step, turn }: Entry, touches: readonly TouchingStep[]): TouchingStep {
  const own = touches[step] as TouchingStep;
  if (!turn) return own;
  const next = touches[step + 1] as TouchingStep;
  return { grid: turn.count, reads: [...own.reads, ...next.reads], writes: [...own.writes, ...next.writes] };
}

/** What the steps of a program touch. Temporaries are told apart by their place in the arena, tensors by the value they hold. */
export function touchesOf(
  { values, steps }: LoweredProgram,
  kernels: readonly Pick<GeneratedKernel, "grid">[],
  offsets: ReadonlyMap<number, number>,
  sizeOf: (value: number) => number,
): TouchingStep[] {
  const spanOf = (index: number): Span => {
    const home = values.indexOf(homeOf(values, index)), offset = offsets.get(home);
    return offset === undefined
      ? { space: home, from: 0, to: 1 }
      : { space: -1, from: offset, to: offset + sizeOf(home) };
  };
  return steps.map(({ kernel, bindings }, i) => {
    const { grid } = kernels[i] as Pick<GeneratedKernel, "grid">;
    const spans = (unless: KernelBuffer["use"]) =>
      kernel.buffers.flatMap(({ use }, j) => use === unless ? [] : [spanOf(bindings[j] ?? 0)]);
    return { grid, reads: spans("write"), writes: spans("read") };
  });
}

/** The value that owns the memory of another one. */
export function homeOf(values: readonly LoweredValue[], index: number): LoweredValue {
  const value = values[index];
  if (!value) throw new Error(`Internal error: the program has no value ${index}`);
  return value.inPlaceOf === undefined ? value : homeOf(values, value.inPlaceOf);
}
