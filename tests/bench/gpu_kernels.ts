/**
 * Variants of kernels side by side on a GPU: `deno run -A tests/bench/gpu_kernels.ts [--match TEXT] [--json] [--shrink N]`. For every kernel of
 * gpu_specs.ts each variant's time, bytes and operations per second, share of the copy bandwidth measured in the same process, and
 * the largest difference of its results from those of the general variant. Variants that read halves as such
 * or exchange registers are timed once more without. `--shrink` divides sizes, to try the script on a slow device.
 */
import { parseArgs } from "@std/cli/parse-args";
import type { KernelSpec } from "../../backends/kernel.ts";
import { generateKernel } from "../../backends/webgpu/kernel.ts";
import { bytesOf, pack } from "../../backends/webgpu/layout.ts";
import { subgroupOf } from "../../backends/webgpu/device.ts";
import { type KernelTraits, PORTABLE } from "../../backends/webgpu/traits.ts";
import { GENERAL, kernelVariants } from "../../backends/webgpu/variants.ts";
import { random } from "../../ir/random.ts";
import { sizeOf } from "../../ir/types.ts";
import { openTestGpu } from "../gpu.ts";
import { attention, ATTENTIONS, linear, LINEARS, type LinearShape } from "./gpu_specs.ts";
import { refuseUnknown } from "./report.ts";

/** Weights of one kernel lie in so many bytes of copies, several times any cache. */
const SPREAD = 512 * 2 ** 20;
const MOST_COPIES = 48;

const args = parseArgs(Deno.args, { unknown: refuseUnknown, string: ["match", "shrink"], boolean: ["json"] });
const shrink = Number(args.shrink ?? 1);
const device = await openDevice(), queue = device.queue;
const plain: KernelTraits = {
  scratch: true,
  workgroupBytes: device.limits.maxComputeWorkgroupStorageSize,
  packedDots: (navigator.gpu as { wgslLanguageFeatures?: ReadonlySet<string> }).wgslLanguageFeatures
    ?.has("packed_4x8_integer_dot_product") ?? false,
  halves: false,
};
const subgroup = await subgroupOf(device), halves = device.features.has("shader-f16");
const traits: KernelTraits = { ...plain, halves, ...(subgroup ? { subgroup } : {}) };

async function openDevice(): Promise<GPUDevice> {
  const device = await openTestGpu();
  if (!device) throw new Error("No WebGPU adapter found");
  const { description, vendor } = device.adapterInfo;
  console.error(`adapter ${description || vendor}, features ${[...device.features].join(" ")}`);
  return device;
}

type Pass = (pass: GPUComputePassEncoder, n: number) => void;

/** Seconds of one of many dispatches in one pass: the difference of a long and a short run, which cancels what a submission costs. */
async function secondsOf(encode: Pass): Promise<number> {
  const run = async (n: number) => {
    const encoder = device.createCommandEncoder(), start = performance.now();
    const pass = encoder.beginComputePass();
    encode(pass, n);
    pass.end();
    queue.submit([encoder.finish()]);
    await queue.onSubmittedWorkDone();
    return (performance.now() - start) / 1000;
  };
  await run(2);
  const once = Math.max(await run(2) - 0.011, 1e-5) / 2;
  const n = Math.max(2, Math.min(400, Math.round(0.03 / once)));
  const times: number[] = [];
  for (let i = 0; i < 3; i++) times.push((await run(3 * n) - await run(n)) / (2 * n));
  return times.sort((a, b) => a - b)[1] as number;
}

const buffer = (size: number, usage = 0) =>
  device.createBuffer({
    size: Math.ceil(size / 16) * 16,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST | usage,
  });

