/**
 * Block-wise calibration (quept-method 1.4, 8): walks a module's calls in order. The target of a block is the output of the
 * original weights on full-precision inputs; what it learns on are the inputs that quantized predecessors leave. The last block
 * learns by the logits behind it, too (`ending.ts`).
 */
import type { HostArray } from "../../backends/backend.ts";
import { quote, UserError } from "../../ir/errors.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { random } from "../../ir/random.ts";
import { type BitConfig, type LocalWidths, localWidths, sitesOf, WIDTHS } from "../../ir/sites.ts";
import type { Width } from "../../ir/types.ts";
import { hasAdapters } from "../adapters.ts";
import type { Recipe } from "../recipe.ts";
import { advanceTracks, type Track } from "./advance_tracks.ts";
import { asFloats, batchesOf, type Values } from "./batches.ts";
import { type Losses, openBlock } from "./block.ts";
import { columnScales } from "./column_scales.ts";
import type { MixtureOfBits } from "./draw.ts";
import { endingOf, openEnding } from "./ending.ts";
import { openExact } from "./exact_call.ts";
import { BASIS_BATCHES, startAdapters } from "./input_bases.ts";
import { type InputStatistics, inputStatistics } from "./input_statistics.ts";
import { initialLearned, learnedLayout, restoredLearned, storedLearned } from "./learned.ts";
import type { LoadParameter } from "./prepare_call.ts";
import { type Programs, within } from "./programs.ts";
import type { CalibrationSettings } from "./settings.ts";
import { type BlockStart, findClips, findScales } from "./start_block.ts";
import type { CallStore } from "./store.ts";
import { openHolds } from "./stored_holds.ts";

/** Where a calibration is; `step` counts optimiser steps of this block. */
export interface CalibrationProgress {
  readonly block: number;
  readonly blocks: number;
  readonly step: number;
  readonly steps: number;
  /** Mean loss of the output per bit group since the last report. */
  readonly loss: number;
  /** The same of the logits' divergence per sequence, in nats, where a block learns by that, too. */
  readonly divergence?: number;
}

/** What a calibration works on. */
export interface CalibrationInput {
  readonly programs: Programs;
  /** The model as `structureModule` and as `elasticModule` made it, of one recipe. */
  readonly structure: Module;
  readonly elastic: Module;
  readonly recipe: Recipe;
  readonly settings: CalibrationSettings;
  readonly load: LoadParameter;
  /** Token ids, each sequence on its own. */
  readonly sequences: readonly Int32Array[];
  readonly seed: number;
  readonly store: CallStore;
  /** What mixtures are drawn from; without it every draw is of one width. */
  readonly mixtureOf?: MixtureOfBits;
  /** An earlier calibration whose scales and learned values this one starts from; none are searched then. */
  readonly begun?: CallStore;
  /**
   * The one configuration to learn, from what `begun` has learned for its widths: the recipe's one bit group names them, and the
   * store gets what is learned and nothing else.
   */
  readonly only?: BitConfig;
  readonly report?: (progress: CalibrationProgress) => void;
}

/**
 * Calibrates a module and leaves every call's tensors in the store.
 *
 * @returns how parameters are read from now on: scales of columns are as they were found
 */
