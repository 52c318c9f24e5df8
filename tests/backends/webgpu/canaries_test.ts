/** Canaries give their answers on a device that works, and are valid for both compilers. */
import { assertEquals } from "@std/assert";
import { CANARIES } from "../../../backends/webgpu/canaries.ts";
import { openTestGpu, shaderErrors } from "../../gpu.ts";
import { tintCheck } from "../../tint.ts";

Deno.test("canaries give their answers", async () => {
  const device = await openTestGpu();
  if (!device) return;
  for (const { wgsl, answer, trait } of CANARIES) {
    assertEquals(await tintCheck(wgsl) ?? [], [], trait);
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
