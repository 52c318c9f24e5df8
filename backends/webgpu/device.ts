/** Opens GPU devices: asks for the limits that large tensors need, recognises software adapters, and tries a kernel with a known answer. */
import { UserError } from "../../ir/errors.ts";
import { CANARIES, provedSubgroup, subgroupCanary } from "./canaries.ts";
import { type KernelTraits, PORTABLE, type Subgroup } from "./traits.ts";

/** A device ready for kernels. */
export interface WebGpuDevice {
  readonly gpu: GPUDevice;
  /** Name of the adapter, for people. */
  readonly adapter: string;
  /** Whether the adapter computes on the CPU: right, but slower than the WebAssembly backend. */
  readonly software: boolean;
  /** What kernels may use: what canaries have proved, or what every device has. */
  readonly traits: KernelTraits;
  /** Whether disposing of the backend destroys the device: not where the caller brought it. */
  readonly owned: boolean;
}

/** Limits worth having; everything else stays at its default, so that nothing depends on a generous device unnoticed. */
const WANTED = ["maxBufferSize", "maxStorageBufferBindingSize"] as const;
/** A clock, by which variants of kernels are chosen, and half floats in memory. */
const FEATURES = ["timestamp-query", "shader-f16"] as const;
/** By which invocations exchange registers. Deno has it on devices that do not list it. */
const SUBGROUPS = "subgroups" as GPUFeatureName;
/** More would leave room for too few workgroups. */
const MOST_WORKGROUP_BYTES = 32768;
/** Most buffers that one kernel binds, where the device allows it: eight are sure, and a quantized cache is written by one kernel of eleven. */
export const MOST_BUFFERS = 16;
const SOFTWARE = /llvmpipe|lavapipe|swiftshader|software|basic render|warp/i;

/**
 * Opens a device of an implementation of WebGPU.
 *
 * @param gpu `navigator.gpu`, or that of another implementation
 * @throws {UserError} without an adapter, or with a software one where hardware is required
 */
export async function openDevice(
  gpu: GPU | undefined,
  { requireHardware = false }: { readonly requireHardware?: boolean } = {},
): Promise<WebGpuDevice> {
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) {
    throw new UserError({
      what: "Expected a WebGPU adapter but found none",
      mend: "install a driver, or compute with WebAssembly",
    });
  }
  const { name, software } = describeAdapter(adapter.info);
  if (software && requireHardware) {
    throw new UserError({
      what: `Expected a hardware WebGPU adapter but found the software one "${name}"`,
      mend: "compute with WebAssembly, which is faster",
    });
  }
  const requiredLimits = {
    ...Object.fromEntries(WANTED.map((limit) => [limit, adapter.limits[limit]])),
    maxStorageBuffersPerShaderStage: Math.min(adapter.limits.maxStorageBuffersPerShaderStage, MOST_BUFFERS),
    maxComputeWorkgroupStorageSize: Math.min(adapter.limits.maxComputeWorkgroupStorageSize, MOST_WORKGROUP_BYTES),
  };
  const requiredFeatures = FEATURES.filter((feature) => adapter.features.has(feature));
  const device = await adapter.requestDevice({ requiredLimits, requiredFeatures: [...requiredFeatures, SUBGROUPS] })
    .catch(() => adapter.requestDevice({ requiredLimits, requiredFeatures }));
  try {
    await tryCanary(device, name);
    return { gpu: device, adapter: name, software, owned: true, traits: await traitsOf(device, software) };
  } catch (error) {
    device.destroy();
    throw error;
  }
}

/** A device that the caller opened. */
export async function adoptDevice(device: GPUDevice): Promise<WebGpuDevice> {
  const { name, software } = describeAdapter(device.adapterInfo);
  await tryCanary(device, name);
  return { gpu: device, adapter: name, software, owned: false, traits: await traitsOf(device, software) };
}

