/**
 * The WebGPU backend: WGSL generated per kernel, run on any `GPUDevice`. Runs are gathered in one submission with one compute pass;
 * nothing waits but `download`.
 */
import type { Graph } from "../../ir/node.ts";
import { sameType, typeText } from "../../ir/types.ts";
import type { Backend, CompileOptions, Executable, Tensor } from "../backend.ts";
import { kernelTexts } from "../kernel_texts.ts";
import { lowerGraph } from "../regions/lower.ts";
import type { LoweredValue } from "../regions/program.ts";
import { adoptDevice, MOST_BUFFERS, openDevice, type WebGpuDevice } from "./device.ts";
import { generateKernel } from "./kernel.ts";
import type { Range } from "./buffers.ts";
import { bufferBytes, createMemory, type GpuMemory } from "./memory.ts";
import { createPipelines, type LoadedKernel } from "./pipelines.ts";
import { homeOf, planSlots, type SlotPlan } from "./slots.ts";
import { createSubmitter, type LoadedStep } from "./submit.ts";
import type { KernelTraits } from "./traits.ts";
import { memoryStore, type TuningStore } from "./tuner.ts";

/** How to open the backend. */
export interface WebGpuOptions {
  /** A device that the caller opened and will destroy. Default: one of `navigator.gpu`. */
  readonly device?: GPUDevice;
  /** Refuse adapters that compute on the CPU. */
  readonly requireHardware?: boolean;
  /** Where choices among variants of kernels are kept; by default they are made anew in every process. */
  readonly tuning?: TuningStore;
}

/**
 * Opens the backend on the platform's own WebGPU.
 *
 * @throws {UserError} without a usable adapter
 */
export async function openWebGpu({ device, requireHardware = false, tuning }: WebGpuOptions = {}): Promise<Backend> {
  return createBackend(
    device ? await adoptDevice(device) : await openDevice(globalThis.navigator?.gpu, { requireHardware }),
    tuning,
  );
}

interface WebGpuExecutable extends Executable {
  readonly values: readonly LoweredValue[];
  readonly steps: readonly LoadedStep[];
  readonly plan: SlotPlan;
}

/**
 * The backend on an open device.
 *
 * @param tuning where choices among variants of kernels are kept; software devices take the default ones
 */
