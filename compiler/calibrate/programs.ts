/** Compiled programs by graph: every function is compiled once, however many calls use it. */
import type { Backend, CompileOptions, Executable, HostArray, Tensor } from "../../backends/backend.ts";
import type { Symbols } from "../../ir/dim.ts";
import type { Graph } from "../../ir/node.ts";
import { bindSymbols } from "../../ir/symbols.ts";
import type { TensorType } from "../../ir/types.ts";

/** Compiles on first use and remembers; runs with everything a host program needs around it. */
export interface Programs {
  readonly backend: Backend;
  get(
    key: string,
    graph: () => Graph,
    symbols?: Symbols,
    options?: CompileOptions | ((graph: Graph) => CompileOptions),
  ): Promise<Executable>;
}

/** An empty cache. */
export function createPrograms(backend: Backend): Programs {
  const known = new Map<string, Promise<Executable>>();
  return {
    backend,
    get: (key, graph, symbols = {}, options = {}) => {
      const full = `${key} ${JSON.stringify(symbols)}`;
      const found = known.get(full);
      if (found) return found;
      const bound = bindSymbols(graph(), symbols);
      const made = backend.compile(bound, typeof options === "function" ? options(bound) : options);
      known.set(full, made);
      return made;
    },
  };
}

/** Tensors that belong together and are released together. */
export interface TensorPool {
  upload(type: TensorType, values: HostArray): Tensor;
  uploadStored(type: TensorType, bytes: Uint8Array): Tensor;
  allocate(type: TensorType): Tensor;
  keep(tensor: Tensor): Tensor;
  release(): void;
}

/** A pool of the backend's tensors. */
export function createPool(backend: Backend): TensorPool {
  const held: Tensor[] = [];
  const keep = (tensor: Tensor): Tensor => {
    held.push(tensor);
    return tensor;
  };
  return {
    upload: (type, values) => keep(backend.upload(type, values)),
    uploadStored: (type, bytes) => keep(backend.uploadStored(type, bytes)),
    allocate: (type) => keep(backend.allocate(type)),
    keep,
    release: () => {
      for (const tensor of held.splice(0)) backend.free(tensor);
    },
  };
}

/** Uses what has to be released, and releases it whatever happens: a caller may stop a calibration by an error of its own. */
export async function within<T extends { release(): void }, R>(
  resource: T,
  use: (resource: T) => Promise<R>,
): Promise<R> {
  try {
    return await use(resource);
  } finally {
    resource.release();
  }
}
