/** Runs one kernel specification on WebAssembly, with as many threads as told, one after the other. */
import type { HostArray } from "../../../backends/backend.ts";
import type { KernelSpec } from "../../../backends/kernel.ts";
import { decode, encode } from "../../../backends/wasm/host_values.ts";
import { ALIGNMENT, bytesOf } from "../../../backends/wasm/layout.ts";
import { generateKernel } from "../../../backends/wasm/kernel.ts";
import { ENTRY, TABLES } from "../../../backends/wasm/emitter.ts";

interface RunOptions {
  readonly relaxed?: boolean;
  readonly fours?: boolean;
  readonly unsigned?: boolean;
  readonly threads?: number;
  readonly small?: number;
}

/** Runs a kernel and returns the values of all its buffers afterwards, in fresh arrays. */
export function runSpec(
  spec: KernelSpec,
  buffers: readonly HostArray[],
  { relaxed = false, fours = relaxed, unsigned = false, threads = 1, small = 0 }: RunOptions = {},
): HostArray[] {
  const kernel = generateKernel(spec, { relaxed, fours, unsigned, shared: false, small });
  let end = 1024;
  const take = (bytes: number) => {
    const at = end;
    end += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    return at;
  };
  const places = spec.buffers.map(({ type }) => take(bytesOf(type)));
  const tables = Array.from({ length: TABLES }, (_, i) => take(4 * (kernel.tables[i]?.values.length ?? 0)));
  const scratch = take(threads * kernel.scratchBytes + 64);
  const memory = new WebAssembly.Memory({ initial: Math.ceil((end + 65536) / 65536) });
  // Memory that nothing wrote must not look like a result.
  new Uint8Array(memory.buffer).fill(0xa5);
  spec.buffers.forEach(({ type }, i) => encode(type, buffers[i] as HostArray, memory.buffer, places[i] ?? 0));
  kernel.tables.forEach(({ values }, i) => new Float32Array(memory.buffer, tables[i], values.length).set(values));
  const instance = new WebAssembly.Instance(new WebAssembly.Module(kernel.bytes), { env: { memory } });
  const run = instance.exports[ENTRY] as (...args: number[]) => void;
  for (let t = 0; t < threads; t++) {
    const [from, to] = [t, t + 1].map((i) => Math.floor(kernel.grid * i / threads)) as [number, number];
    if (from < to) run(...places, ...tables, scratch + t * kernel.scratchBytes, from, to);
  }
  return spec.buffers.map(({ type }, i) => decode(type, memory.buffer, places[i] ?? 0));
}
