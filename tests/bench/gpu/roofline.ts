/** What a GPU can do through WebGPU, measured by kernels that do nothing else: bandwidth, arithmetic, and costs of the interface. */
import { medianOf } from "../report.ts";

/** Ceilings and costs of one device. */
export interface GpuRoofline {
  /** Bytes per second of a copy, read and written bytes counted. */
  readonly copy: number;
  /** Bytes per second of reading alone. */
  readonly read: number;
  /** Multiply-adds count as two operations. */
  readonly f32: number;
  /** Operations per second of `dot4I8Packed`, eight each. */
  readonly int8: number;
  /** Seconds. */
  readonly dispatch: number;
  readonly submit: number;
  readonly readback: number;
}

/** Work per kernel: milliseconds on hardware; an adapter on the CPU gets a little of it. */
const HARDWARE = { bytes: 1 << 30, groups: 16384 }, SOFTWARE = { bytes: 1 << 24, groups: 16 };

/** Measures a device. */
export async function measureRoofline(device: GPUDevice, software: boolean): Promise<GpuRoofline> {
  const { bytes, groups } = software ? SOFTWARE : HARDWARE;
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const size = Math.min(bytes, device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
  const from = device.createBuffer({ size, usage }), to = device.createBuffer({ size, usage });
  const staging = device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const wait = async () => {
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(to, 0, staging, 0, 16);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    staging.unmap();
  };
  const compile = (code: string) => {
    const module = device.createShaderModule({ code });
    const pipeline = device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
    const entries = [from, to].map((buffer, binding) => ({ binding, resource: { buffer } }));
    return { pipeline, group: device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }) };
  };
  /** Seconds per dispatch, without what waiting costs. */
  const time = async (code: string, groups: number, repeats: number): Promise<number> => {
    const { pipeline, group } = compile(code);
    const once = async (count: number) => {
      const start = performance.now(), encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      for (let i = 0; i < count; i++) pass.dispatchWorkgroups(groups);
      pass.end();
      device.queue.submit([encoder.finish()]);
      await wait();
      return (performance.now() - start) / 1000;
    };
    await once(2);
    const differences: number[] = [];
    for (let i = 0; i < 5; i++) differences.push((await once(repeats + 1) - await once(1)) / repeats);
    return Math.max(medianOf(differences), 1e-12);
  };
  await wait();
  const fours = size / 16, perThread = Math.ceil(fours / (groups * 256));
  const sweep = (body: string) => `
    @group(0) @binding(0) var<storage, read_write> source: array<vec4<u32>>;
    @group(0) @binding(1) var<storage, read_write> target_: array<vec4<u32>>;
    @compute @workgroup_size(256)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
      var sum = vec4<u32>();
      for (var i = 0u; i < ${perThread}u; i++) {
        let at = id.x + i * ${groups * 256}u;
        if (at < ${fours}u) { ${body} }
      }
      if (sum.x == 0xdeadbeefu) { target_[0] = sum; source[0] = sum; }
    }`;
  const loop = (setup: string, body: string, result: string) => `
    @group(0) @binding(0) var<storage, read_write> source: array<vec4<u32>>;
    @group(0) @binding(1) var<storage, read_write> target_: array<vec4<u32>>;
    @compute @workgroup_size(256)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
      ${setup}
      for (var i = 0u; i < 256u; i++) { ${body} }
      if (${result}) { target_[0] = source[0]; }
    }`;
  const lanes = Array.from({ length: 8 }, (_, i) => i);
  const copy = 2 * size / await time(sweep("target_[at] = source[at];"), groups, 20);
  const read = size / await time(sweep("sum ^= source[at];"), groups, 20);
  const fma = loop(
    `let x = vec4<f32>(f32(id.x) * 1e-9); ${lanes.map((i) => `var a${i} = vec4<f32>(f32(id.x + ${i}u));`).join(" ")}`,
    lanes.map((i) => `a${i} = fma(a${i}, x, x);`).join(" "),
    `${lanes.map((i) => `a${i}.x`).join(" + ")} == 1.2345`,
  );
  const f32 = groups * 256 * 256 * 8 * 4 * 2 / await time(fma, groups, 8);
  const dots = loop(
    `let x = id.x | 0x01010101u; ${lanes.map((i) => `var a${i} = i32(id.x + ${i}u);`).join(" ")}`,
    lanes.map((i) => `a${i} += dot4I8Packed(u32(a${i}), x);`).join(" "),
    `${lanes.map((i) => `a${i}`).join(" + ")} == 12345`,
  );
  const int8 = groups * 256 * 256 * 8 * 8 / await time(dots, groups, 8);
  const dispatch = await time(loop("", "", "id.x == 0xffffffffu"), 1, 1000);
  const submits: number[] = [], readbacks: number[] = [];
  for (let i = 0; i < 9; i++) {
    const start = performance.now();
    for (let j = 0; j < 20; j++) device.queue.submit([device.createCommandEncoder().finish()]);
    submits.push((performance.now() - start) / 20_000);
    const waiting = performance.now();
    await wait();
    readbacks.push((performance.now() - waiting) / 1000);
  }
  for (const buffer of [from, to, staging]) buffer.destroy();
  return { copy, read, f32, int8, dispatch, submit: medianOf(submits), readback: medianOf(readbacks) };
}
