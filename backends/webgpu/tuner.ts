/**
 * Chooses among the variants of a kernel by a clock: the device's own, which costs one submission for all of them. A choice is kept in a
 * store, so that the next run on the same device makes the same one, and gives the same bytes.
 */
import type { KernelSpec } from "../kernel.ts";
import { bytesOf } from "./layout.ts";
import type { LoadedKernel } from "./pipelines.ts";

/** Choices made before, by a text that names kernel and device. */
export interface TuningStore {
  get(key: string): string | undefined;
  set(key: string, variant: string): void;
}

/** A store that forgets. */
export function memoryStore(): TuningStore {
  const choices = new Map<string, string>();
  return { get: (key) => choices.get(key), set: (key, variant) => void choices.set(key, variant) };
}

/** What the variants are timed on lies in so many bytes, more than most caches hold; they take turns on copies. */
const WORKING_SET = 2 ** 28;
const MOST_COPIES = 16;
/** Seconds of one timed pass, as bytes at a modest bandwidth, and its dispatches. */
const PASS_SECONDS = 1e-3;
const MODEST_BANDWIDTH = 5e11;
const MOST_DISPATCHES = 128;
/** Passes of each variant; the middle one counts. */
const ROUNDS = 3;
/** An integer beyond every position: attention then sees all keys, and rows chosen by data are the last ones. */
const FAR = 2 ** 20;

/**
 * The variant that takes the least time.
 *
 * @returns undefined where the device has no clock, or no memory to try on
 */
export async function fastest(
  device: GPUDevice,
  spec: KernelSpec,
  candidates: ReadonlyMap<string, LoadedKernel>,
): Promise<string | undefined> {
  if (!device.features.has("timestamp-query")) return undefined;
  device.pushErrorScope("out-of-memory");
  const sets = scratchSets(device, spec);
  const exhausted = await device.popErrorScope();
  try {
    if (exhausted) return undefined;
    const nanoseconds = await timeAll(device, spec, [...candidates.values()], sets);
    const least = Math.min(...nanoseconds);
    return [...candidates.keys()][nanoseconds.indexOf(least)];
  } finally {
    for (const buffer of new Set(sets.flat())) buffer.destroy();
  }
}

/** Copies of a kernel's buffers; those that it writes are shared, as in a program. */
function scratchSets(device: GPUDevice, { buffers }: KernelSpec): GPUBuffer[][] {
  const make = (i: number): GPUBuffer => {
    const { type } = buffers[i] as KernelSpec["buffers"][number],
      size = Math.ceil(Math.max(bytesOf(type), 16) / 16) * 16;
    const buffer = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
    if (type.dtype === "i32") device.queue.writeBuffer(buffer, 0, new Int32Array(size / 4).fill(FAR));
    return buffer;
  };
  const bytes = buffers.reduce((sum, { type }) => sum + bytesOf(type), 0);
  const copies = Math.max(1, Math.min(MOST_COPIES, Math.floor(WORKING_SET / bytes)));
  const first = buffers.map((_, i) => make(i));
  return Array.from(
    { length: copies },
    (_, c) => c === 0 ? first : first.map((buffer, i) => buffers[i]?.use === "read" ? make(i) : buffer),
  );
}

/** Nanoseconds of one pass of each kernel: the median over rounds in which all take turns. */
async function timeAll(
  device: GPUDevice,
  spec: KernelSpec,
  kernels: readonly LoadedKernel[],
  sets: readonly (readonly GPUBuffer[])[],
): Promise<number[]> {
  const bytes = spec.buffers.reduce((sum, { type }) => sum + bytesOf(type), 0);
  const dispatches = Math.ceil(PASS_SECONDS * MODEST_BANDWIDTH / bytes);
  const count = Math.max(2, Math.min(MOST_DISPATCHES, dispatches)), passes = (ROUNDS + 1) * kernels.length;
  const querySet = device.createQuerySet({ type: "timestamp", count: 2 * passes }), size = 16 * passes;
  const resolved = device.createBuffer({ size, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
  const staging = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const encoder = device.createCommandEncoder();
  const groups = kernels.map(({ layout, own }) =>
    sets.map((set) =>
      device.createBindGroup({
        layout,
        entries: [...set, ...own].map((buffer, binding) => ({ binding, resource: { buffer } })),
      })
    )
  );
  // The first round warms up, and does not count.
  for (let at = 0; at < passes; at++) {
    const kernel = at % kernels.length;
    const pass = encoder.beginComputePass({
      timestampWrites: { querySet, beginningOfPassWriteIndex: 2 * at, endOfPassWriteIndex: 2 * at + 1 },
    });
    for (let i = 0; i < count; i++) {
      pass.setBindGroup(0, groups[kernel]?.[i % sets.length] as GPUBindGroup);
      for (const { pipeline, grid } of kernels[kernel]?.dispatches ?? []) {
        pass.setPipeline(pipeline);
        pass.dispatchWorkgroups(...grid);
      }
    }
    pass.end();
  }
  encoder.resolveQuerySet(querySet, 0, 2 * passes, resolved, 0);
  encoder.copyBufferToBuffer(resolved, 0, staging, 0, size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const times = new BigUint64Array(staging.getMappedRange().slice(0));
  for (const gone of [resolved, staging, querySet]) gone.destroy();
  const taken = (at: number) => Number((times[2 * at + 1] ?? 0n) - (times[2 * at] ?? 0n));
  return kernels.map((_, kernel) => {
    const rounds = Array.from({ length: ROUNDS }, (_, round) => taken((round + 1) * kernels.length + kernel));
    return rounds.sort((a, b) => a - b)[ROUNDS >> 1] ?? Infinity;
  });
}
