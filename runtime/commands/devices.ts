/** @file Opening the device that computes, by its name on the command line. */
import type { Backend } from "../../backends/backend.ts";
import { openReference } from "../../backends/reference/backend.ts";
import { openWasm } from "../../backends/wasm/backend.ts";
import { openWebGpu } from "../../backends/webgpu/backend.ts";
import { openDawn } from "../../backends/webgpu/dawn.ts";
import { UserError } from "../../ir/errors.ts";
import { demandPermission } from "./permissions.ts";
import { openTuningFile } from "./tuning_file.ts";

/** What `--device` takes. */
export const DEVICES = ["auto", "webgpu", "dawn", "wasm", "reference"] as const;
/** A device's name. */
export type DeviceName = (typeof DEVICES)[number];

/** How to open a device. */
export interface OpenDeviceOptions {
  readonly device: DeviceName;
  /** Threads of the wasm device; as many as the machine has cores unless given. */
  readonly threads?: number;
  /** Hears why there are fewer threads than were asked for: a sentence without a final period. */
  readonly note?: (text: string) => void;
}

/**
 * Opens a device. `auto` is a GPU where there is a real one, since software GPUs are slower than WebAssembly.
 *
 * @throws {UserError} if there is no such device here
 */
export async function openDevice(
  { device, threads = navigator.hardwareConcurrency, note }: OpenDeviceOptions,
): Promise<Backend> {
  const wasm = { threads, ...(note ? { note } : {}) };
  switch (device) {
    case "auto":
      return await openWebGpu({ requireHardware: true, tuning: openTuningFile() }).catch((error) => {
        if (error instanceof UserError) return openWasm(wasm);
        throw error;
      });
    case "webgpu":
      return await openWebGpu({ tuning: openTuningFile() });
    case "dawn":
      for (const name of ["ffi", "env", "read"] as const) await demandPermission({ name }, "load Dawn");
      return await openDawn();
    case "wasm":
      return await openWasm(wasm);
    case "reference":
      return openReference();
    default:
      return device satisfies never;
  }
}

/** A device in words: `wasm, 2 threads`, `webgpu, NVIDIA H200`. */
export function deviceText({ name, traits: { adapter, threads } }: Backend): string {
  if (typeof threads === "number") return `${name}, ${threads === 1 ? "1 thread" : `${threads} threads`}`;
  return adapter === undefined ? name : `${name}, ${adapter}`;
}
