/**
 * Runs the steps of programs. Bind groups are made once per set of tensors; the steps of one program after the other go to one compute
 * pass of one submission, until something outside must see them: a submission costs 150 µs in Deno, a dispatch less than 1 µs.
 */
import type { LoweredStep } from "../regions/program.ts";
import type { Range } from "./buffers.ts";
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

/** Bind groups of one step are kept for so many sets of tensors: one per layer of a large model. */
const KEPT_GROUPS = 256;

/** Work for a device that has not been submitted yet. */
export interface Submitter {
  /** Encodes all steps; `ranges` says where every value of the program lies. */
  run(steps: readonly LoadedStep[], ranges: readonly Range[]): void;
  /** Submits what was encoded, with a copy behind it: before buffers are written, read or destroyed. */
  flush(copy?: (encoder: GPUCommandEncoder) => void): void;
}

/** So many dispatches are submitted together at most, so that the device begins while the host goes on. */
const MOST_DISPATCHES = 1024;

/** A submitter with nothing to submit. */
export function createSubmitter(device: GPUDevice): Submitter {
  let open: { readonly encoder: GPUCommandEncoder; pass: GPUComputePassEncoder; dispatches: number } | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const flush: Submitter["flush"] = (copy) => {
    clearTimeout(timer);
    timer = undefined;
    if (!open && !copy) return;
    open?.pass.end();
    const encoder = open?.encoder ?? device.createCommandEncoder();
    copy?.(encoder);
    device.queue.submit([encoder.finish()]);
    open = undefined;
  };
  return {
    flush,
    run(steps, ranges) {
      for (const step of steps) {
        const bound = boundStep(device, step, step.bindings.map((index) => ranges[index] as Range), flush);
        if (!open) {
          const encoder = device.createCommandEncoder();
          open = { encoder, pass: encoder.beginComputePass(), dispatches: 0 };
        }
        const { encoder } = open;
        if (bound.copies.length > 0) {
          open.pass.end();
          for (const { from, to } of bound.copies) {
            encoder.copyBufferToBuffer(from.buffer, from.offset, to, 0, from.size);
          }
          open.pass = encoder.beginComputePass();
        }
        open.pass.setBindGroup(0, bound.group);
        for (const { pipeline, grid } of step.loaded.dispatches) {
          open.pass.setPipeline(pipeline);
          open.pass.dispatchWorkgroups(...grid);
          open.dispatches++;
        }
        if (open.dispatches >= MOST_DISPATCHES) flush();
      }
      // Whoever only runs programs and waits for something else must not wait for ever.
      if (open) timer ??= setTimeout(() => flush(), 0);
    },
  };
}

/** The bind group of a step, made or known. */
function boundStep(
  device: GPUDevice,
  { kernel, loaded, groups }: LoadedStep,
  ranges: readonly Range[],
  flush: () => void,
): BoundStep {
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
  resources.push(...loaded.own.map((buffer) => ({ buffer })));
  const entries = resources.map((resource, binding) => ({ binding, resource }));
  const bound = { group: device.createBindGroup({ layout: loaded.layout, entries }), copies };
  const [oldest] = groups.size >= KEPT_GROUPS ? groups : [];
  if (oldest) {
    if (oldest[1].copies.length > 0) flush();
    for (const { to } of oldest[1].copies) to.destroy();
    groups.delete(oldest[0]);
  }
  groups.set(key, bound);
  return bound;
}
