import { assertEquals, assertMatch } from "@std/assert";
import { openTestGpu, shaderErrors } from "./gpu.ts";
import { tintCheck } from "./tint.ts";

const kernel = (body: string, head = "") =>
  `${head}
  var<workgroup> shared_sum: u32;
  @group(0) @binding(0) var<storage, read_write> data: array<u32>;
  @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {
    ${body}
  }`;

Deno.test("tintCheck() accepts a kernel with the features that kernels may use", async () => {
  for (
    const text of [
      kernel("shared_sum = lane; workgroupBarrier(); data[lane] = shared_sum;"),
      kernel("data[lane] = u32(f16(lane) * 2.0h);", "enable f16;"),
      kernel("data[lane] = subgroupAdd(lane);", "enable subgroups;"),
      kernel("data[lane] = u32(dot4I8Packed(lane, 7u));"),
    ]
  ) assertEquals(await tintCheck(text) ?? [], []);
});

Deno.test("tintCheck() reports the place and the message of an error", async () => {
  const errors = await tintCheck(kernel("data[lane] = lane + 1.5f;"));
  if (!errors) return;
  assertEquals(errors.length, 1);
  assertMatch(errors[0] ?? "", /^5:18 no matching overload for 'operator \+ \(u32, f32\)'/);
});

Deno.test("tintCheck() finds what naga lets pass", async () => {
  const text = kernel("if (lane < 3u) { workgroupBarrier(); } data[lane] = 1u;");
  const errors = await tintCheck(text);
  if (errors) assertMatch(errors.join("\n"), /'workgroupBarrier' must only be called from uniform control flow/);
});

Deno.test("openTestGpu() opens a device that computes, and shaderErrors() speaks for naga", async () => {
  const device = await openTestGpu();
  if (!device) return;
  assertEquals(await shaderErrors(device, kernel("data[lane] = lane;")), []);
  assertEquals((await shaderErrors(device, kernel("data[lane] = lane + 1.5f;"))).length, 1);

  const bytes = 64 * 4;
  const data = device.createBuffer({ size: bytes, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
  const read = device.createBuffer({ size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const module = device.createShaderModule({ code: kernel("data[lane] = lane * lane;") });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  const bindings = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer: data } }],
  });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, bindings);
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(data, 0, read, 0, bytes);
  device.queue.submit([encoder.finish()]);
  await read.mapAsync(GPUMapMode.READ);
  assertEquals([...new Uint32Array(read.getMappedRange())], Array.from({ length: 64 }, (_, i) => i * i));
  device.destroy();
});
