/** @file What a calibration needs in memory, known before it starts: a sum of sizes, with arenas as the compiler plans them. */
import type { Executable } from "../../backends/backend.ts";
import type { Symbols } from "../../ir/dim.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { type Graph, leavesOf, nameOf } from "../../ir/node.ts";
import { sitesOf } from "../../ir/sites.ts";
import { bindSymbols } from "../../ir/symbols.ts";
import { sizeOf, type TensorType, tensorType } from "../../ir/types.ts";
import { prepareGraph, stage } from "../passes/stage.ts";
import { hasAdapters } from "../adapters.ts";
import type { Recipe } from "../recipe.ts";
import { batchesOf } from "./batches.ts";
import { type BlockFunction, blockProgram, type BlockProgramKind, widthsAt } from "./block_programs.ts";
import { type Ending, endingOf, heldNames } from "./ending.ts";
import { BASIS_BATCHES, basisRows, mostRows, namedBasisRound } from "./input_bases.ts";
import { namedStatistics } from "./input_statistics.ts";
import { learnedLayout } from "./learned.ts";
import { prepareParts, prepareProgram } from "./prepare_call.ts";
import type { Programs } from "./programs.ts";
import { compileClips } from "./search_clips.ts";
import type { CalibrationSettings } from "./settings.ts";
import { isLearned, TRAIN_LEAVES } from "./train_program.ts";

/** What decides the memory; see `CalibrationInput`. */
export interface CalibrationMemoryInput {
  readonly programs: Programs;
  readonly structure: Module;
  readonly elastic: Module;
  readonly recipe: Recipe;
  readonly settings: CalibrationSettings;
  readonly sequences: readonly Int32Array[];
}

/** What a calibration is at when it holds something: a call goes through these one after the other. */
export type CalibrationPhase = "targets" | "preparation" | "training" | "advance";

/** Bytes on the backend during one phase of one call. */
export interface PhaseMemory {
  /** Function of the call. */
  readonly function: string;
  readonly phase: CalibrationPhase;
  /** Weights: of the checkpoint for targets; the master with its scales and what is not quantized afterwards. */
  readonly weights: number;
  /** Learned values, their gradients and two moments, and in the last part of a training their mean: 4 or 5 floats each. */
  readonly learned: number;
  /** Inputs, targets and outputs of one batch. */
  readonly batch: number;
  /** Intermediate values of the largest program, and working memory of the threads. */
  readonly arena: number;
  readonly scratch: number;
  readonly total: number;
}

/** Bytes on the host, beside the weights of a block while they are read and written. */
export interface HostMemory {
  /** Values in front of a block: one copy per bit group (one in all where inputs are fused), and one in full precision. */
  readonly tracks: number;
  /** Token ids, positions and weights, and what else blocks read that is the same for all of them. */
  readonly tokens: number;
  /** A finished block until it is written, and its learned values on their way. */
  readonly block: number;
  readonly total: number;
}

/** The planned peak of a calibration, in bytes. */
export interface CalibrationMemory {
  /** The phase that needs most. */
  readonly peak: PhaseMemory;
  /** The most that any call needs in each phase. */
  readonly phases: readonly PhaseMemory[];
  readonly host: HostMemory;
  readonly total: number;
}

/**
 * Plans a calibration's memory. Calls hold memory one after the other, and calls of one function are alike, so nothing here depends
 * on the number of blocks.
 *
 * For a block of N weights, the largest linear of which has N_max, with P learned values and b = B·T tokens of width h in a batch:
 *
 *     targets      4·N                             + batch  + arena
 *     preparation  N·(1 + 1/4 + 2/64) + 4·N_max                   + arena
 *                  with 4·P·4 + batch in addition, where columns' scales are searched; for starts of adapters of rank r
 *                  4·N + batch + 2·4·(r + 8)·q for every value of q columns that linears read, instead
 *     training     N·(1 + 1/4 + 2/64) + 4·P·(4 + mean)   + batch  + arena
 *                  with 4·V·h for a vocabulary of V in addition, where the last block learns by logits, too
 *     host         ((groups + 1)·tokens + 8·b)·4·h + ids, positions, weights, rotary tables + the block itself
 *
 * with mean = 1 where the last steps are averaged, batch = 4·b·(2·h + rotary tables + 1), and the arena of the largest program, which
 * is about 3·4·N_max for the weight in hand, its product and its gradient, 4·b·(6·h + 2·f) for what the backward pass reads, and 12·b·f
 * between; for logits some 4·4·min(b·V, 2^26). Exact sizes are those of the backend's layouts, the arena is the compiler's plan. The
 * programs are compiled for it, and found again by the calibration.
 *
 * Without a folder to write to, finished blocks, those of a rehearsal, too, stay on the host beside this.
 */
