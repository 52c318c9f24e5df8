/** Where intermediate values lie: one arena, in which values that are not alive together share room. */
import type { MemoryPlan, PlannedValue } from "./backend.ts";
import type { LoweredProgram } from "./regions/program.ts";

/** A plan, with the offset of every temporary by index of its value. */
export interface PlannedProgram extends Omit<MemoryPlan, "scratchBytes"> {
  readonly offsets: ReadonlyMap<number, number>;
}

/**
 * Plans the arena: values in order of decreasing size, each at the lowest offset that is free during its whole life.
 *
 * @param bytesOf room that a value needs, by index
 * @param alignment of every offset, bytes
 * @param together first and last step of those that a step runs alternately with: what one of them reads must outlive them all
 */
export function planMemory(
  program: LoweredProgram,
  bytesOf: (value: number) => number,
  alignment: number,
  together: (step: number) => readonly [first: number, last: number] = (step) => [step, step],
): PlannedProgram {
  const lives = new Map<number, { from: number; to: number }>();
  program.steps.forEach(({ bindings }, step) => {
    const [from, to] = together(step);
    for (const index of bindings) {
      if (program.values[index]?.role !== "temporary" || program.values[index]?.inPlaceOf !== undefined) continue;
      const life = lives.get(index);
      lives.set(index, { from: life?.from ?? from, to });
    }
  });
  const up = (bytes: number) => Math.ceil(bytes / alignment) * alignment;
  const waiting = [...lives].map(([index, life]) => {
    const { name } = program.values[index] as LoweredProgram["values"][number];
    return { index, name, bytes: up(bytesOf(index)), ...life };
  }).sort((a, b) => b.bytes - a.bytes || a.index - b.index);
  const placed: (PlannedValue & { index: number })[] = [];
  for (const { index, name, bytes, from, to } of waiting) {
    const rivals = placed.filter((other) => other.from <= to && from <= other.to).sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const other of rivals) {
      if (offset + bytes <= other.offset) break;
      offset = Math.max(offset, other.offset + other.bytes);
    }
    placed.push({ index, name, bytes, from, to, offset });
  }
  return {
    arenaBytes: placed.reduce((most, { offset, bytes }) => Math.max(most, offset + bytes), 0),
    entries: placed.map(({ index: _, ...entry }) => entry).sort((a, b) => a.from - b.from || a.offset - b.offset),
    offsets: new Map(placed.map(({ index, offset }) => [index, offset])),
  };
}
