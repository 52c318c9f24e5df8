/** @file What sessions and evaluation run: an elastic module together with everything that is known before the configuration. */
import type { Tensor } from "../backends/backend.ts";
import type { Runner, Tensors } from "../backends/runner.ts";
import type { Frontier } from "../compiler/allocate/frontier.ts";
import { learnedName, type RefinedWidths } from "../compiler/artifact/refined.ts";
import type { ModelSite } from "../compiler/model_sites.ts";
import type { Call, Module } from "../ir/module.ts";
import type { Graph } from "../ir/node.ts";
import type { QuantizationScheme } from "../ir/sites.ts";
import type { TensorType, Width } from "../ir/types.ts";

/**
 * An elastic model on a backend. Its module takes `ids` and `positions`, i32[B,T], and its last call returns the logits
 * f32[B,T,V] of every token.
 */
export interface ElasticSource {
  /** What messages call it. */
  readonly name: string;
  readonly runner: Runner;
  readonly module: Module;
  readonly scheme: QuantizationScheme;
  readonly sites: readonly ModelSite[];
  /** Weight widths that it has grids for. */
  readonly widths: readonly Width[];
  /** The longest context, in tokens. */
  readonly contextLimit: number;
  readonly frontier?: Frontier;
  /** Mixtures with learned values of their own. */
  readonly refined?: readonly RefinedWidths[];
  /**
   * Values of checkpoint holds and learned parameters of a call, on the backend.
   *
   * @param leaves their types, by local name
   * @param set the number of the refined mixture that they were learned for; undefined for all others
   * @returns tensors by local name, which the caller gives back to `release`
   * @throws {UserError} if one is missing, damaged or of another type
   */
  load(call: Call, leaves: ReadonlyMap<string, TensorType>, set?: number): Promise<Tensors>;
  /** Is told what `load` is going to be asked for next, to read it meanwhile; nothing of it is on the backend before. */
  ahead?(call: Call, leaves: ReadonlyMap<string, TensorType>, set?: number): void;
  /** What `load` runs to give these leaves, where they are not stored as they are: its own leaves lie beside them meanwhile. */
  readonly preparation?: (call: Call, names: readonly string[]) => Graph | undefined;
  /** Takes tensors of `load` back. */
  release(call: Call, tensors: Tensors): void;
}

/**
 * The same source, but a tensor that several calls ask for by one global name (an embedding tied to the head) is on the
 * backend once, for as long as somebody holds it. Calls with a prefix of their own, the blocks, share nothing.
 */
export function shareTensors(source: ElasticSource): ElasticSource {
  const prefixes = source.module.calls.map(({ prefix }) => prefix);
  const isAlone = new Map(
    prefixes.map((prefix) => [prefix, prefixes.indexOf(prefix) === prefixes.lastIndexOf(prefix)]),
  );
  const shared = new Map<string, { holders: number; readonly tensors: Promise<Tensors>; readonly call: Call }>();
  const keys = new WeakMap<Tensor, string>();
  const load: ElasticSource["load"] = async (call, leaves, set) => {
    if (isAlone.get(call.prefix)) return await source.load(call, leaves, set);
    const entries = Array.from(leaves, async ([name, type]) => {
      const key = learnedName(call.prefix + name, set), found = shared.get(key);
      const entry = found ?? { holders: 0, call, tensors: source.load(call, new Map([[name, type]]), set) };
      entry.holders++;
      shared.set(key, entry);
      try {
        const tensors = await entry.tensors;
        for (const tensor of Object.values(tensors)) keys.set(tensor, key);
        return tensors;
      } catch (error) {
        shared.delete(key);
        throw error;
      }
    });
    const settled = await Promise.allSettled(entries), failed = settled.find((one) => one.status === "rejected");
    const loaded = settled.flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
    if (!failed) return Object.assign({}, ...loaded);
    for (const tensors of loaded) release(call, tensors);
    throw failed.reason;
  };
  const release: ElasticSource["release"] = (call, tensors) => {
    if (isAlone.get(call.prefix)) return source.release(call, tensors);
    for (const [name, tensor] of Object.entries(tensors)) {
      const key = keys.get(tensor) ?? "", entry = shared.get(key);
      if (!entry || --entry.holders > 0) continue;
      shared.delete(key);
      source.release(entry.call, { [name]: tensor });
    }
  };
  const ahead: ElasticSource["ahead"] = (call, leaves, set) => {
    if (isAlone.get(call.prefix)) return source.ahead?.(call, leaves, set);
    for (const [name, type] of leaves) {
      if (!shared.has(learnedName(call.prefix + name, set))) source.ahead?.(call, new Map([[name, type]]), set);
    }
  };
  return { ...source, load, ahead, release };
}

/** A source whose tensors stay on the backend once they are loaded: switches back and forth read nothing again. */
export interface KeptTensors {
  readonly source: ElasticSource;
  /** Gives everything back; the source must not be used afterwards. */
  free(): void;
}

/** Keeps what a source loads. */
export function keepTensors(source: ElasticSource): KeptTensors {
  const kept = new Map<string, { readonly call: Call; readonly name: string; readonly tensor: Tensor }>();
  const keyOf = ({ prefix }: Call, name: string, set: number | undefined) => learnedName(prefix + name, set);
  const missing = (call: Call, leaves: ReadonlyMap<string, TensorType>, set: number | undefined) =>
    new Map([...leaves].filter(([name]) => !kept.has(keyOf(call, name, set))));
  const load: ElasticSource["load"] = async (call, leaves, set) => {
    for (const [name, tensor] of Object.entries(await source.load(call, missing(call, leaves, set), set))) {
      kept.set(keyOf(call, name, set), { call, name, tensor });
    }
    return Object.fromEntries(
      [...leaves.keys()].map((name) => [name, kept.get(keyOf(call, name, set))?.tensor as Tensor]),
    );
  };
  const ahead: ElasticSource["ahead"] = (call, leaves, set) => source.ahead?.(call, missing(call, leaves, set), set);
  const free = () => {
    for (const { call, name, tensor } of kept.values()) source.release(call, { [name]: tensor });
    kept.clear();
  };
  return { source: { ...source, load, ahead, release: () => {} }, free };
}

/** Frees tensors one by one: `release` of sources that do not share. */
export const freeTensors = ({ backend }: Runner) => (_: Call, tensors: Tensors): void => {
  for (const tensor of Object.values(tensors)) backend.free(tensor);
};
