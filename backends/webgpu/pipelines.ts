/** Compiled kernels, each once; errors of the shader compiler name the kernel and quote its line. */
import type { KernelSpec } from "../kernel.ts";
import { kernelKey } from "../kernel_key.ts";
import { generateKernel, type WebGpuKernel } from "./kernel.ts";

/** A kernel ready to run. */
export interface LoadedKernel {
  readonly layout: GPUBindGroupLayout;
  /** Uniform buffers, bound behind those of the specification. */
  readonly tables: readonly GPUBuffer[];
  readonly dispatches: readonly {
    readonly pipeline: GPUComputePipeline;
    readonly grid: readonly [number, number, number];
  }[];
}

/** The kernels of one device. */
export interface PipelineCache {
  /** Compiles a kernel unless one that differs in names only is known. */
  load(spec: KernelSpec): Promise<LoadedKernel>;
  /** Destroys the tables. */
  dispose(): void;
}

/** Starts an empty cache. */
export function createPipelines(device: GPUDevice): PipelineCache {
  const known = new Map<string, Promise<LoadedKernel>>(), layouts = new Map<string, GPUBindGroupLayout>();
  const tables = new Map<string, GPUBuffer>();
  const layoutFor = (spec: KernelSpec, tables: number): GPUBindGroupLayout => {
    const types = spec.buffers.map(({ use }): GPUBufferBindingType => use === "read" ? "read-only-storage" : "storage");
    types.push(...Array.from({ length: tables }, () => "uniform" as const));
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
  const compile = async (spec: KernelSpec): Promise<LoadedKernel> => {
    const kernel = generateKernel(spec), layout = layoutFor(spec, kernel.tables.length);
    // Pushed and popped without a wait in between: the stack of scopes belongs to the whole device.
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code: kernel.text, label: kernel.name });
    const pipelineLayout = device.createPipelineLayout({ bindGroupLayouts: [layout] });
    const dispatches = kernel.dispatches.map(({ entryPoint, grid }) => ({
      pipeline: device.createComputePipeline({
        layout: pipelineLayout,
        compute: { module, entryPoint },
        label: kernel.name,
      }),
      grid,
    }));
    const error = await device.popErrorScope();
    if (error) throw await kernelError(kernel, module, error);
    return { layout, dispatches, tables: kernel.tables.map(tableFor) };
  };
  return {
    load(spec) {
      const key = kernelKey(spec), found = known.get(key);
      if (found) return found;
      const loaded = compile(spec);
      known.set(key, loaded);
      return loaded;
    },
    dispose() {
      for (const table of tables.values()) table.destroy();
    },
  };
}

async function kernelError({ name, text }: WebGpuKernel, module: GPUShaderModule, error: GPUError): Promise<Error> {
  const { messages } = await module.getCompilationInfo(), first = messages.find(({ type }) => type === "error");
  const line = first && first.lineNum > 0
    ? `, line ${first.lineNum}: ${text.split("\n")[first.lineNum - 1]?.trim()}`
    : "";
  return new Error(`Internal error in kernel "${name}"${line}: ${(first?.message ?? error.message).trim()}`, {
    cause: error,
  });
}
