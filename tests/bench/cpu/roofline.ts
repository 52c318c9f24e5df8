/** What one machine can do with the instructions that the WebAssembly backend uses, measured in the process that is benchmarked. */
import {
  createModule,
  f32x4,
  type FunctionBuilder,
  i16x8,
  i32,
  i32x4,
  type Local,
  v128,
} from "../../../backends/wasm/assembler.ts";

/** Ceilings at some number of threads: the best of several rounds, which neighbours of a shared machine disturb least. */
export interface CpuRoofline {
  /** Bytes per second of reading memory far larger than the caches. */
  readonly read: number;
  /** Operations per second; a multiply-add is two. */
  readonly f32: number;
  /** Operations per second of relaxed dot products of sixteen pairs of bytes, 32 each, as the faster of two ways sums them up. */
  readonly int8: number;
}

/** Accumulators of the loops: enough to hide the latency of one instruction, few enough for registers. */
const ACCUMULATORS = 12, UNROLL = 4, ROUNDS = 500_000;

/** What the loops compute with: two values, and where others lie in every round. */
interface Values {
  readonly x: Local<"v128">;
  readonly y: Local<"v128">;
  readonly at: Local<"i32">;
}

/** What adds to a sum, and how many multiplying instructions that is. */
const STEPS: Readonly<
  Record<"madd" | "fours" | "pairs", (b: FunctionBuilder, sum: Local<"v128">, of: Values) => number>
> = {
  madd: (b, sum, { x, y }) => {
    b.set(sum, f32x4.relaxed_madd(x, y, sum));
    return 1;
  },
  fours: (b, sum, { x, y }) => {
    b.set(sum, i32x4.relaxed_dot_i8x16_i7x16_add_s(x, y, sum));
    return 1;
  },
  /** Codes of four bits: eight sums of pairs fit 16 bits. They do not depend on the sum, so they must not be the same every round. */
  pairs: (b, sum, { x, at }) => {
    const words = b.local("words", "v128");
    for (let i = 0; i < 8; i++) {
      const pairs = i16x8.relaxed_dot_i8x16_i7x16_s(x, v128.load(at, 16 * i));
      b.set(words, i === 0 ? pairs : i16x8.add(words, pairs));
    }
    b.set(sum, i32x4.add(sum, i32x4.extadd_pairwise_i16x8_s(words)));
    b.set(at, i32.xor(at, 256));
    return 8;
  },
};

/** Multiplying instructions per second of one thread in a loop of nothing else. */
function instructionRate(kind: keyof typeof STEPS): number {
  let perRound = 0;
  const module = createModule();
  module.memory("memory");
  module.export(module.func("run", { at: "i32", rounds: "i32" }, (b, p) => {
    const sums = Array.from({ length: ACCUMULATORS }, (_, i) => b.let(`sum${i}`, v128.load(p.at, 16 * i)));
    const x = b.let("x", v128.load(p.at, 512)), y = b.let("y", v128.load(p.at, 528));
    const at = b.let("at", i32.add(p.at, 1024));
    b.for("i", 0, p.rounds, 1, () => {
      for (let u = 0; u < UNROLL; u++) {
        for (const sum of sums) perRound += STEPS[kind](b, sum, { x, y, at });
      }
    });
    sums.forEach((sum, i) => b.emit(v128.store(p.at, sum, 16 * i)));
  }));
  const memory = new WebAssembly.Memory({ initial: 1 });
  const { run } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env: { memory } }).exports;
  const call = run as (at: number, rounds: number) => void, seconds: number[] = [];
  for (let i = 0; i < 10; i++) call(0, 10_000);
  for (let i = 0; i < 7; i++) {
    const start = performance.now();
    call(0, ROUNDS);
    seconds.push((performance.now() - start) / 1000);
  }
  return perRound * ROUNDS / Math.min(...seconds);
}

/** Bytes that are read: far more than caches hold. */
const BYTES = 256 * 2 ** 20;

/** Bytes per second of one thread that reads memory from one end to the other. */
function readRate(): number {
  const module = createModule();
  module.memory("memory");
  module.export(module.func("run", { bytes: "i32" }, (b, p) => {
    const sums = Array.from({ length: 8 }, (_, i) => b.let(`sum${i}`, v128.load(0, 16 * i)));
    b.for("at", 0, p.bytes, 128, (at) => {
      for (const [i, sum] of sums.entries()) b.set(sum, v128.xor(sum, v128.load(at, 16 * i)));
    });
    sums.forEach((sum, i) => b.emit(v128.store(0, sum, 16 * i)));
  }));
  const memory = new WebAssembly.Memory({ initial: BYTES / 65536 });
  new Uint8Array(memory.buffer).fill(1);
  const { run } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env: { memory } }).exports;
  const call = run as (bytes: number) => void, seconds: number[] = [];
  for (let i = 0; i < 8; i++) {
    const start = performance.now();
    call(BYTES);
    if (i > 0) seconds.push((performance.now() - start) / 1000);
  }
  return BYTES / Math.min(...seconds);
}

/** Measures on one thread, and counts threads as if each had the memory and the core to itself. */
export function measureCpu(threads: number): CpuRoofline {
  return {
    read: readRate() * threads,
    f32: instructionRate("madd") * 8 * threads,
    int8: Math.max(instructionRate("fours"), instructionRate("pairs")) * 32 * threads,
  };
}
