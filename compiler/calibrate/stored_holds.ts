/** A call's checkpoint holds on the backend, and as the artifact stores them. */
import type { Tensor } from "../../backends/backend.ts";
import type { Call, Module } from "../../ir/module.ts";
import { concreteShape } from "../../ir/types.ts";
import { prepareCall, type PrepareInput } from "./prepare_call.ts";
import { createPool } from "./programs.ts";
import type { StoredTensor } from "./store.ts";

/** Holds of a call. */
export interface StoredHolds {
  /** On the backend, by local name. */
  readonly tensors: Readonly<Record<string, Tensor>>;
  /** Read back. */
  stored(): Promise<readonly StoredTensor[]>;
  release(): void;
}

/** Prepares a call. */
export async function openHolds(input: PrepareInput, module: Module, call: Call): Promise<StoredHolds> {
  const { backend } = input.programs, pool = createPool(backend);
  const { held: tensors } = await prepareCall(input, module, call, pool);
  const stored = async (): Promise<readonly StoredTensor[]> => {
    const read: StoredTensor[] = [];
    for (const [name, tensor] of Object.entries(tensors)) {
      const { dtype, shape } = tensor.type, values = (await backend.download(tensor)).slice();
      read.push({ name: call.prefix + name, dtype, shape: concreteShape(shape), values });
    }
    return read;
  };
  return { tensors, stored, release: () => pool.release() };
}
