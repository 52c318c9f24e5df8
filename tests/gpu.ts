/** WebGPU for tests: opens a device, or says loudly that a test is skipped, or fails where WebGPU is required. */

/**
 * A device of Deno's own WebGPU for one test; the test destroys it.
 *
 * @param describe What to ask the adapter for; by default every feature and limit that it has, and subgroups, which Deno does not list.
 * @returns The device, or undefined, after a printed SKIPPED line, where there is no adapter.
 * @throws {Error} Without an adapter while VERNIER_REQUIRE_WEBGPU is 1, so that a pipeline cannot pass by skipping.
 */
export async function openTestGpu(
  describe: (adapter: GPUAdapter) => GPUDeviceDescriptor = everything,
): Promise<GPUDevice | undefined> {
  const adapter = await navigator.gpu?.requestAdapter() ?? undefined;
  if (!adapter) {
    return skipped("no WebGPU adapter found; install a Vulkan driver (mesa-vulkan-drivers is a software one)");
  }
  const wanted = describe(adapter);
  if (describe !== everything) return await adapter.requestDevice(wanted);
  const features = [...wanted.requiredFeatures ?? [], "subgroups" as GPUFeatureName];
  return await adapter.requestDevice({ ...wanted, requiredFeatures: features })
    .catch(() => adapter.requestDevice(wanted));
}

/**
 * Messages of the errors that a device's shader compiler finds in WGSL text, as `line:column message`; empty if it compiles.
 * Warnings do not count.
 */
export async function shaderErrors(device: GPUDevice, wgsl: string): Promise<string[]> {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: wgsl });
  const { messages } = await module.getCompilationInfo();
  const scoped = await device.popErrorScope();
  const errors = messages.filter(({ type }) => type === "error")
    .map(({ lineNum, linePos, message }) => `${lineNum}:${linePos} ${message}`);
  return errors.length === 0 && scoped ? [scoped.message] : errors;
}

/** Prints a SKIPPED line, or throws where WebGPU is required. */
export function skipped(reason: string): undefined {
  if (Deno.env.get("VERNIER_REQUIRE_WEBGPU") === "1") throw new Error(`WebGPU is required here, but ${reason}`);
  console.warn(`SKIPPED: ${reason}`);
}

function everything(adapter: GPUAdapter): GPUDeviceDescriptor {
  const requiredLimits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof value === "number") requiredLimits[name] = value;
  }
  return { requiredFeatures: [...adapter.features] as GPUFeatureName[], requiredLimits };
}
