/** Backends that tell what memory they took, for tests of plans. */
import type { Backend } from "../../backends/backend.ts";
import { openWasm } from "../../backends/wasm/backend.ts";
import { createBackend } from "../../backends/webgpu/backend.ts";
import { PORTABLE } from "../../backends/webgpu/traits.ts";
import { openTestGpu } from "../gpu.ts";

/** Counts the bytes of a device's buffers from outside: whatever is created from now on and not yet destroyed. */
export function countBuffers(device: GPUDevice): { readonly most: number } {
  const create = device.createBuffer.bind(device);
  let bytes = 0, most = 0;
  device.createBuffer = (descriptor) => {
    const buffer = create(descriptor), destroy = buffer.destroy.bind(buffer);
    let alive = true;
    bytes += descriptor.size;
    most = Math.max(most, bytes);
    buffer.destroy = () => {
      if (alive) bytes -= descriptor.size;
      alive = false;
      destroy();
    };
    return buffer;
  };
  return {
    get most() {
      return most;
    },
  };
}

/** A backend, and the most bytes that it has taken so far. */
export interface CountedBackend extends AsyncDisposable {
  readonly backend: Backend;
  taken(): number;
}

/** WebAssembly on one thread. */
export async function openCountedWasm(): Promise<CountedBackend> {
  const backend = await openWasm({ threads: 1 });
  return {
    backend,
    taken: () => backend.memory?.().allocated ?? NaN,
    [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
  };
}

/** WebGPU without a choice of variants, which would take memory to try them on; undefined where there is no device. */
export async function openCountedGpu(): Promise<CountedBackend | undefined> {
  const gpu = await openTestGpu();
  if (!gpu) return undefined;
  const count = countBuffers(gpu);
  const backend = createBackend({ gpu, adapter: "test", software: true, owned: true, traits: PORTABLE });
  return { backend, taken: () => count.most, [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose]() };
}