export async function calibrationMemory(input: CalibrationMemoryInput): Promise<CalibrationMemory> {
  const { programs, structure, elastic, recipe, settings } = input;
  const { batch, tokens, list } = batchesOf(
    input.sequences.slice(0, settings.sequences),
    settings.batch,
    settings.tokens,
  );
  const symbols = { B: batch, T: tokens };
  const phases: Omit<PhaseMemory, "arena" | "scratch" | "total">[] = [], known = new Set<string>();
  const last = elastic.calls.findLastIndex((call) => isQuantized(elastic, call));
  const ending = settings.logits > 0 && last >= 0 ? endingOf(structure, last) : undefined;
  let stored = 0;
  for (const [index, call] of elastic.calls.entries()) {
    if (ending && index === last) phases.push(...await lastBlock(input, call, ending, { batch, tokens }));
    if (known.has(call.function)) continue;
    known.add(call.function);
    const { peak, held } = await preparation(programs, elastic, call);
    phases.push({ function: call.function, phase: "preparation", weights: peak, learned: 0, batch: 0 });
    const exact = index <= last && await exactCall(programs, structure, structure.calls[index] as Call, symbols);
    if (exact) {
      phases.push({ function: call.function, phase: "preparation", weights: exact.peak, learned: 0, batch: 0 });
      phases.push({ function: call.function, phase: "targets", weights: exact.held, learned: 0, batch: exact.batch });
    }
    if (isQuantized(elastic, call)) {
      if (recipe.scaleColumns || settings.clipSearch) {
        const { name, graph } = namedStatistics(functionOf(structure, call), call.function);
        await programs.get(`exact ${name}`, graph, symbols);
      }
      const block = await quantizedCall(input, call, { batch, tokens });
      if (exact && settings.adapterStart === "inputs" && block.rank > 0) {
        const { name, graph } = namedBasisRound(functionOf(structure, call), call.function, basisRows(block.rank));
        const run = await programs.get(`exact ${name}`, graph, symbols);
        // Bases go in as they come out.
        const bases = 2 * sum(Object.values(run.outputs).map((type) => programs.backend.bytesOf(type)));
        const common = { function: call.function, weights: exact.held, batch: exact.batch + bases };
        phases.push({ ...common, phase: "preparation", learned: 0 });
      }
      if (recipe.scaleColumns) {
        const common = { function: call.function, weights: peak, batch: block.batch };
        phases.push({ ...common, phase: "preparation", learned: block.kept });
      }
      const common = { function: call.function, weights: held };
      phases.push({ ...common, phase: "training", learned: block.training, batch: block.batch });
      phases.push({ ...common, phase: "advance", learned: block.kept, batch: block.batch + block.output });
      stored = Math.max(stored, block.stored);
    }
  }
  const { arena, scratch } = programs.backend.workSpace();
  const all = phases.map((phase): PhaseMemory => {
    return { ...phase, arena, scratch, total: phase.weights + phase.learned + phase.batch + arena + scratch };
  });
  const largest = (some: readonly PhaseMemory[]) => some.reduce((most, each) => each.total > most.total ? each : most);
  const peak = largest(all), host = hostMemory(input, { ...symbols, batches: list.length }, stored);
  return {
    peak,
    phases: [...Map.groupBy(all, ({ phase }) => phase).values()].map(largest),
    host,
    total: peak.total + host.total,
  };
}

const isQuantized = (module: Module, call: Call): boolean => sitesOf(functionOf(module, call)).length > 0;

/** Checkpoint holds of a call, and the most that is alive while they are made: one large parameter beside them. */
export async function preparation(programs: Programs, module: Module, call: Call) {
  const { backend } = programs, graph = prepareGraph(functionOf(module, call));
  const held = sum(graph.outputs.map(({ node }) => backend.bytesOf(node.type)));
  let raw = 0;
  for (const part of prepareParts(graph)) {
    if (part.kind === "parameter") continue;
    await prepareProgram(programs, call, part.graph);
    raw = Math.max(raw, sum(leavesOf(part.graph, "param").map(({ type }) => backend.bytesOf(type))));
  }
  return { held, peak: held + raw };
}

/** A call in full precision; see `calibrate`. */
async function exactCall(programs: Programs, module: Module, call: Call, symbols: Symbols) {
  const { backend } = programs, prepared = await preparation(programs, module, call);
  const step = stage(functionOf(module, call)).step;
  const run = await programs.get(`exact ${call.function}`, () => step, symbols);
  const inputs = leavesOf(bindSymbols(step, symbols), "input").map(({ type }) => type);
  const batch = sum([...inputs, ...Object.values(run.outputs)].map((type) => backend.bytesOf(type)));
  return { ...prepared, batch };
}

