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
  readonly stored: readonly StoredTensor[];
  release(): void;
}

/** Prepares a call, and reads back what it holds. */
export async function openHolds(input: PrepareInput, module: Module, call: Call): Promise<StoredHolds> {
  const { backend } = input.programs, pool = createPool(backend), stored: StoredTensor[] = [];
  const { held: tensors } = await prepareCall(input, module, call, pool);
  for (const [name, tensor] of Object.entries(tensors)) {
    const { dtype, shape } = tensor.type, values = (await backend.download(tensor)).slice();
    stored.push({ name: call.prefix + name, dtype, shape: concreteShape(shape), values });
  }
  return { tensors, stored, release: () => pool.release() };
}
