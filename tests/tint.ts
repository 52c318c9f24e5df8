/**
 * Tint, the WGSL compiler of Dawn and Chromium, for tests. Deno compiles WGSL with naga, which accepts and rejects other programs,
 * so generated kernels are tried on both.
 *
 * Tint comes with Dawn's Node binding, the npm package `webgpu`, which Deno loads by itself. Dawn's null backend opens a device
 * that executes nothing and needs no driver, yet validates shaders in full (types, uniformity, constant expressions, features),
 * in a millisecond. It has f16, subgroups and the packed integer products, whatever the machine.
 */
import { shaderErrors, skipped } from "./gpu.ts";

/** Not written into the import, where Deno would see it beforehand: 132 MB that most runs do not need. */
const DAWN: string = "npm:webgpu@0.6.2";

/** Dawn crashes when the entry object that `create` returns is collected before its devices, so both are kept. */
interface Dawn {
  readonly gpu: GPU;
  readonly device: GPUDevice;
}

let opened: Promise<Dawn | undefined> | undefined;

/**
 * Messages of the errors that Tint finds in WGSL text, as `line:column message`; empty if the text is valid.
 *
 * @returns Undefined, after a printed SKIPPED line, where Dawn cannot be loaded.
 * @throws {Error} Where Dawn cannot be loaded while VERNIER_REQUIRE_WEBGPU is 1.
 */
export async function tintCheck(wgsl: string): Promise<string[] | undefined> {
  opened ??= openDawn();
  const dawn = await opened;
  return dawn && await shaderErrors(dawn.device, wgsl);
}

async function openDawn(): Promise<Dawn | undefined> {
  try {
    const { create } = await import(DAWN) as { create(options: string[]): GPU };
    const gpu = create(["backend=null"]);
    const adapter = await gpu.requestAdapter();
    if (!adapter) return skipped("Dawn has no null backend, so WGSL is not checked with Tint");
    const wanted: GPUFeatureName[] = ["shader-f16", "subgroups"];
    const requiredFeatures = wanted.filter((name) => adapter.features.has(name));
    return { gpu, device: await adapter.requestDevice({ requiredFeatures }) };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return skipped(`Dawn cannot be loaded, so WGSL is not checked with Tint: ${reason}`);
  }
}
