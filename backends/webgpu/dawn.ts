/** WebGPU by Dawn, the implementation in Chromium, through its Node binding: an npm package that is loaded when it is asked for. */
import { UserError } from "../../ir/errors.ts";
import type { Backend } from "../backend.ts";
import { createBackend } from "./backend.ts";
import { openDevice } from "./device.ts";

/** Not written into the import, where Deno would see it beforehand: 132 MB that most runs do not need. */
const DAWN: string = "npm:webgpu@0.6.2";

/**
 * Opens the backend on Dawn.
 *
 * @throws {UserError} if the binding cannot be loaded, or finds no adapter
 */
export async function openDawn(options: { readonly requireHardware?: boolean } = {}): Promise<Backend> {
  const gpu = await loadDawn();
  const backend = createBackend(await openDevice(gpu, options));
  const dispose = backend[Symbol.asyncDispose];
  return {
    ...backend,
    async [Symbol.asyncDispose]() {
      await dispose();
      kept.delete(gpu);
    },
  };
}

/** Dawn crashes when its entry object is collected before its devices. */
const kept = new Set<GPU>();

async function loadDawn(): Promise<GPU> {
  try {
    const { create } = await import(DAWN) as { create(options: string[]): GPU };
    const gpu = create([]);
    kept.add(gpu);
    return gpu;
  } catch (error) {
    throw new UserError({
      what: `Expected to load Dawn, the npm package "webgpu", but found: ${
        error instanceof Error ? error.message : error
      }`,
      mend: "allow its native library (--allow-ffi), or use another device",
    }, { cause: error });
  }
}
