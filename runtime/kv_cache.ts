/** @file Keys and values of the tokens so far, on the backend. Capacity grows in powers of two, by copying. */
import type { Tensor } from "../backends/backend.ts";
import type { CallState, Runner } from "../backends/runner.ts";
import { createBuilder } from "../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../ir/node.ts";
import { bindSymbols } from "../ir/symbols.ts";
import { type TensorType, tensorType, typeText } from "../ir/types.ts";

/** The cache of one sequence, for all calls of a model. */
export interface KeyValueCache {
  /** Tokens in it; the next one goes to this position. */
  length: number;
  /** Tokens it has room for. */
  readonly capacity: number;
  /** Makes room for so many tokens in all. `steps` are the step programs of the calls, which say what is cached. */
  reserve(tokens: number, steps: readonly Graph[]): Promise<void>;
  /** What a call's step program binds and overwrites; undefined where nothing is cached. */
  state(call: number): CallState | undefined;
  /** Forgets all tokens and gives the memory back. */
  clear(): void;
}

const LEAST_CAPACITY = 64;

/** The capacity that a cache grows to for so many tokens. */
export function capacityFor(present: number, tokens: number): number {
  let next = Math.max(present, LEAST_CAPACITY);
  while (next < tokens) next *= 2;
  return next;
}

/** What a step program reads and overwrites of a cache for `capacity` tokens. */
export const cacheLeaves = (step: Graph, capacity: number): readonly Node[] =>
  leavesOf(bindSymbols(step, { B: 1, T: 1, S: capacity }), "input").filter((node) =>
    nameOf(node).startsWith(CACHE_INPUT)
  );

/** Inputs of step programs that are cached values begin so (see `insertCache`). */
const CACHE_INPUT = "cache.";

/** An empty cache. */
export function createCache(runner: Runner): KeyValueCache {
  const { backend } = runner, copies = new Map<string, Graph>();
  let caches: readonly CallState[] = [], capacity = 0;

  const grown = async (old: Tensor | undefined, type: TensorType): Promise<Tensor> => {
    if (!old) return backend.allocate(type);
    const key = `${typeText(old.type)} ${typeText(type)}`, graph = copies.get(key) ?? copyGraph(old.type, type);
    copies.set(key, graph);
    const { grown } = await runner.call(graph, {}, { old });
    backend.free(old);
    return grown as Tensor;
  };

  const cache: KeyValueCache = {
    length: 0,
    get capacity() {
      return capacity;
    },
    reserve: async (tokens, steps) => {
      if (tokens <= capacity) return;
      const next = capacityFor(capacity, tokens), larger: CallState[] = [];
      const alive = new Set(caches.flatMap(({ leaves }) => Object.values(leaves)));
      try {
        for (const [i, step] of steps.entries()) {
          const tensors: Record<string, Tensor> = {};
          for (const node of cacheLeaves(step, next)) {
            const old = caches[i]?.leaves[nameOf(node)], tensor = await grown(old, node.type);
            if (old) alive.delete(old);
            alive.add(tensor);
            tensors[nameOf(node)] = tensor;
          }
          const inPlace = Object.fromEntries(Object.keys(tensors).map((name) => [name, name]));
          larger.push({ leaves: tensors, options: { inPlace } });
        }
      } catch (error) {
        // Some are larger, others are not: none is of use.
        for (const tensor of alive) backend.free(tensor);
        caches = [];
        cache.clear();
        throw error;
      }
      caches = larger;
      capacity = next;
    },
    state: (call) => caches[call],
    clear: () => {
      for (const tensor of caches.flatMap(({ leaves }) => Object.values(leaves))) backend.free(tensor);
      caches = [];
      capacity = 0;
      cache.length = 0;
    },
  };
  return cache;
}

/** [1,S,…] with room behind it: zeros up to the larger S. */
function copyGraph(from: TensorType, to: TensorType): Graph {
  const b = createBuilder(), none = from.shape.map(() => 0);
  const more = from.shape.map((dim, axis) => axis === 1 ? Number(to.shape[1]) - Number(dim) : 0);
  return graphOf({ grown: b.pad(b.input("old", tensorType(from.dtype, from.shape)), none, more) });
}
