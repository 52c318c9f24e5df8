/** Compiled kernels, each once; errors of the shader compiler name the kernel and quote its line. */
import type { KernelSpec } from "../kernel.ts";
import { kernelKey } from "../kernel_key.ts";
import { generateKernel, type WebGpuKernel } from "./kernel.ts";
import type { KernelTraits } from "./traits.ts";
import { fastest, type TuningStore } from "./tuner.ts";
import { kernelVariants } from "./variants.ts";

/** A kernel ready to run. */
export interface LoadedKernel {
  /** Which of the kernel's variants it is. */
  readonly variant: string;
  readonly layout: GPUBindGroupLayout;
  /** Buffers of its own, tables and scratch, bound behind those of the specification. */
  readonly own: readonly GPUBuffer[];
  /** Those of them that no other kernel has. */
  readonly scratch: readonly GPUBuffer[];
  readonly dispatches: readonly {
    readonly pipeline: GPUComputePipeline;
    readonly grid: readonly [number, number, number];
  }[];
}

/** The kernels of one device. */
export interface PipelineCache {
  /** Compiles a kernel unless one that differs in names only is known. */
  load(spec: KernelSpec): Promise<LoadedKernel>;
  /** Bytes of the buffers of kernels that were chosen: they stay as long as the device. */
  bytes(): number;
  /** Destroys the buffers of kernels. */
  dispose(): void;
}

/** What a cache of pipelines goes by. */
export interface PipelineOptions {
  readonly traits: KernelTraits;
  /** Where choices among variants are kept; without it every kernel is its default variant. */
  readonly tuning?: TuningStore | undefined;
}

/** Starts an empty cache. */
export function createPipelines(device: GPUDevice, { traits, tuning }: PipelineOptions): PipelineCache {
  const known = new Map<string, Promise<LoadedKernel>>(), layouts = new Map<string, GPUBindGroupLayout>();
  const tables = new Map<string, GPUBuffer>(), scratch = new Set<GPUBuffer>();
  const layoutFor = (spec: KernelSpec, kernel: WebGpuKernel): GPUBindGroupLayout => {
    const types = spec.buffers.map(({ use }): GPUBufferBindingType => use === "read" ? "read-only-storage" : "storage");
    types.push(...kernel.tables.map(() => "uniform" as const), ...kernel.scratch.map(() => "storage" as const));
    const key = types.join(), found = layouts.get(key);
    if (found) return found;
    const layout = device.createBindGroupLayout({
      entries: types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } })),
    });
    layouts.set(key, layout);
    return layout;
  };
  const tableFor = (words: Uint32Array<ArrayBuffer>): GPUBuffer => {
    const key = words.join(), found = tables.get(key);
    if (found) return found;
    const buffer = device.createBuffer({
      size: words.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    device.queue.writeBuffer(buffer, 0, words);
    tables.set(key, buffer);
    return buffer;
  };
  const usualVariant = (spec: KernelSpec): string => kernelVariants(spec, traits)[0] as string;
  const scratchFor = (size: number): GPUBuffer => {
    const buffer = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE });
    scratch.add(buffer);
    return buffer;
  };
  const compile = async (spec: KernelSpec, variant = usualVariant(spec)): Promise<LoadedKernel> => {
    const kernel = generateKernel(spec, traits, variant), layout = layoutFor(spec, kernel);
    // Pushed and popped without a wait in between: the stack of scopes belongs to the whole device.
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code: kernel.text, label: kernel.name });
    const pipelineLayout = device.createPipelineLayout({ bindGroupLayouts: [layout] });
    // Built beside each other, and beside whatever is being read, where an implementation can.
    const building = Promise.all(kernel.dispatches.map(async ({ entryPoint, grid }) => {
      const compute = { module, entryPoint };
      return {
        pipeline: await device.createComputePipelineAsync({ layout: pipelineLayout, compute, label: kernel.name }),
        grid,
      };
    })).catch((error: GPUPipelineError) => error);
    const error = await device.popErrorScope(), dispatches = await building;
    // The scope knows what is wrong with the module, the pipeline only that something is.
    if (error || !Array.isArray(dispatches)) {
      throw await kernelError(kernel, module, error ?? dispatches as GPUPipelineError);
    }
    const only = kernel.scratch.map(scratchFor);
    return { variant, layout, dispatches, own: [...kernel.tables.map(tableFor), ...only], scratch: only };
  };
  /** Variants are timed one kernel after the other: at the same time they would slow each other down. */
  let turn: Promise<unknown> = Promise.resolve();
  const choose = async (spec: KernelSpec, key: string, store: TuningStore): Promise<LoadedKernel> => {
    const variants = kernelVariants(spec, traits), before = store.get(key);
    if (variants.length === 1) return compile(spec);
    if (before !== undefined && variants.includes(before)) return compile(spec, before);
    const [usual, ...others] = await Promise.all([
      compile(spec),
      // What a driver does not take is no candidate; only the default has to be taken by all.
      ...variants.slice(1).map((variant) => compile(spec, variant).catch(() => undefined)),
    ]);
    const candidates = new Map<string, LoadedKernel>();
    for (const loaded of [usual, ...others]) if (loaded) candidates.set(loaded.variant, loaded);
    const best = await fastest(device, spec, candidates);
    if (best !== undefined) store.set(key, best);
    const chosen = candidates.get(best ?? usualVariant(spec)) as LoadedKernel;
    for (const buffer of [...candidates.values()].flatMap((each) => each === chosen ? [] : each.scratch)) {
      scratch.delete(buffer);
      buffer.destroy();
    }
    return chosen;
  };
  return {
    load(spec) {
      const key = kernelKey(spec), found = known.get(key);
      if (found) return found;
      const loaded = tuning ? turn.then(() => choose(spec, key, tuning)) : compile(spec);
      if (tuning) turn = loaded.catch(() => {});
      known.set(key, loaded);
      return loaded;
    },
    bytes: () => [...tables.values(), ...scratch].reduce((sum, { size }) => sum + size, 0),
    dispose() {
      for (const buffer of [...tables.values(), ...scratch]) buffer.destroy();
    },
  };
}

async function kernelError(
  { name, text }: WebGpuKernel,
  module: GPUShaderModule,
  error: { readonly message: string },
): Promise<Error> {
  const { messages } = await module.getCompilationInfo(), first = messages.find(({ type }) => type === "error");
  const line = first && first.lineNum > 0
    ? `, line ${first.lineNum}: ${text.split("\n")[first.lineNum - 1]?.trim()}`
    : "";
  return new Error(`Internal error in kernel "${name}"${line}: ${(first?.message ?? error.message).trim()}`, {
    cause: error,
  });
}
