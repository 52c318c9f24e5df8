/**
 * Slots for intermediate values: WebGPU refuses a buffer that one kernel reads and writes in two ranges, so values share memory by taking
 * turns in whole buffers instead of lying in one arena.
 */
import type { TensorType } from "../../ir/types.ts";
import type { MemoryPlan } from "../backend.ts";
import type { LoweredProgram, LoweredValue } from "../regions/program.ts";

/** Which slot every intermediate value has. */
export interface SlotPlan extends MemoryPlan {
  /** Bytes of each slot, largest first. */
  readonly sizes: readonly number[];
  /** Slot by index of the value. */
  readonly slotOf: ReadonlyMap<number, number>;
}

/** Index of the value that owns the memory of another one. */
export function homeOf(values: readonly LoweredValue[], index: number): number {
  const home = values[index]?.inPlaceOf;
  return home === undefined ? index : homeOf(values, home);
}

/** Plans slots: values in order of decreasing size, each in the first slot that is free during its whole life. */
export function planSlots({ values, steps }: LoweredProgram, bytesOf: (type: TensorType) => number): SlotPlan {
  const lives = new Map<number, { from: number; to: number }>();
  steps.forEach(({ bindings }, step) => {
    for (const index of bindings.map((binding) => homeOf(values, binding))) {
      if (values[index]?.role === "temporary") lives.set(index, { from: lives.get(index)?.from ?? step, to: step });
    }
  });
  const waiting = [...lives].map(([index, life]) => {
    const { name, type } = values[index] as LoweredValue;
    return { index, name, bytes: bytesOf(type), ...life };
  }).sort((a, b) => b.bytes - a.bytes || a.index - b.index);
  const slots: { bytes: number; users: typeof waiting }[] = [];
  const slotOf = new Map<number, number>();
  for (const value of waiting) {
    const free = slots.findIndex(({ users }) => users.every(({ from, to }) => to < value.from || value.to < from));
    const at = free >= 0 ? free : slots.push({ bytes: value.bytes, users: [] }) - 1;
    slots[at]?.users.push(value);
    slotOf.set(value.index, at);
  }
  const starts = slots.map((_, i) => slots.slice(0, i).reduce((sum, { bytes }) => sum + bytes, 0));
  return {
    arenaBytes: slots.reduce((sum, { bytes }) => sum + bytes, 0),
    scratchBytes: 0,
    entries: waiting.map(({ index, ...entry }) => ({ ...entry, offset: starts[slotOf.get(index) ?? 0] ?? 0 }))
      .sort((a, b) => a.from - b.from || a.offset - b.offset),
    sizes: slots.map(({ bytes }) => bytes),
    slotOf,
  };
}
