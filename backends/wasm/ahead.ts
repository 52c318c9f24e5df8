/**
 * Columns of codes that are read four at a time, and those behind them a little ahead. Machines fetch memory by themselves only for
 * readers that walk straight on: four columns side by side, which share what they are multiplied by, would wait for every line. So
 * while four are used, a word of each line of the next four is read, from one end to the other, at the pace of using them.
 */
import { type FunctionBuilder, i32 } from "./assembler.ts";
import type { Index } from "./place.ts";

/** Bytes of a line of the caches. */
const LINE = 64;

/** What reads ahead. */
export interface Ahead {
  /** Begins with the line at an address. */
  start(at: Index): void;
  /** Reads the next bytes' lines; lines that have been read before cost little. */
  step(bytes: number): void;
  /** Keeps what was read, which nothing needs, at an address: engines do not compute what nothing keeps. */
  keep(at: Index): void;
}

/** Declares what reading ahead needs. */
export function createAhead(b: FunctionBuilder): Ahead {
  const next = b.let("ahead", i32.const(0)), seen = b.let("seen", i32.const(0));
  return {
    start: (at) => b.set(next, at),
    step(bytes) {
      for (let offset = 0; offset < bytes; offset += LINE) {
        b.set(seen, i32.xor(seen, i32.load(next, { offset, align: 1 })));
      }
      b.set(next, i32.add(next, bytes));
    },
    keep: (at) => b.emit(i32.store(at, seen)),
  };
}
