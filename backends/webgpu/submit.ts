/** Runs the steps of a program: bind groups, made once per set of tensors, and one submission with one compute pass. */
import type { LoweredStep } from "../regions/program.ts";
import type { Range } from "./memory.ts";
import type { LoadedKernel } from "./pipelines.ts";

/** A step with its kernel, and the bind groups it was run with. */
export interface LoadedStep extends LoweredStep {
  readonly loaded: LoadedKernel;
  /** By the ids of what they bind. */
  readonly groups: Map<string, BoundStep>;
}

/** A bind group, and what must be copied aside before: ranges of a buffer that the step also writes. */
interface BoundStep {
  readonly group: GPUBindGroup;
  readonly copies: readonly { readonly from: Range; readonly to: GPUBuffer }[];
}

/** Bind groups of one step are kept for so many sets of tensors. */
const KEPT_GROUPS = 16;

/** Encodes and submits all steps; `ranges` says where every value of the program lies. */
export function submit(device: GPUDevice, steps: readonly LoadedStep[], ranges: readonly Range[]): void {
  if (steps.length === 0) return;
  const encoder = device.createCommandEncoder();
  let pass = encoder.beginComputePass();
  for (const step of steps) {
    const { group, copies } = boundStep(device, step, step.bindings.map((index) => ranges[index] as Range));
    if (copies.length > 0) {
      pass.end();
      for (const { from, to } of copies) encoder.copyBufferToBuffer(from.buffer, from.offset, to, 0, from.size);
      pass = encoder.beginComputePass();
    }
    pass.setBindGroup(0, group);
    for (const { pipeline, grid } of step.loaded.dispatches) {
      pass.setPipeline(pipeline);
      pass.dispatchWorkgroups(...grid);
    }
  }
  pass.end();
  device.queue.submit([encoder.finish()]);
}

/** The bind group of a step, made or known. */
function boundStep(device: GPUDevice, { kernel, loaded, groups }: LoadedStep, ranges: readonly Range[]): BoundStep {
  const key = ranges.map(({ id }) => id).join(), found = groups.get(key);
  if (found) return found;
  const uses = kernel.buffers.map(({ use }) => use), copies: { from: Range; to: GPUBuffer }[] = [];
  const resources = ranges.map((range, binding): GPUBufferBinding => {
    const { buffer, offset, size } = range;
    const written = ranges.some((other, i) => other.buffer === buffer && uses[i] !== "read");
    if (uses[binding] !== "read" || !written) return { buffer, offset, size };
    const to = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
    copies.push({ from: range, to });
    return { buffer: to };
  });
  resources.push(...loaded.tables.map((buffer) => ({ buffer })));
  const entries = resources.map((resource, binding) => ({ binding, resource }));
  const bound = { group: device.createBindGroup({ layout: loaded.layout, entries }), copies };
  const [oldest] = groups.size >= KEPT_GROUPS ? groups : [];
  if (oldest) {
    for (const { to } of oldest[1].copies) to.destroy();
    groups.delete(oldest[0]);
  }
  groups.set(key, bound);
  return bound;
}
