/**
 * @file Whole sequences through all calls of a model but the last, at one configuration. Calls run one after the other over all
 * batches, so that one call's weights are in memory at a time.
 */
import type { Backend, Tensor } from "../backends/backend.ts";
import { prepareWalk } from "../backends/runner.ts";
import type { Call } from "../ir/module.ts";
import type { BitConfig } from "../ir/sites.ts";
import { tensorType } from "../ir/types.ts";
import { callPrecisions, configureCall, type ConfiguredCall } from "./configured_call.ts";
import type { ElasticSource } from "./elastic_source.ts";
import type { LengthBatch } from "./length_batches.ts";
import { createPrograms, type ElasticPrograms } from "./programs.ts";

/** A model at one configuration. */
export interface Scorer {
  readonly source: ElasticSource;
  readonly config: BitConfig;
}

/** The values that the last call reads, by name, for every batch. */
export type Hidden = readonly ReadonlyMap<string, Tensor>[];

/** The programs of a source, for whole sequences. */
export type ProgramsOf = (source: ElasticSource) => ElasticPrograms;

/** Makes the programs of each source once. */
export function programCache(): ProgramsOf {
  const known = new Map<ElasticSource, ElasticPrograms>();
  return (source) => {
    const found = known.get(source) ?? createPrograms(source.module, source.scheme, {
      stack: source.runner.backend.dearLaunches ?? false,
    });
    known.set(source, found);
    return found;
  };
}

/** Configures a call, lets `use` run it, and gives its tensors back. */
export async function withCall<T>(
  { source, config }: Scorer,
  programs: ProgramsOf,
  call: Call,
  use: (configured: ConfiguredCall) => Promise<T>,
): Promise<T> {
  const configured = await configureCall(source, programs(source), call, callPrecisions(source, config)(call));
  try {
    return await use(configured);
  } finally {
    configured.free();
  }
}

/** Runs the calls; the caller frees what it gets with `freeHidden`. */
export async function forward(scorer: Scorer, batches: readonly LengthBatch[], programs: ProgramsOf): Promise<Hidden> {
  const { runner, module } = scorer.source, { backend } = runner;
  const hidden = batches.map(({ rows, tokens, ids, positions }) => {
    const type = tensorType("i32", [rows, tokens]);
    return new Map([["ids", backend.upload(type, ids)], ["positions", backend.upload(type, positions)]]);
  });
  for (const [i, call] of module.calls.slice(0, -1).entries()) {
    const needed = new Set(module.calls.slice(i + 1).flatMap(({ inputs }) => Object.values(inputs)));
    await withCall(scorer, programs, call, async ({ step, parameters }) => {
      for (const [batch, values] of hidden.entries()) {
        const symbols = { B: batches[batch]?.rows ?? 1, T: batches[batch]?.tokens ?? 1 };
        (await prepareWalk(runner, [{ call, graph: step, parameters }], symbols))(values);
        for (const [name, tensor] of values) {
          if (needed.has(name)) continue;
          backend.free(tensor);
          values.delete(name);
        }
      }
    });
  }
  return hidden;
}

/** Frees the result of `forward`. */
export function freeHidden(backend: Backend, hidden: Hidden): void {
  for (const tensor of new Set(hidden.flatMap((values) => [...values.values()]))) backend.free(tensor);
}
