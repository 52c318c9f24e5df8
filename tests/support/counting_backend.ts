/** A backend that counts what is alive on it, and refuses what is not: leaks and uses after free become test failures. */
import type { Backend, Tensor } from "../../backends/backend.ts";

/** The backend, and the tensors that nobody has freed yet. */
export interface CountingBackend {
  readonly backend: Backend;
  readonly alive: ReadonlySet<Tensor>;
}

/** Wraps a backend. Views die with the tensor that they are views of. */
export function countingBackend(inner: Backend): CountingBackend {
  const alive = new Set<Tensor>(), ownerOf = new Map<Tensor, Tensor>();
  const born = (tensor: Tensor): Tensor => {
    alive.add(tensor);
    return tensor;
  };
  const living = (tensor: Tensor): Tensor => {
    if (alive.has(ownerOf.get(tensor) ?? tensor)) return tensor;
    throw new Error("A tensor is used that was freed, or that belongs to another backend");
  };
  const backend: Backend = {
    ...inner,
    allocate: (type) => born(inner.allocate(type)),
    upload: (type, values) => born(inner.upload(type, values)),
    uploadStored: (type, bytes) => born(inner.uploadStored(type, bytes)),
    write: (tensor, values) => inner.write(living(tensor), values),
    download: (tensor) => inner.download(living(tensor)),
    view: (tensor, offset, type) => {
      const view = inner.view(living(tensor), offset, type);
      ownerOf.set(view, ownerOf.get(tensor) ?? tensor);
      return view;
    },
    free: (tensor) => {
      inner.free(living(tensor));
      alive.delete(tensor);
    },
    run: (executable, leaves, outputs = {}) => {
      const given = new Set([...Object.values(leaves), ...Object.values(outputs)].map(living));
      const results = inner.run(executable, leaves, outputs);
      for (const tensor of Object.values(results)) if (!given.has(tensor)) born(tensor);
      return results;
    },
  };
  return { backend, alive };
}