export async function calibrate(given: CalibrationInput): Promise<LoadParameter> {
  const { programs, structure, elastic, recipe, settings, sequences, only, report } = given;
  const scales = columnScales(structure, given.load), input = { ...given, load: scales.load };
  const batches = batchesOf(sequences.slice(0, settings.sequences), settings.batch, settings.tokens);
  const symbols = { B: batches.batch, T: batches.tokens };
  const full: Track = batches.list.map(({ ids, positions }) =>
    new Map<string, HostArray>([["ids", ids], ["positions", positions]])
  );
  // Until the first quantized call they are the same values.
  let tracks: readonly Track[] = [];
  const quantized = elastic.calls.map((call) => sitesOf(functionOf(elastic, call)).length > 0);
  const blocks = quantized.filter(Boolean).length, last = quantized.lastIndexOf(true);
  const ending = settings.logits > 0 && blocks > 0 ? endingOf(structure, last) : undefined;
  let block = 0;

  for (const [index, call] of elastic.calls.entries()) {
    if (!quantized[index]) {
      if (!only) {
        await within(await openHolds(input, elastic, call), async (held) => {
          await input.store.save(index, await held.stored());
        });
      }
      if (index > last) continue;
      await within(await openExact(input, structure, structure.calls[index] as Call), async (exact) => {
        for (const track of [full, ...tracks]) await advanceTrack(track, (values) => exact.run(values, symbols));
      });
      continue;
    }

    if (tracks.length === 0) tracks = recipe.bitGroups.map(() => [...full]);
    const targets: Float32Array[] = [], [output] = Object.values(call.outputs);
    if (output === undefined || Object.keys(call.outputs).length > 1) {
      throw new TypeError(`Cannot calibrate "${call.function}": expected a function with one output`);
    }
    const saved = await input.store.load(index), begun = await input.begun?.load(index), before = saved ?? begun;
    // What is looked at once more behind the search for scales.
    const directed = settings.adapterStart === "inputs" && !before && hasAdapters(recipe.scheme.adapters);
    const front = directed ? full.slice(0, BASIS_BATCHES) : [];
    const statistics = await within(
      await openExact(input, structure, structure.calls[index] as Call),
      async (exact) => {
        const found = (recipe.scaleColumns || settings.clipSearch) && !before
          ? await inputStatistics(exact, functionOf(structure, call), call.function, batches, full)
          : new Map<string, InputStatistics>();
        await advanceTrack(full, async (values) => {
          const after = await exact.run(values, symbols);
          targets.push(asFloats(after.get(output) as HostArray));
          return after;
        });
        return found;
      },
    );

    const graph = functionOf(elastic, call), local = only && localWidths(only, call.prefix);
    const layout = learnedLayout(graph, recipe.scheme, local ? learnedWidths(local) : recipe.bitGroups.flat());
    const rng = (what: string) => random(input.seed, `calibration.${call.prefix}${what}`);
    const learned = before
      ? restoredLearned(layout, call.prefix, before)
      : initialLearned(layout, settings.clipStart, rng("start"));
    const { mixtureOf } = input,
      bound = {
        graph,
        name: call.function,
        recipe,
        settings,
        layout,
        batches,
        inputs: call.inputs,
        ...(mixtureOf ? { mixtureOf: (bits: number) => localWidths(mixtureOf(bits), call.prefix) } : {}),
        ...(local ? { only: local } : {}),
      };
    const beginning: BlockStart = { programs, elastic, call, block: bound, tracks, targets, statistics };
    const found = begun ?? saved;
    if (found) scales.restore(call, found);
    else await findScales(beginning, scales, learned);
    if (directed) {
      // With the scales that were just found.
      await within(await openExact(input, structure, structure.calls[index] as Call), async (exact) => {
        const search = {
          exact,
          graph: functionOf(structure, call),
          name: call.function,
          layout,
          batches,
          track: front,
        };
        await startAdapters(search, learned, rng("directions"));
      });
      front.length = 0;
    }
    const at = block++;
    await within(await openHolds(input, elastic, call), async (held) => {
      if (settings.clipSearch && !before) await findClips(beginning, scales, held.tensors, learned);
      const behind = index === last && !saved ? ending : undefined;
      await within(await openEnding(input, structure, behind), async (end) => {
        const taught = {
          ...bound,
          ...(behind ? { ending: behind.graph } : {}),
          held: { ...held.tensors, ...end.tensors },
        };
        await within(openBlock(programs, taught, learned), async (opened) => {
          if (!saved) {
            const steps = settings.epochs * batches.list.length;
            await opened.train(tracks, targets, rng("bits"), (step, losses) => {
              checkLoss(losses, call.prefix || call.function, step);
              report?.({ block: at, blocks, step, steps, ...losses });
            });
            const learnt = storedLearned(layout, call.prefix, await opened.learned());
            await input.store.save(index, only ? learnt : [...await held.stored(), ...scales.stored(call), ...learnt]);
            // What goes on to the next block is what is stored.
            opened.restore(restoredLearned(layout, call.prefix, learnt));
          }
          if (index < last) {
            await advanceTracks(opened, { recipe, settings, batches, output, tracks, programs }, rng("tracks"));
          }
        });
      });
    });
  }
  return scales.load;
}

/** A calibration whose loss is not finite any more. */
export class DivergedError extends UserError {}

function checkLoss({ loss, divergence = 0 }: Losses, call: string, step: number): void {
  const found = [loss, divergence].find((value) => !Number.isFinite(value));
  if (found === undefined) return;
  throw new DivergedError({
    what: `Expected a calibration that converges but found a loss of ${found} at step ${step} of ${quote(call)}`,
    mend: "learn more slowly, for example with --set adapter-rate=1e-4 --set clip-rate=0.01",
  });
}

/** The width that each site learns for: its own, none in full precision. */
const learnedWidths = (widths: LocalWidths) => (site: string): readonly Width[] =>
  WIDTHS.filter((width) => width === widths[site]);

async function advanceTrack(track: Track, change: (values: Values) => Promise<Values>): Promise<void> {
  for (const [i, values] of track.entries()) track[i] = await change(values);
}