/** The last block, which learns by logits, too: beside it are the calls behind it. */
async function lastBlock(input: CalibrationMemoryInput, call: Call, ending: Ending, batches: BlockFunction["batches"]) {
  const { programs, structure, elastic } = input, { held } = await preparation(programs, elastic, call);
  let end = 0, peak = 0;
  for (const own of ending.calls) {
    const prepared = await preparation(programs, structure, own);
    peak = Math.max(peak, end + prepared.peak);
    end += prepared.held;
  }
  const block = await quantizedCall(input, call, batches, ending.graph);
  const common = { function: call.function, learned: 0, batch: 0 };
  return [
    { ...common, phase: "preparation", weights: held + peak },
    { ...common, phase: "training", weights: held + end, learned: block.training, batch: block.batch },
  ] as const;
}

/** A call at any width: what is learned, and what one batch brings. */
async function quantizedCall(
  { programs, elastic, recipe, settings }: CalibrationMemoryInput,
  call: Call,
  batches: BlockFunction["batches"],
  ending?: Graph,
) {
  const { backend } = programs, graph = functionOf(elastic, call), widths = recipe.bitGroups.flat();
  const layout = learnedLayout(graph, recipe.scheme, widths),
    flat = backend.bytesOf(tensorType("f32", [layout.length]));
  const block: BlockFunction = { graph, name: call.function, recipe, settings, batches, ...(ending ? { ending } : {}) };
  const judged = settings.balance || recipe.scaleColumns || ending !== undefined;
  const kinds: readonly BlockProgramKind[] = judged ? ["forward", "loss", "train"] : ["forward", "train"];
  const compiled: Executable[] = [];
  for (const by of ending ? ["output", "logits"] as const : ["output"] as const) {
    for (const kind of kinds) {
      if (kind === "forward" && by === "logits") continue;
      for (const width of widths) {
        compiled.push(await blockProgram(programs, block, kind, widthsAt(graph, recipe, width), by));
      }
    }
  }
  if (settings.clipSearch) {
    const clips = { programs, graph, name: call.function, scheme: recipe.scheme, clipStart: settings.clipStart };
    for (const width of widths) compiled.push(await compileClips(clips, width));
  }
  const held = prepareGraph(graph).outputs,
    names = new Set([...held.map(({ name }) => name), ...heldNames(ending)]),
    own = new Map<string, TensorType>();
  for (const { leaves } of compiled) {
    for (const [name, type] of Object.entries(leaves)) {
      if (!names.has(name) && !isLearned(name.replace(/^gradient\./, ""))) own.set(name, type);
    }
  }
  own.set(TRAIN_LEAVES.tokenWeights, tensorType("f32", [batches.batch, batches.tokens, 1]));
  const output = Math.max(
    0,
    ...compiled.flatMap(({ outputs }) => Object.entries(outputs)).map(([name, type]) =>
      call.outputs[name] === undefined ? 0 : backend.bytesOf(type)
    ),
  );
  return {
    rank: mostRows(layout),
    kept: 4 * flat,
    training: (settings.average > 0 ? 5 : 4) * flat,
    batch: sum([...own.values()].map((type) => backend.bytesOf(type))),
    output,
    // Host arrays have four bytes per value, and learned ones exist as read back, as stored, and as they were at the start.
    stored: 4 * sum(held.map(({ node }) => sizeOf(node.type.shape))) + 3 * 4 * layout.length,
  };
}

/** What all batches hold outside of the backend. */
function hostMemory(
  { elastic, recipe, settings }: CalibrationMemoryInput,
  { batches, ...symbols }: Symbols & { readonly batches: number },
  block: number,
): HostMemory {
  const types = new Map<string, TensorType>(), read = new Set<string>(), changed = new Set<string>();
  for (const call of elastic.calls) {
    const graph = bindSymbols(functionOf(elastic, call), symbols);
    for (const [input, value] of Object.entries(call.inputs)) {
      const node = leavesOf(graph, "input").find((leaf) => nameOf(leaf) === input);
      if (node) types.set(value, node.type);
      if (isQuantized(elastic, call)) read.add(value);
    }
    if (isQuantized(elastic, call)) { for (const value of Object.values(call.outputs)) changed.add(value); }
  }
  const bytes = (names: Iterable<string>) => sum([...names].map((name) => 4 * sizeOf(types.get(name)?.shape ?? [0])));
  const copies = 1 + (settings.inputs === "tracks" ? recipe.bitGroups.length : 1);
  // Adapters' starts look at some batches once more.
  const directed = settings.adapterStart === "inputs" && hasAdapters(recipe.scheme.adapters);
  const again = directed ? Math.min(BASIS_BATCHES, batches) : 0;
  const tracks = (batches * copies + again) * bytes([...read].filter((name) => changed.has(name)));
  const fixed = new Set([...read, "ids", "positions"].filter((name) => !changed.has(name)));
  const tokens = batches * (bytes(fixed) + 4 * Number(symbols.B) * Number(symbols.T));
  return { tracks, tokens, block, total: tracks + tokens + block };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);
