/**
 * Benchmarks of the WebAssembly backend: `deno task bench [--json | --markdown] [--threads N] [--only PATTERN] [--no-peers]
 * [--no-models]`; with a pattern, only products whose names match. Ceilings of the
 * machine are measured first; every figure is the median of five rounds, in which peers take turns with ours, since machines are
 * noisy and differ. A ratio above 1 says that we are faster.
 */
import { parseArgs } from "@std/cli/parse-args";
import type { Width } from "../../ir/types.ts";
import { openGraph, type Product, product } from "./cpu/graphs.ts";
import { matMul, matMulNBits } from "./cpu/onnx.ts";
import { openPeers } from "./cpu/onnx_runtime.ts";
import { benchCpuModels } from "./cpu/models.ts";
import { measureCpu } from "./cpu/roofline.ts";
import { benchLine, createReport, medianOf, refuseUnknown } from "./report.ts";

/** One product: ours and the model that peers run. */
interface Case extends Product {
  readonly name: string;
  readonly model?: () => Uint8Array;
}

/** Columns that share a scale and a zero point where peers run the same; recipes have one scale per row by default. */
const GROUP = 128;

const ROUNDS = 5;

const dense = (m: number, n: number, k: number): Case => ({
  name: `product ${m}x${n}x${k}, f32`,
  m,
  n,
  k,
  model: () => matMul(m, n, k),
});
const nameOf = ({ m, n, k, width, activations }: Product): string =>
  `product ${m}x${n}x${k}, w${width}${activations ? `a${activations}` : ""}`;
const quantized = (m: number, n: number, k: number, width: Width, activations?: Width): Case => {
  const own = { m, n, k, width, group: GROUP, ...(activations ? { activations } : {}) };
  // Peers have these widths; level 4 quantizes activations to 8 bits.
  const hasPeers = [2, 4, 8].includes(width) && (!activations || activations === 8);
  return {
    ...own,
    name: `${nameOf(own)}, group ${GROUP}`,
    ...(hasPeers ? { model: () => matMulNBits(m, n, k, width, GROUP, activations ? 4 : 0) } : {}),
  };
};
/** One scale per row, and more than caches hold. */
const perRow = (width: Width, activations?: Width): Case => {
  const own = { m: 1, n: 32_768, k: 2048, width, ...(activations ? { activations } : {}) };
  return { ...own, name: `${nameOf(own)}, scale per row` };
};

const CASES: readonly Case[] = [
  dense(256, 2048, 2048),
  dense(256, 256, 96),
  dense(1, 4096, 4096),
  ...([8, 7, 6, 5, 4, 3, 2] as const).map((width) => quantized(1, 4096, 4096, width)),
  ...([[8, 8], [6, 8], [4, 8], [4, 4], [3, 8], [2, 8]] as const).map(([w, a]) => quantized(1, 4096, 4096, w, a)),
  ...([8, 4, 3, 2] as const).map((width) => perRow(width)),
  ...([8, 4, 3, 2] as const).map((width) => perRow(width, 8)),
  quantized(256, 2048, 2048, 4),
  quantized(256, 2048, 2048, 8, 8),
  quantized(256, 2048, 2048, 4, 8),
];

const options = parseArgs(Deno.args, {
  unknown: refuseUnknown,
  boolean: ["json", "markdown", "peers", "models"],
  string: ["threads", "only"],
  negatable: ["peers", "models"],
  default: { peers: true, models: true },
});
const threads = Number(options.threads ?? navigator.hardwareConcurrency), only = new RegExp(options.only ?? "");
const report = createReport(options.json ? "json" : options.markdown ? "markdown" : "text");
const roofline = measureCpu(threads), peers = options.peers ? await openPeers(threads) : [];
const ceilings: readonly (readonly [string, number, string])[] = [
  ["read", roofline.read / 1e9, "GB/s"],
  ["f32 relaxed multiply-add", roofline.f32 / 1e9, "GFLOP/s"],
  ["int8 relaxed dot", roofline.int8 / 1e9, "GOP/s"],
];
for (const [name, median, unit] of ceilings) {
  report(benchLine({ name, backend: "wasm", threads, median, unit }));
}

/** Threads of others that still spin go to sleep within this time, in milliseconds. */
const REST = 50;

/**
 * Threads that slept wake up, cores clock up, and kernels are optimised within this time; then runs are counted for that time. Seconds.
 */
const WARMING = 0.12, COUNTED = 0.06;
/** Rounds on the same memory: what the pages of a matrix are can make it twice as slow in one process as in another. */
const PLACED = 2;

/** Seconds of one run of some in a row, behind others and a rest. */
async function secondsOf(run: () => unknown): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, REST));
  let count = 0, start = performance.now(), seconds = 0;
  for (let warm = false; !warm || seconds < COUNTED;) {
    await run();
    count++;
    seconds = (performance.now() - start) / 1000;
    if (warm || seconds < WARMING) continue;
    [warm, count, seconds, start] = [true, 0, 0, performance.now()];
  }
  return seconds / count;
}

for (const { name, model, ...own } of CASES.filter((each) => only.test(each.name))) {
  const { m, n, k, width, activations, group = k } = own;
  const open = () => openGraph(product(own), threads), bytes = model?.();
  const rivals = bytes
    ? await Promise.all(peers.map(async (peer) => ({ name: peer.name, run: await peer.open(bytes, m, k) })))
    : [];
  const times: number[] = [], theirs = rivals.map((): number[] => []);
  let ours = await open();
  for (let round = -1; round < ROUNDS; round++) {
    if (round > 0 && round % PLACED === 0) {
      await ours.close();
      ours = await open();
    }
    const own = await secondsOf(ours.run);
    if (round >= 0) times.push(own);
    for (const [i, { run }] of rivals.entries()) {
      if (run) {
        const other = await secondsOf(run);
        if (round >= 0) theirs[i]?.push(other);
      }
    }
  }
  await ours.close();
  const seconds = medianOf(times), operations = 2 * m * n * k;
  const weightBytes = n * k * (width ?? 32) / 8 + (width ? 8 * n * k / group : 0);
  // What must be read, or computed, whichever takes longer.
  const peak = activations && activations <= 8 ? roofline.int8 : roofline.f32;
  const bound = Math.max(weightBytes / roofline.read, operations / peak);
  const median = m === 1 ? seconds * 1e6 : operations / seconds / 1e9, unit = m === 1 ? "us" : "GFLOP/s";
  const line = benchLine({ name, backend: "wasm", threads, median, unit }, { roofline: bound / seconds });
  if (rivals.length === 0) report(line);
  for (const [i, { name: peer }] of rivals.entries()) {
    const other = theirs[i] ?? [];
    report({ ...line, peer, ratio: other.length > 0 ? medianOf(other) / seconds : null });
  }
}
if (options.models && options.only === undefined) {
  await benchCpuModels({ threads, roofline, withPeers: options.peers, report });
}
Deno.exit(0);
