/** Where finished calls go, one by one: a killed run finds them again, and the artifact is written from them. */
import type { HostArray } from "../../backends/backend.ts";
import { type StoredBytes, toStored } from "../../backends/stored.ts";
import { type DType, tensorType } from "../../ir/types.ts";

/** A tensor of the artifact under its global name. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly values: HostArray;
}

/** Keeps the tensors of finished calls, by index of the call. */
export interface CallStore {
  /** The tensors of a call that an earlier run with the same fingerprint finished. */
  load(call: number): Promise<readonly StoredTensor[] | undefined>;
  /** Some tensors of a finished call, by name, as files hold them; those that it lacks are left out. */
  read(call: number, names: readonly string[]): Promise<ReadonlyMap<string, StoredBytes>>;
  /** The tensors of a finished call, whose values are read one by one when they are asked for. */
  tensors(call: number): Promise<readonly LazyTensor[] | undefined>;
  save(call: number, tensors: readonly StoredTensor[]): Promise<void>;
}

/** A tensor whose values may still lie in a file. */
export interface LazyTensor extends Omit<StoredTensor, "values"> {
  readonly values: () => HostArray | Promise<HostArray>;
}

/** What one store holds, with what another holds of the same calls in its place; nothing is saved to it. */
export const overlaid = (below: CallStore, above: CallStore): Pick<CallStore, "read"> => ({
  read: async (call, names) => new Map([...await below.read(call, names), ...await above.read(call, names)]),
});

/** A store that lasts as long as the process. */
export function memoryStore(): CallStore {
  const calls = new Map<number, readonly StoredTensor[]>();
  return {
    load: (call) => Promise.resolve(calls.get(call)),
    read: (call, names) => {
      const wanted = new Set(names), tensors = calls.get(call)?.filter(({ name }) => wanted.has(name)) ?? [];
      const stored = tensors.map(({ name, dtype, shape, values }) =>
        [name, { type: tensorType(dtype, shape), bytes: toStored(dtype, values) }] as const
      );
      return Promise.resolve(new Map(stored));
    },
    tensors: (call) =>
      Promise.resolve(calls.get(call)?.map(({ values, ...tensor }) => ({ ...tensor, values: () => values }))),
    save: (call, tensors) => {
      calls.set(call, tensors);
      return Promise.resolve();
    },
  };
}