async function read(from: GPUBuffer): Promise<Float32Array> {
  const staging = device.createBuffer({ size: from.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(from, 0, staging, 0, from.size);
  queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const values = new Float32Array(staging.getMappedRange().slice(0));
  staging.destroy();
  return values;
}

/** Pipelines of a kernel's dispatches. */
async function pipelinesOf(spec: KernelSpec, variant: string, own: KernelTraits) {
  const kernel = generateKernel(spec, own, variant);
  const types = spec.buffers.map(({ use }): GPUBufferBindingType => use === "read" ? "read-only-storage" : "storage");
  types.push(...kernel.tables.map(() => "uniform" as const), ...kernel.scratch.map(() => "storage" as const));
  const layout = device.createBindGroupLayout({
    entries: types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } })),
  });
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: kernel.text });
  const start = performance.now();
  const steps = kernel.dispatches.map(({ entryPoint, grid }) => ({
    grid,
    pipeline: device.createComputePipeline({
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint },
    }),
  }));
  const compile = performance.now() - start, error = await device.popErrorScope();
  if (error) throw new Error(`${variant}: ${error.message}`);
  return { layout, steps, compile, scratch: kernel.scratch.map((bytes) => buffer(bytes)) };
}

/** Bytes per second of a copy, read and written. */
async function copyBandwidth(): Promise<number> {
  const size = Math.floor(SPREAD / shrink / 1024) * 1024, from = buffer(size), to = buffer(size);
  const module = device.createShaderModule({
    code: `@group(0) @binding(0) var<storage, read> from: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> to: array<vec4<u32>>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let at = (id.y * 65535u + id.x) * 256u + lane;
  if (at < arrayLength(&from)) { to[at] = from[at]; }
}`,
  });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [from, to].map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  const groups = Math.ceil(size / 16 / 256);
  const seconds = await secondsOf((pass, n) => {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    for (let i = 0; i < n; i++) pass.dispatchWorkgroups(Math.min(groups, 65535), Math.ceil(groups / 65535));
  });
  from.destroy();
  to.destroy();
  return 2 * size / seconds;
}

/** Words of codes: every pattern of bits is one. */
const words = random(0, "bench.codes");
const CODES = Uint32Array.from({ length: 2 ** 18 + 3 }, () => words.int(2 ** 30) * 4 + words.int(4));

/** A buffer of plausible values: any bits for codes, small floats. */
function filled(spec: KernelSpec, i: number): GPUBuffer {
  const { type } = spec.buffers[i] as KernelSpec["buffers"][number], made = buffer(bytesOf(type));
  const draw = random(0, `bench.${i}`), count = Math.min(sizeOf(type.shape), 2 ** 16);
  if (type.dtype === "f32" || type.dtype === "f16" || type.dtype === "i32") {
    // Positions are those of the last tokens of a full context; other integers are sums of codes.
    const { buffers } = spec, first = spec.kind === "attention" ? spec.context - spec.tokens : 0;
    const integer = (at: number) => buffers[i]?.name === "positions" ? first + at : draw.int(9);
    const floats = Float32Array.from(
      { length: count },
      (_, at) => type.dtype === "i32" ? integer(at) : draw.normal() / 8,
    );
    const words = pack({ ...type, shape: [count] }, type.dtype === "i32" ? Int32Array.from(floats) : floats);
    for (let at = 0; at < made.size; at += words.byteLength) {
      queue.writeBuffer(made, at, words, 0, Math.min(words.length, (made.size - at) / 4));
    }
  } else {
    for (let at = 0; at < made.size; at += CODES.byteLength) {
      queue.writeBuffer(made, at, CODES, 0, Math.min(CODES.length, (made.size - at) / 4));
    }
  }
  return made;
}

interface Row {
  readonly name: string;
  readonly variant: string;
  readonly microseconds: number;
  readonly gigabytesPerSecond: number;
  readonly teraopsPerSecond: number;
  /** Of the copy bandwidth. */
  readonly share: number;
  readonly compileMilliseconds: number;
  /** Largest difference from the general variant, over the largest result. */
  readonly difference: number;
}

/** What is timed: every variant, the general one first, and those whose text is another one on plainer devices as it is there, too. */
function candidates(spec: KernelSpec): { readonly variant: string; readonly own: KernelTraits }[] {
  return [GENERAL, ...kernelVariants(spec, traits).filter((v) => v !== GENERAL)].flatMap((variant) => {
    const known = kernelVariants(spec, plain).includes(variant);
    const differs = known && generateKernel(spec, traits, variant).text !== generateKernel(spec, plain, variant).text;
    return [{ variant, own: traits }, ...(differs ? [{ variant, own: plain }] : [])];
  });
}

