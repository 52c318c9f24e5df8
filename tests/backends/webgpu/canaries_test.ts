/** Canaries give their answers on a device that works, and are valid for both compilers. */
import { assert, assertEquals } from "@std/assert";
import { CANARIES, provedSubgroup, subgroupCanary } from "../../../backends/webgpu/canaries.ts";
import { subgroupOf } from "../../../backends/webgpu/device.ts";
import { openTestGpu, shaderErrors } from "../../gpu.ts";
import { tintCheck } from "../../tint.ts";

Deno.test("canaries give their answers", async () => {
  const device = await openTestGpu();
  if (!device) return;
  for (const { wgsl, answer, trait } of CANARIES) {
    assertEquals(await tintCheck(wgsl) ?? [], [], trait);
    if (trait === "halves" && !device.features.has("shader-f16")) {
      console.warn("SKIPPED: no half floats are read, since the device has none");
      continue;
    }
    assertEquals(await shaderErrors(device, wgsl), [], trait);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC, result = device.createBuffer({ size: 32, usage });
    const staging = device.createBuffer({ size: 32, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const module = device.createShaderModule({ code: wgsl });
    const pipeline = device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
    const entries = [{ binding: 0, resource: { buffer: result } }];
    const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    pass.dispatchWorkgroups(1);
    pass.end();
    encoder.copyBufferToBuffer(result, 0, staging, 0, 32);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    assertEquals([...new Uint32Array(staging.getMappedRange())], answer, trait);
  }
  device.destroy();
});

Deno.test("the canary of subgroups is valid in the form of the standard, and proves what a device does", async () => {
  assertEquals(await tintCheck(subgroupCanary(true)) ?? [], []);
  const device = await openTestGpu();
  if (!device) return;
  const found = await subgroupOf(device), { subgroupMinSize = 1 } = device.adapterInfo;
  // Deno has subgroups although it does not list them, and knows them without the first line.
  const isThere = device.features.has("subgroups" as GPUFeatureName);
  if (isThere) assertEquals(await shaderErrors(device, subgroupCanary(false)), []);
  // Drivers with vectors of 512 bits have been seen to exchange among fewer than they say.
  const { size = 1, declared = false } = found ?? {}, most = isThere ? Math.min(32, subgroupMinSize) : 1;
  assert(size <= most && (size > 1 || most === 1) && !declared, `${size} neighbours of ${most}`);
  device.destroy();

  const without = await openTestGpu(() => ({}));
  assertEquals(without && await subgroupOf(without), undefined);
  without?.destroy();
});

Deno.test("provedSubgroup() believes as many neighbours as every invocation has found", () => {
  const all = [256, 256, 256, 256, 256, 0, 0, 0];
  assertEquals(provedSubgroup(all, 64, true), { size: 32, declared: true });
  assertEquals(provedSubgroup(all, 8, false), { size: 8, declared: false }, "the device may choose smaller ones");
  assertEquals(provedSubgroup([256, 256, 255, 256, 256, 0, 0, 0], 32, true), { size: 4, declared: true });
  assertEquals(provedSubgroup([0, 256, 256, 256, 256, 0, 0, 0], 32, true), undefined, "neighbours lie elsewhere");
  assertEquals(provedSubgroup(new Array<number>(8).fill(0), 32, true), undefined, "a driver that returns zeros");
  assertEquals(provedSubgroup(all, 1, true), undefined);
});
