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
  save(call: number, tensors: readonly StoredTensor[]): Promise<void>;
}

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
    save: (call, tensors) => {
      calls.set(call, tensors);
      return Promise.resolve();
    },
  };
}