/** Name of an adapter, and whether it is a software one. */
export function describeAdapter(info: GPUAdapterInfo | undefined): { name: string; software: boolean } {
  const texts = info ? [info.description, info.device, info.architecture, info.vendor] : [];
  const name = texts.find((text) => text && !/^\d+$/.test(text)) ?? "unknown adapter";
  return { name, software: (info?.isFallbackAdapter ?? false) || texts.some((text) => SOFTWARE.test(text ?? "")) };
}

/** Everything that kernels rely on beyond plain arithmetic; some drivers have been seen to return zeros without an error. */
const CANARY = `
var<workgroup> bits: array<atomic<u32>, 2>;
@group(0) @binding(0) var<storage, read_write> result: array<u32, 8>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
  atomicOr(&bits[lane % 2u], 1u << (lane / 2u));
  workgroupBarrier();
  if (lane == 0u) {
    let codes = vec4<i32>(unpack4xU8(0x040302ffu)) + unpack4xI8(0x010101feu);
    result[0] = u32(codes.x + codes.y + codes.z + codes.w);
    result[1] = pack4xU8(vec4<u32>(1u, 2u, 3u, 255u));
    result[2] = pack2x16float(unpack2x16float(0x3c00c100u + result[6]) * 2.0);
    result[3] = atomicLoad(&bits[0]) & atomicLoad(&bits[1]);
    result[4] = u32(i32(round(f32(lane) + 2.5)) + dot(vec4<i32>(1, 2, 3, 4), vec4<i32>(1)));
    result[5] = pack4xI8(vec4<i32>(-1, 2, -3, 4));
  }
}`;
const CANARY_ANSWER = [265, 0xff030201, 0x4000c500, 0xffffffff, 12, 0x04fd02ff];

async function tryCanary(device: GPUDevice, adapter: string): Promise<void> {
  const found = await runCanary(device, CANARY);
  if (typeof found === "string" || CANARY_ANSWER.some((word, i) => found[i] !== word)) {
    throw new UserError({
      what: `Expected the WebGPU adapter "${adapter}" to compute a kernel with a known answer but found ${found}`,
      mend: "update its driver, or compute with WebAssembly",
    });
  }
}

/** What a device has beyond the least; a software one gains nothing by it. */
async function traitsOf(device: GPUDevice, software: boolean): Promise<KernelTraits> {
  const base = { ...PORTABLE, scratch: true };
  if (software) return base;
  const workgroupBytes = Math.min(device.limits.maxComputeWorkgroupStorageSize, MOST_WORKGROUP_BYTES);
  const proved: Partial<Record<keyof KernelTraits, boolean>> = {};
  for (const { trait, wgsl, answer } of CANARIES) {
    const found = await runCanary(device, wgsl);
    proved[trait] = typeof found !== "string" && answer.every((word, i) => found[i] === word);
  }
  const subgroup = await subgroupOf(device);
  const { packedDots = false, halves = false } = proved;
  return { ...base, workgroupBytes, packedDots, halves, ...(subgroup ? { subgroup } : {}) };
}

/** How invocations exchange registers, if they do. */
export async function subgroupOf(device: GPUDevice): Promise<Subgroup | undefined> {
  const { subgroupMinSize = 1 } = device.adapterInfo ?? {};
  for (const declared of [true, false]) {
    const found = await runCanary(device, subgroupCanary(declared));
    const subgroup = typeof found === "string" ? undefined : provedSubgroup(found, subgroupMinSize, declared);
    if (subgroup) return subgroup;
  }
  return undefined;
}

/** The words that a canary leaves, or the message of what is wrong with it. */
async function runCanary(device: GPUDevice, code: string): Promise<number[] | string> {
  device.pushErrorScope("validation");
  const size = 32, result = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
  const staging = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const module = device.createShaderModule({ code });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer: result } }],
  });
  const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(result, 0, staging, 0, size);
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  if (!error) await staging.mapAsync(GPUMapMode.READ);
  const found = error ? error.message : [...new Uint32Array(staging.getMappedRange())];
  result.destroy();
  staging.destroy();
  return found;
}
