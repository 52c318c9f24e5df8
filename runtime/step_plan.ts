/**
 * @file The kernels and the memory that a configuration's step programs take, as the WebGPU backend runs them on a device of
 * the least limits; found without a GPU.
 */
import type { MemoryPlan } from "../backends/backend.ts";
import type { KernelSpec } from "../backends/kernel.ts";
import { lowerGraph } from "../backends/regions/lower.ts";
import { generateKernel } from "../backends/webgpu/kernel.ts";
import { bytesOf } from "../backends/webgpu/layout.ts";
import { planSlots } from "../backends/webgpu/slots.ts";
import { type Graph, leavesOf, nameOf } from "../ir/node.ts";
import { type BitConfig, localWidths } from "../ir/sites.ts";
import { bindSymbols } from "../ir/symbols.ts";
import type { ElasticSource } from "./elastic_source.ts";
import { oneTokenHead } from "./logits.ts";
import { createPrograms } from "./programs.ts";

/** A kernel for people to read. */
export interface CataloguedKernel {
  /** Unique in its catalogue. */
  readonly name: string;
  readonly spec: KernelSpec;
  readonly wgsl: string;
}

/** Distinct kernels of any number of programs. */
export interface KernelCatalogue {
  readonly kernels: readonly CataloguedKernel[];
  /** The kernel of a specification: the one that is there already, if its text is the same. */
  add(spec: KernelSpec): CataloguedKernel;
}

/** An empty catalogue. */
export function createCatalogue(): KernelCatalogue {
  const byText = new Map<string, CataloguedKernel>(), counts = new Map<string, number>();
  return {
    get kernels() {
      return [...byText.values()];
    },
    add: (spec) => {
      const wgsl = generateKernel(spec).text, found = byText.get(wgsl);
      if (found) return found;
      const count = (counts.get(spec.name) ?? 0) + 1, name = count === 1 ? spec.name : `${spec.name}_${count}`;
      counts.set(spec.name, count);
      const kernel = { name, spec, wgsl };
      byText.set(wgsl, kernel);
      return kernel;
    },
  };
}

/** One step program and the calls that run it. */
export interface PlannedStep {
  readonly function: string;
  /** Prefixes of the calls. */
  readonly calls: readonly string[];
  /** Tokens of one run: 1 for decoding, a bucket for prefill. */
  readonly tokens: number;
  /** Tokens that the cache has room for. */
  readonly context: number;
  /** Names in the catalogue, in the order in which they run. */
  readonly kernels: readonly string[];
  readonly memory: MemoryPlan;
}

/** Sizes of the programs to plan. */
export interface StepSizes {
  readonly tokens: readonly number[];
  readonly context: number;
}

/** Plans every step program of a model at one configuration; calls of one function at equal widths share theirs. */
export function planSteps(
  { module, scheme }: Pick<ElasticSource, "module" | "scheme">,
  config: BitConfig,
  { tokens, context }: StepSizes,
  catalogue: KernelCatalogue,
): readonly PlannedStep[] {
  const programs = createPrograms(module, scheme, { cache: true, halves: true, stack: true }),
    calls = new Map<Graph, { function: string; prefixes: string[] }>();
  for (const [i, call] of module.calls.entries()) {
    const step = programs.step(call, localWidths(config, call.prefix));
    // The last call gives logits for one token alone; see `createSession`.
    const graph = i === module.calls.length - 1 ? oneTokenHead(step) : step;
    const known = calls.get(graph) ?? { function: call.function, prefixes: [] };
    known.prefixes.push(call.prefix);
    calls.set(graph, known);
  }
  return tokens.flatMap((size) =>
    [...calls].map(([graph, { function: name, prefixes }]): PlannedStep => {
      const bound = bindSymbols(graph, { B: 1, T: size, S: context });
      const caches = leavesOf(bound, "input").map(nameOf).filter((leaf) =>
        bound.outputs.some(({ name }) => name === leaf)
      );
      const lowered = lowerGraph(bound, {
        inPlace: Object.fromEntries(caches.map((leaf) => [leaf, leaf])),
        storeCodes: true,
      });
      const { arenaBytes, scratchBytes, entries } = planSlots(lowered, bytesOf);
      return {
        function: name,
        calls: prefixes,
        tokens: size,
        context,
        kernels: lowered.steps.map(({ kernel }) => catalogue.add(kernel).name),
        memory: { arenaBytes, scratchBytes, entries },
      };
    })
  );
}

/** Decoding, and a prefill of medium size, with room for the model's context or 2048 tokens. */
export function usualSizes(contextLimit: number): StepSizes {
  return { tokens: [1, 128], context: 2 ** Math.ceil(Math.log2(Math.min(contextLimit, 2048))) };
}