async function timeVariants(name: string, spec: KernelSpec, operations: number, bandwidth: number): Promise<void> {
  const bytes = spec.buffers.reduce((sum, { type }) => sum + bytesOf(type), 0);
  const copies = Math.max(1, Math.min(MOST_COPIES, Math.ceil(SPREAD / shrink / bytes)));
  const shared = spec.buffers.map(({ use, type }, i) =>
    use !== "read" || bytesOf(type) < 2 ** 20 ? filled(spec, i) : undefined
  );
  const sets = Array.from({ length: copies }, () => shared.map((found, i) => found ?? filled(spec, i)));
  const output = spec.buffers.findIndex(({ use }) => use === "write");
  let truth: Float32Array | undefined;
  for (const { variant, own } of candidates(spec)) {
    const { layout, steps, compile, scratch } = await pipelinesOf(spec, variant, own);
    const groups = sets.map((set) =>
      device.createBindGroup({
        layout,
        entries: [...set, ...scratch].map((buffer, binding) => ({ binding, resource: { buffer } })),
      })
    );
    const encode: Pass = (pass, n) => {
      for (let i = 0; i < n; i++) {
        pass.setBindGroup(0, groups[i % copies] as GPUBindGroup);
        for (const { pipeline, grid } of steps) {
          pass.setPipeline(pipeline);
          pass.dispatchWorkgroups(...grid);
        }
      }
    };
    const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
    encode(pass, 1);
    pass.end();
    queue.submit([encoder.finish()]);
    const values = await read(sets[0]?.[output] as GPUBuffer);
    truth ??= values;
    let largest = 0, difference = 0;
    for (const [i, x] of truth.entries()) {
      largest = Math.max(largest, Math.abs(x));
      difference = Math.max(difference, Math.abs(x - (values[i] ?? NaN)));
    }
    const seconds = await secondsOf(encode);
    report({
      name,
      variant: own === traits ? variant : `${variant}, plain`,
      microseconds: seconds * 1e6,
      gigabytesPerSecond: bytes / seconds / 1e9,
      teraopsPerSecond: operations / seconds / 1e12,
      share: bytes / seconds / bandwidth,
      compileMilliseconds: compile,
      difference: largest === 0 ? NaN : difference / largest,
    });
  }
  for (const made of new Set(sets.flat())) made.destroy();
}

function report(row: Row): void {
  if (args.json) return console.log(JSON.stringify(row));
  const { name, variant, microseconds, gigabytesPerSecond, teraopsPerSecond, share, compileMilliseconds } = row;
  console.log(
    `${name.padEnd(34)} ${variant.padEnd(39)} ${microseconds.toFixed(1).padStart(9)} us ${
      gigabytesPerSecond.toFixed(0).padStart(6)
    } GB/s ${(100 * share).toFixed(0).padStart(4)}% ${teraopsPerSecond.toFixed(2).padStart(7)} Top/s  compiled in ${
      compileMilliseconds.toFixed(0)
    } ms, off by ${row.difference.toExponential(1)}`,
  );
}

const nameOf = ({ m, n, k, bits, group, activations }: LinearShape) =>
  `w${bits}g${group} x ${activations} ${m}x${n}x${k}`;

const bandwidth = await copyBandwidth();
console.error(`copy ${(bandwidth / 1e9).toFixed(0)} GB/s; traits ${JSON.stringify({ ...PORTABLE, ...traits })}`);
for (const shape of LINEARS) {
  const name = nameOf(shape);
  if (args.match !== undefined && !name.includes(args.match)) continue;
  const small = {
    ...shape,
    n: Math.max(64, Math.floor(shape.n / shrink)),
    m: Math.max(1, Math.floor(shape.m / shrink)),
  };
  await timeVariants(name, linear(small), 2 * small.m * small.n * small.k, bandwidth);
}
for (const shape of ATTENTIONS) {
  const { tokens, context, heads, kvHeads, width, cache } = shape;
  const name = `attention ${tokens}x${context} ${heads}/${kvHeads} heads, cache ${cache}`;
  if (args.match !== undefined && !name.includes(args.match)) continue;
  const least = Math.max(1, Math.floor(tokens / shrink)), keys = Math.max(64, Math.floor(context / shrink));
  const operations = 4 * least * heads * width * (tokens === 1 ? keys : keys / 2);
  await timeVariants(name, attention({ ...shape, tokens: least, context: keys }), operations, bandwidth);
}
device.destroy();