export function createBackend(
  { gpu: device, adapter, software, owned, traits }: WebGpuDevice,
  tuning: TuningStore | undefined = memoryStore(),
): Backend {
  let failure: Error | undefined;
  device.addEventListener("uncapturederror", (event) => {
    const { error } = event as GPUUncapturedErrorEvent;
    failure ??= new Error(`Internal error in WebGPU: ${error.message}`, { cause: error });
  });
  device.lost.then(({ message }) => failure ??= lostDevice(message));
  const submitter = createSubmitter(device),
    pipelines = createPipelines(device, { traits, tuning: software ? undefined : named(tuning, adapter, traits) });
  const maxBuffers = Math.min(device.limits.maxStorageBuffersPerShaderStage, MOST_BUFFERS);
  const memory = createMemory(device, {
    flush: submitter.flush,
    failure: () => failure,
    // A buffer that cannot be read tells less than why; that comes a moment later.
    broken: async (cause) => {
      await new Promise((resolve) => setTimeout(resolve, LATER));
      return failure ?? new Error("Internal error in WebGPU: a buffer cannot be read", { cause });
    },
  });
  const backend: Backend = {
    name: "webgpu",
    traits: { adapter, software },
    dearLaunches: true,
    halves: true,
    async compile(graph: Graph, options: CompileOptions = {}) {
      const { values, steps } = lowerGraph(graph, { ...options, maxBuffers, storeCodes: true });
      const kernels = await Promise.all(steps.map(({ kernel }) => pipelines.load(kernel)));
      const typesOf = (role: "leaf" | "output") =>
        Object.fromEntries(values.flatMap((value) => value[role] === undefined ? [] : [[value[role], value.type]]));
      const plan = planSlots({ values, steps }, bufferBytes);
      memory.expectSlots(plan.sizes);
      const variants = new Map(steps.map(({ kernel }, i) => [kernel, kernels[i]?.variant]));
      const executable: WebGpuExecutable = {
        leaves: typesOf("leaf"),
        outputs: typesOf("output"),
        kernels: kernelTexts(
          steps.map(({ kernel }) => kernel),
          (spec) => generateKernel(spec, traits, variants.get(spec)).text,
        ),
        plan,
        values,
        steps: steps.map((step, i) => ({ ...step, loaded: kernels[i] as LoadedKernel, groups: new Map() })),
      };
      return executable;
    },
    allocate: (type) => memory.allocate(type),
    upload(type, values) {
      const tensor = memory.create(type);
      memory.write(tensor, values);
      return tensor;
    },
    uploadStored(type, bytes) {
      const tensor = memory.create(type);
      memory.writeStored(tensor, bytes);
      return tensor;
    },
    write: (tensor, values) => memory.write(tensor, values),
    download: (tensor) => memory.download(tensor),
    view: (tensor, offset, type) => memory.view(tensor, offset, type),
    bytesOf: bufferBytes,
    free: (tensor) => memory.free(tensor),
    workSpace: () => ({ arena: memory.slotBytes(), scratch: pipelines.bytes() }),
    run(executable, leaves, outputs = {}) {
      const compiled = executable as WebGpuExecutable, { ranges, results } = bind(memory, compiled, leaves, outputs);
      submitter.run(compiled.steps, ranges);
      return results;
    },
    [Symbol.asyncDispose]() {
      memory.dispose();
      pipelines.dispose();
      if (owned) device.destroy();
      return Promise.resolve();
    },
  };
  return backend;
}

/** Milliseconds within which a device says that it is lost. */
const LATER = 50;

const lostDevice = (message: string): Error =>
  new Error(`The WebGPU device was lost${message ? `: ${message}` : ""}; open the backend and what ran on it again`);

/** A store as one device sees it. */
const named = (store: TuningStore, adapter: string, traits: KernelTraits): TuningStore => {
  const prefix = `${adapter} ${JSON.stringify(traits)} `;
  return { get: (key) => store.get(prefix + key), set: (key, variant) => store.set(prefix + key, variant) };
};

/** Where every value of a program lies in this run, and the results to hand out. */
function bind(
  memory: GpuMemory,
  { values, plan }: WebGpuExecutable,
  leaves: Readonly<Record<string, Tensor>>,
  outputs: Readonly<Record<string, Tensor>>,
): { ranges: Range[]; results: Record<string, Tensor> } {
  const results: Record<string, Tensor> = {}, slots = memory.slots(), ranges: Range[] = [];
  const take = (tensor: Tensor | undefined, { name, type }: LoweredValue): Range => {
    if (!tensor) throw new TypeError(`Cannot run a program: expected a tensor for "${name}" of type ${typeText(type)}`);
    const found = memory.own(tensor, "bind", name);
    if (!sameType(tensor.type, type)) {
      throw new TypeError(`Cannot bind "${name}": expected ${typeText(type)} but found ${typeText(tensor.type)}`);
    }
    return found;
  };
  values.forEach((value, i) => {
    const home = homeOf(values, i), leaf = values[home]?.leaf, { output, type } = value;
    if (leaf !== undefined) {
      ranges[i] = take(leaves[leaf], value);
      if (output !== undefined) results[output] = leaves[leaf] as Tensor;
    } else if (output !== undefined) {
      const tensor = outputs[output] ?? memory.create(type);
      ranges[i] = take(tensor, value);
      results[output] = tensor;
    }
  });
  values.forEach((_, i) => {
    const home = homeOf(values, i), slot = plan.slotOf.get(home);
    ranges[i] ??= (slot === undefined ? ranges[home] : slots[slot]) as Range;
  });
  return { ranges, results };
}
