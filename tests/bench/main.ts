/**
 * Benchmarks of the WebAssembly backend: `deno task bench [--json] [--threads N]`. Every figure is a median of repeated runs and
 * stands beside what the same machine reaches in the same process, since machines are noisy and differ.
 */
import { parseArgs } from "@std/cli/parse-args";
import { hostArray } from "../../backends/backend.ts";
import { openWasm } from "../../backends/wasm/backend.ts";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf } from "../../ir/node.ts";
import { random } from "../../ir/random.ts";
import { sizeOf, tensorType, unsignedType, type Width } from "../../ir/types.ts";

interface Result {
  readonly name: string;
  readonly threads: number;
  readonly median: number;
  readonly unit: "GFLOP/s" | "GB/s" | "us";
  /** Bytes per second of weights and scales, as a part of the copy bandwidth measured in this run. */
  readonly share?: number;
}

const REPEATS = 15;

/** Median seconds of one call. */
function median(call: () => void): number {
  for (let i = 0; i < 5; i++) call();
  const seconds = Array.from({ length: REPEATS }, () => {
    const start = performance.now();
    call();
    return (performance.now() - start) / 1000;
  });
  return seconds.sort((a, b) => a - b)[REPEATS >> 1] as number;
}

/** Seconds of one run of a graph on random leaves. */
async function timeGraph(graph: Graph, threads: number): Promise<number> {
  await using backend = await openWasm({ threads });
  const program = await backend.compile(graph), rng = random(1, "bench");
  const leaves = Object.fromEntries(
    Object.entries(program.leaves).map(([name, type]) => {
      const values = hostArray(type.dtype, sizeOf(type.shape));
      for (let i = 0; i < values.length; i++) values[i] = type.dtype === "f32" ? rng.normal() : rng.int(4);
      return [name, backend.upload(type, values)];
    }),
  );
  const outputs = backend.run(program, leaves);
  return median(() => backend.run(program, leaves, outputs));
}

/** x [m,k] times a weight [n,k]: in f32, or dequantized from codes with a scale and zero point per 128 columns. */
function product(m: number, n: number, k: number, width?: Width): Graph {
  const b = createBuilder(), x = b.input("x", tensorType("f32", [m, k]));
  const axes = { lhsContract: [1], rhsContract: [1] };
  if (width === undefined) {
    return graphOf({ y: b.dot(x, b.param("w", tensorType("f32", [n, k]), "configuration"), axes) });
  }
  const groups = k / 128, perGroup = tensorType("f32", [n, groups, 1]);
  const codes = b.param("codes", tensorType(unsignedType(width), [n, groups, 128]), "configuration");
  const centred = b.sub(b.cast(codes, "f32"), b.param("zero", perGroup, "configuration"));
  const w = b.reshape(b.mul(centred, b.param("scale", perGroup, "configuration")), [n, k]);
  return graphOf({ y: b.dot(x, w, axes) });
}

async function benchmarks(threads: number): Promise<Result[]> {
  const results: Result[] = [];
  const source = new Float32Array(1 << 25), target = new Float32Array(1 << 25);
  const bandwidth = 2 * source.byteLength / median(() => target.set(source)) / 1e9;
  results.push({ name: "copy 128 MiB", threads: 1, median: bandwidth, unit: "GB/s" });
  const peak = 2 * 256 * 2048 * 2048 / await timeGraph(product(256, 2048, 2048), threads) / 1e9;
  results.push({ name: "dot f32 256x2048x2048", threads, median: peak, unit: "GFLOP/s" });
  const small = 2 * 256 * 96 * 256 / await timeGraph(product(256, 256, 96), threads) / 1e9;
  results.push({ name: "dot f32 256x256x96", threads, median: small, unit: "GFLOP/s" });
  for (const width of [undefined, 8, 7, 6, 5, 4, 3, 2] as const) {
    const seconds = await timeGraph(product(1, 4096, 4096, width), threads), bits = width ?? 32;
    const bytes = 4096 * 4096 * bits / 8 + (width === undefined ? 0 : 2 * 4 * 4096 * 4096 / 128);
    const rate = bytes / seconds / 1e9;
    results.push({
      name: `mat-vec 4096x4096 ${width === undefined ? "f32" : `${width} bits, group 128`}`,
      threads,
      median: seconds * 1e6,
      unit: "us",
      share: rate / bandwidth,
    });
  }
  return results;
}

const options = parseArgs(Deno.args, { boolean: ["json"], string: ["threads"] });
for (const result of await benchmarks(Number(options.threads ?? navigator.hardwareConcurrency))) {
  const { name, threads, median: value, unit, share } = result;
  if (options.json) console.log(JSON.stringify(result));
  else {console.log(
      `${name.padEnd(40)} ${threads} threads ${value.toFixed(1).padStart(9)} ${unit}${
        share === undefined ? "" : `  ${(100 * share).toFixed(0)} % of copy bandwidth`
      }`,
    );}
}
Deno.exit(0);
