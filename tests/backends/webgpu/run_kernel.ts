/** Runs one generated kernel on a device and compares it with the interpreter of specifications. */
import { assert } from "@std/assert";
import type { HostArray } from "../../../backends/backend.ts";
import { generateKernel } from "../../../backends/webgpu/kernel.ts";
import { bytesOf, pack, unpack } from "../../../backends/webgpu/layout.ts";
import type { KernelTraits } from "../../../backends/webgpu/traits.ts";
import { typeText } from "../../../ir/types.ts";
import { shaderErrors } from "../../gpu.ts";
import { interpretKernel } from "../../support/interpret_kernel.ts";
import type { RandomKernel } from "../../support/random_kernels.ts";
import { tintCheck } from "../../tint.ts";

/** Generates and runs a kernel; the buffers that it writes are changed. */
export async function runKernel(
  device: GPUDevice,
  { spec, buffers }: RandomKernel,
  traits?: KernelTraits,
  variant?: string,
): Promise<string> {
  const { text, dispatches, tables, scratch } = generateKernel(spec, traits, variant);
  const errors = await shaderErrors(device, text);
  assert(errors.length === 0, `naga: ${errors.join("\n")}\n${text}`);
  // Compilers disagree on whether a module says that it uses subgroups.
  const standard = traits?.subgroup ? { ...traits, subgroup: { ...traits.subgroup, declared: true } } : traits;
  const tint = await tintCheck(generateKernel(spec, standard, variant).text) ?? [];
  assert(tint.length === 0, `Tint: ${tint.join("\n")}\n${text}`);
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: text });
  const types = spec.buffers.map(({ use }): GPUBufferBindingType => use === "read" ? "read-only-storage" : "storage");
  types.push(...tables.map(() => "uniform" as const), ...scratch.map(() => "storage" as const));
  const layout = device.createBindGroupLayout({
    entries: types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } })),
  });
  const gpuBuffers = spec.buffers.map(({ type }, i) => {
    const size = Math.ceil(bytesOf(type) / 16) * 16;
    const buffer = device.createBuffer({
      size,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    device.queue.writeBuffer(buffer, 0, pack(type, buffers[i] as HostArray));
    return buffer;
  });
  const tableBuffers = tables.map((words) => {
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    const buffer = device.createBuffer({ size: words.byteLength, usage });
    device.queue.writeBuffer(buffer, 0, words);
    return buffer;
  });
  const scratchBuffers = scratch.map((size) => device.createBuffer({ size, usage: GPUBufferUsage.STORAGE }));
  const group = device.createBindGroup({
    layout,
    entries: [...gpuBuffers, ...tableBuffers, ...scratchBuffers].map((buffer, binding) => ({
      binding,
      resource: { buffer },
    })),
  });
  const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
  for (const { entryPoint, grid } of dispatches) {
    pass.setPipeline(device.createComputePipeline({
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint },
    }));
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...grid);
  }
  pass.end();
  const staging = spec.buffers.map(({ use, type }, i) => {
    if (use === "read") return undefined;
    const size = bytesOf(type),
      read = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    encoder.copyBufferToBuffer(gpuBuffers[i] as GPUBuffer, 0, read, 0, size);
    return { read, type, into: buffers[i] as HostArray };
  }).filter((entry) => entry !== undefined);
  device.queue.submit([encoder.finish()]);
  const failure = await device.popErrorScope();
  assert(!failure, `${failure?.message}\n${text}`);
  await Promise.all(staging.map(({ read }) => read.mapAsync(GPUMapMode.READ)));
  for (const { read, type, into } of staging) {
    into.set(unpack(type, new Uint32Array(read.getMappedRange().slice(0))));
    read.destroy();
  }
  for (const buffer of [...gpuBuffers, ...scratchBuffers]) buffer.destroy();
  return text;
}

/**
 * Fails unless the device and the interpreter agree: integers and half floats (which only hold exact values) exactly, floats up to `relative` of the larger of 1 and the value
 * (rounded sums and functions; the default is some 80 units in the last place).
 */
export async function checkKernel(
  device: GPUDevice,
  kernel: RandomKernel,
  relative = 1e-5,
  traits?: KernelTraits,
  variant?: string,
): Promise<void> {
  const expected = kernel.buffers.map((buffer) => buffer.slice());
  interpretKernel(kernel.spec, expected);
  const found = kernel.buffers.map((buffer) => buffer.slice());
  const text = await runKernel(device, { spec: kernel.spec, buffers: found }, traits, variant);
  kernel.spec.buffers.forEach(({ name, type, use }, b) => {
    if (use === "read") return;
    const margin = type.dtype === "f32" ? relative : 0;
    expected[b]?.forEach((value, i) => {
      const other = found[b]?.[i] ?? NaN;
      const off = Math.abs(value - other);
      assert(
        off <= margin * Math.max(1, Math.abs(value)),
        `${name} ${typeText(type)}: expected ${value} at element ${i} but found ${other}\n${text}`,
      );
    });
  });
}
