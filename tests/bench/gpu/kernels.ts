/** Single kernels on a GPU, as the compiler's passes build them. */
import { type Backend, hostArray, type Tensor } from "../../../backends/backend.ts";
import { contractIntegers } from "../../../compiler/passes/contract_integers.ts";
import { contractGroups } from "../../../compiler/passes/quantize/contract_groups.ts";
import { simplifyGraph } from "../../../compiler/passes/structure/simplify.ts";
import { perTokenQuantizer } from "../../../ir/composites/quantizers.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { bitsOf, sizeOf, type TensorType, tensorType, unsignedType, type Width } from "../../../ir/types.ts";
import { type BenchLine, benchLine, medianOf } from "../report.ts";
import type { GpuRoofline } from "./roofline.ts";

/** More bytes of weights than any cache holds: kernels take turns on copies of theirs. */
const WORKING_SET = 256e6;

/** Seconds of one run, on `copies` sets of parameters in turn. */
async function timeGraph(backend: Backend, graph: Graph): Promise<number> {
  const program = await backend.compile(graph), rng = random(1, "gpu bench");
  const upload = (type: TensorType): Tensor => {
    const values = hostArray(type.dtype, sizeOf(type.shape)),
      most = type.dtype === "f32" ? 0 : 2 ** bitsOf(type.dtype) - 1;
    for (let i = 0; i < values.length; i++) values[i] = most === 0 ? rng.uniform() - 0.5 : i * 7 & most;
    return backend.upload(type, values);
  };
  const leaves = Object.entries(program.leaves),
    bytes = leaves.reduce((sum, [, type]) => sum + sizeOf(type.shape) * bitsOf(type.dtype) / 8, 0);
  const copies = Math.min(64, Math.max(1, Math.ceil(WORKING_SET / bytes)));
  const first = Object.fromEntries(leaves.map(([name, type]) => [name, upload(type)]));
  // Codes are what fills the caches; copies of them have zeros, which cost the same.
  const sets = Array.from(
    { length: copies },
    (_, i) =>
      i === 0 ? first : Object.fromEntries(
        leaves.map(([name, type]) => [name, name === "x" ? first[name] as Tensor : backend.allocate(type)]),
      ),
  );
  const outputs = backend.run(program, first), [result] = Object.values(outputs) as [Tensor];
  await backend.download(result);
  const runs = async (count: number) => {
    const start = performance.now();
    for (let i = 0; i < count; i++) backend.run(program, sets[i % copies] ?? first, outputs);
    await backend.download(result);
    return (performance.now() - start) / 1000;
  };
  let count = 4 * copies;
  await runs(count);
  while (await runs(count) < 0.1 && count < 20_000) count *= 2;
  const differences: number[] = [];
  for (let i = 0; i < 5; i++) differences.push((await runs(count + 1) - await runs(1)) / count);
  for (const tensor of new Set([...sets.flatMap((set) => Object.values(set)), ...Object.values(outputs)])) {
    backend.free(tensor);
  }
  return Math.max(medianOf(differences), 1e-9);
}

/** x [m,k] times weights [n,k] at a width, scale and zero point per row; activations in f32 or quantized per token. */
function linear(m: number, n: number, k: number, width: Width | undefined, activations: Width | undefined): Graph {
  const b = createBuilder(), input = b.input("x", tensorType("f32", [m, k]));
  const axes = { lhsContract: [1], rhsContract: [1] };
  if (width === undefined) {
    return graphOf({ y: b.dot(input, b.param("w", tensorType("f32", [n, k]), "configuration"), axes) });
  }
  const perRow = tensorType("f32", [n, 1]),
    codes = b.param("codes", tensorType(unsignedType(width), [n, k]), "configuration");
  const zero = b.param("zero", perRow, "configuration"), scale = b.param("scale", perRow, "configuration");
  const w = b.mul(b.sub(b.cast(codes, "f32"), zero), scale);
  const x = activations === undefined
    ? input
    : perTokenQuantizer(b, input, { top: 2 ** (activations - 1) - 1, codes: `i${activations}` as "i8" });
  return simplifyGraph(contractIntegers(contractGroups(graphOf({ y: b.dot(x, w, axes) }))));
}

/** Attention of one sequence of LLaMA-7B's shape. */
function attention(tokens: number, context: number): Graph {
  const b = createBuilder(), of = (name: string, rows: number) => b.input(name, tensorType("f32", [1, rows, 32, 128]));
  const q = of("q", tokens), k = of("k", context), v = of("v", context);
  if (tokens === context) return graphOf({ y: b.attention(q, k, v, { scale: 128 ** -0.5, causal: true }) });
  return graphOf({ y: b.attention(q, k, v, { scale: 128 ** -0.5, causal: false }) });
}

/** Times everything, a line each; what fails is reported and does not stop the rest. */
export async function benchKernels(
  backend: Backend,
  roofline: GpuRoofline,
  report: (line: BenchLine) => void,
  only: RegExp,
): Promise<void> {
  const attempt = async (name: string, graph: () => Graph, line: (seconds: number) => Partial<BenchLine>) => {
    if (!only.test(name)) return;
    try {
      const seconds = await timeGraph(backend, graph());
      report(benchLine({ name, backend: "webgpu", threads: 0, median: NaN, unit: "" }, line(seconds)));
    } catch (error) {
      console.error(`${name}: ${error instanceof Error ? error.message : error}`);
    }
  };
  for (const [n, k] of [[4096, 4096], [11008, 4096]] as const) {
    for (
      const [width, activations] of [[undefined], [8], [4], [3], [2], [8, 8], [4, 8], [4, 4]] as readonly [
        Width?,
        Width?,
      ][]
    ) {
      const name = `mat-vec ${n}x${k} ${width === undefined ? "f32" : `w${width}`}${
        activations ? `a${activations}` : ""
      }`;
      const bytes = n * k * (width ?? 32) / 8 + (width === undefined ? 0 : 8 * n);
      await attempt(name, () => linear(1, n, k, width, activations), (seconds) => ({
        median: bytes / seconds / 1e9,
        unit: "GB/s",
        roofline: bytes / seconds / roofline.read,
      }));
    }
  }
  for (const [width, activations] of [[undefined], [4], [8, 8], [4, 4]] as readonly [Width?, Width?][]) {
    const [m, n, k] = [512, 4096, 4096], peak = activations ? roofline.int8 : roofline.f32;
    const name = `product ${m}x${n}x${k} ${width === undefined ? "f32" : `w${width}`}${
      activations ? `a${activations}` : ""
    }`;
    await attempt(name, () => linear(m, n, k, width, activations), (seconds) => ({
      median: 2 * m * n * k / seconds / 1e9,
      unit: "GFLOP/s",
      roofline: 2 * m * n * k / seconds / peak,
    }));
  }
  await attempt("attention, 1024 tokens", () => attention(1024, 1024), (seconds) => ({
    median: 2 * 2 * 1024 * 1024 / 2 * 4096 / seconds / 1e9,
    unit: "GFLOP/s",
    roofline: 2 * 2 * 1024 * 1024 / 2 * 4096 / seconds / roofline.f32,
  }));
  await attempt("attention, 1 token on 2048", () => attention(1, 2048), (seconds) => ({
    median: 2 * 2048 * 4096 * 4 / seconds / 1e9,
    unit: "GB/s",
    roofline: 2 * 2048 * 4096 * 4 / seconds / roofline.read,
  }));
}
