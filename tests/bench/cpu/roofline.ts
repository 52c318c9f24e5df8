/** What one machine can do with the instructions that the WebAssembly backend uses, measured in the process that is benchmarked. */
import { createModule, f32x4, i32x4, v128 } from "../../../backends/wasm/assembler.ts";
import { medianOf } from "../report.ts";

/** Ceilings at some number of threads. */
export interface CpuRoofline {
  /** Bytes per second of reading memory far larger than the caches. */
  readonly read: number;
  /** Operations per second; a multiply-add is two. */
  readonly f32: number;
  /** Operations per second of the relaxed dot product of sixteen pairs of bytes, 32 each. */
  readonly int8: number;
}

/** Accumulators of the loops: enough to hide the latency of one instruction, few enough for registers. */
const ACCUMULATORS = 12, UNROLL = 4, ROUNDS = 500_000;

/** Instructions per second of one thread in a loop of nothing else. */
function instructionRate(kind: "madd" | "dot"): number {
  const module = createModule();
  module.memory("memory");
  module.export(module.func("run", { at: "i32", rounds: "i32" }, (b, p) => {
    const sums = Array.from({ length: ACCUMULATORS }, (_, i) => b.let(`sum${i}`, v128.load(p.at, 16 * i)));
    const x = b.let("x", v128.load(p.at, 512)), y = b.let("y", v128.load(p.at, 528));
    b.for("i", 0, p.rounds, 1, () => {
      for (let u = 0; u < UNROLL; u++) {
        for (const sum of sums) {
          b.set(sum, kind === "madd" ? f32x4.relaxed_madd(x, y, sum) : i32x4.relaxed_dot_i8x16_i7x16_add_s(x, y, sum));
        }
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
  return ACCUMULATORS * UNROLL * ROUNDS / medianOf(seconds);
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
  return BYTES / medianOf(seconds);
}

/** Measures on one thread, and counts threads as if each had the memory and the core to itself. */
export function measureCpu(threads: number): CpuRoofline {
  return {
    read: readRate() * threads,
    f32: instructionRate("madd") * 8 * threads,
    int8: instructionRate("dot") * 32 * threads,
  };
}
