/** Learns one block: adapters and clips so that its output at every width is near that of the original block. */
import type { Executable, Tensor } from "../../backends/backend.ts";
import type { Random } from "../../ir/random.ts";
import { type LocalWidths, sitesOf, symmetricTop, unsignedTop, widthOf } from "../../ir/sites.ts";
import { type TensorType, tensorType, type Width } from "../../ir/types.ts";
import { topName } from "../passes/quantize/specialize.ts";
import type { Recipe } from "../recipe.ts";
import type { Batches, Values } from "./batches.ts";
import { type BlockFunction, blockProgram, type BlockProgramKind, type Objective, widthsAt } from "./block_programs.ts";
import type { LearnedLayout } from "./learned.ts";
import { openAverage } from "./average.ts";
import { rowsAt } from "./block_losses.ts";
import { drawWidths, takesPart } from "./draw.ts";
import { openOptimizer } from "./optimizer.ts";
import { createPool, type Programs } from "./programs.ts";
import type { CalibrationSettings } from "./settings.ts";
import { isLearned, TRAIN_LEAVES } from "./train_program.ts";

/** What training and running a quantized block needs. */
export interface BlockInput extends BlockFunction {
  readonly settings: CalibrationSettings;
  readonly layout: LearnedLayout;
  readonly batches: Batches;
  /** Function input -> named value. */
  readonly inputs: Readonly<Record<string, string>>;
  /** Mixtures of the block's sites by mean bits of the model; none are drawn without it. */
  readonly mixtureOf?: (bits: number) => LocalWidths;
  /** What every draw gives, where one configuration is learned. */
  readonly only?: LocalWidths;
  /** Checkpoint holds by local name, and what the ending reads. */
  readonly held: Readonly<Record<string, Tensor>>;
}

/** A block at hand: its learned values on the backend, and programs at any widths. */
export interface ElasticBlock {
  /** Output of one batch. */
  forward(values: Values, widths: LocalWidths): Promise<Float32Array>;
  /** Widths drawn from a bit group: one for all sites, or now and then a mixture (see `drawWidths`). */
  draw(widths: readonly Width[], rng: Random): LocalWidths;
  /** Mean loss over some batches at one width. */
  loss(width: Width, inputs: readonly Values[], targets: readonly Float32Array[], count: number): Promise<number>;
  /** All optimiser steps. `inputs[g]` are the values that bit group g sees, one per batch. */
  train(
    inputs: readonly (readonly Values[])[],
    targets: readonly Float32Array[],
    rng: Random,
    report: (step: number, losses: Losses) => void,
  ): Promise<void>;
  learned(): Promise<Float32Array>;
  /** Puts other learned values in place of those that there are. */
  restore(learned: Float32Array): void;
  release(): void;
}

/** Mean losses per bit group over some steps: of the output, and of logits where a block learns by them. */
export interface Losses {
  readonly loss: number;
  readonly divergence?: number;
}

/** A program and what it runs on. */
interface BoundProgram {
  readonly run: Executable;
  readonly leaves: Readonly<Record<string, Tensor>>;
}

/** Steps between two looks at the loss: a readback costs about 10 ms on some GPUs. */
const REPORT_EVERY = 16;
/** Losses per token below which a loss is taken for as much: differences of nearly equal logits are noise of f32. */
const LEAST: Readonly<Record<Objective, number>> = { output: 1e-14, logits: 1e-6 };
/** Batches whose loss before training sets the balance of bit groups. */
const BALANCE_BATCHES = 8;

/** Opens a block with the given learned values. */
export function openBlock(programs: Programs, block: BlockInput, learnedValues: Float32Array): ElasticBlock {
  const { backend } = programs, { settings, recipe, layout, batches } = block;
  const pool = createPool(backend);
  const flat = (values?: Float32Array) => {
    const type = tensorType("f32", [layout.length]);
    return values ? pool.upload(type, values) : pool.allocate(type);
  };
  const learned = flat(learnedValues), gradient = flat(), moment1 = flat(), moment2 = flat();
  const scalar = (value = 0) => pool.upload(tensorType("f32", [1]), Float32Array.of(value));
  const weights = pool.allocate(tensorType("f32", [batches.batch, batches.tokens, 1])),
    lossWeight = scalar(1);
  /** What the block learns by, each with the sum of its losses so far. */
  const objectives: readonly Objective[] = block.ending ? ["output", "logits"] : ["output"];
  const lossSums = new Map(objectives.map((by) => [by, scalar()]));
  const values = new Map<string, Tensor>(), views = new Map<string, Tensor>(), tops = new Map<number, Tensor>();
  const sites = sitesOf(block.graph), uniforms = new Map<Width, LocalWidths>();
  const uniform = (width: Width): LocalWidths => {
    const found = uniforms.get(width) ?? widthsAt(block.graph, recipe, width);
    uniforms.set(width, found);
    return found;
  };
  /** Programs with their leaves, by widths: uniform ones come again and again, mixtures hardly ever. */
  const bound = new WeakMap<LocalWidths, Map<string, BoundProgram>>();

  /** Programs of some widths; widths of equal ranks and group sizes, and their mixtures, share them. */
  const program = async (
    kind: BlockProgramKind,
    widths: LocalWidths,
    by: Objective = "output",
  ): Promise<BoundProgram> => {
    const known = bound.get(widths) ?? new Map<string, BoundProgram>(), key = `${kind} ${by}`;
    bound.set(widths, known);
    const before = known.get(key);
    if (before) return before;
    const run = await blockProgram(programs, block, kind, widths, by);
    const made = { run, leaves: bindLeaves(run, widths, by) };
    known.set(key, made);
    return made;
  };

  const fixed: Readonly<Record<string, Tensor>> = {
    ...block.held,
    [TRAIN_LEAVES.tokenWeights]: weights,
    [TRAIN_LEAVES.lossWeight]: lossWeight,
  };
  const topOf = (top: number): Tensor => {
    const found = tops.get(top) ?? scalar(top);
    tops.set(top, found);
    return found;
  };
  const siteTops = (widths: LocalWidths): Record<string, Tensor> =>
    Object.fromEntries(sites.flatMap(({ name, role }) => {
      const width = widthOf(widths, name);
      if (width === undefined || role === "adapter") return [];
      return [[topName(name), topOf(role === "activation" ? symmetricTop(width) : unsignedTop(width))]];
    }));
  /** The part of a flat array that a learned leaf, or its gradient, is. */
  const viewOf = (leaf: string, type: TensorType, widths: LocalWidths): Tensor => {
    const variable = leaf.replace(/^gradient\./, ""),
      name = storedName(variable, widths, recipe),
      key = `${leaf} ${name} ${type.shape}`;
    const place = layout.byName.get(name);
    if (!place) throw new Error(`Internal error in calibration: nothing is learned as "${name}"`);
    const found = views.get(key) ?? backend.view(leaf === variable ? learned : gradient, place.offset, type);
    views.set(key, found);
    return found;
  };

  /** Every leaf of a program. */
  const bindLeaves = (run: Executable, widths: LocalWidths, by: Objective): Record<string, Tensor> => {
    const sum = { [TRAIN_LEAVES.lossSum]: sumOf(by) };
    const known: Readonly<Record<string, Tensor>> = { ...fixed, ...sum, ...siteTops(widths) },
      leaves: Record<string, Tensor> = {};
    for (const [name, type] of Object.entries(run.leaves)) {
      leaves[name] = known[name] ??
        (isLearned(name.replace(/^gradient\./, "")) ? viewOf(name, type, widths) : valueTensor(name, type));
    }
    return leaves;
  };

  /** One tensor per input of the block, overwritten for every batch. */
  const valueTensor = (name: string, type: Executable["leaves"][string]): Tensor => {
    const found = values.get(name) ?? pool.allocate(type);
    values.set(name, found);
    return found;
  };
  const load = (input: Values, target?: Float32Array, tokenWeights?: Float32Array, turn = 0): void => {
    for (const [name, value] of Object.entries(block.inputs)) {
      const tensor = values.get(name), host = input.get(value);
      if (tensor && host) backend.write(tensor, host);
    }
    const targets = values.get(TRAIN_LEAVES.target);
    if (target && targets) backend.write(targets, target);
    if (tokenWeights) backend.write(weights, tokenWeights);
    const rows = values.get(TRAIN_LEAVES.rows);
    if (rows) backend.write(rows, rowsAt(turn, Number(rows.type.shape[1]), batches.batch * batches.tokens));
  };
  const sumOf = (by: Objective) => lossSums.get(by) as Tensor;
  const takeLoss = async (by: Objective): Promise<number> => {
    const [sum = NaN] = await backend.download(sumOf(by));
    backend.write(sumOf(by), new Float32Array(1));
    return sum;
  };

  const { mixtureOf } = block, drawn = { sites, recipe, uniform, ...settings, ...(mixtureOf ? { mixtureOf } : {}) };
  const draw: ElasticBlock["draw"] = (widths, rng) => block.only ?? drawWidths({ widths, ...drawn }, rng);

  const forward: ElasticBlock["forward"] = async (input, widths) => {
    const { run, leaves } = await program("forward", widths);
    load(input);
    const [output] = Object.values(backend.run(run, leaves));
    if (!output) throw new Error("Internal error in calibration: a block without an output");
    const host = await backend.download(output);
    backend.free(output);
    return Float32Array.from(host);
  };

  const lossBy = async (
    by: Objective,
    widths: LocalWidths,
    inputs: readonly Values[],
    targets: readonly Float32Array[],
    count: number,
  ): Promise<number> => {
    const { run, leaves } = await program("loss", widths, by), used = Math.min(count, batches.list.length);
    await takeLoss(by);
    for (let i = 0; i < used; i++) {
      load(inputs[i] as Values, targets[i], batches.list[i]?.weights, i);
      backend.run(run, leaves);
    }
    return await takeLoss(by) / used;
  };

  /** What each bit group's losses weigh in the gradients. */
  const sharesOf = async (
    inputs: readonly (readonly Values[])[],
    targets: readonly Float32Array[],
  ): Promise<readonly Readonly<Record<Objective, number>>[]> => {
    if (!settings.balance && !block.ending) return recipe.bitGroups.map(() => ({ output: 1, logits: 0 }));
    const shares: Record<Objective, number>[] = [];
    for (const [g, widths] of recipe.bitGroups.entries()) {
      const starts = block.only ? [block.only] : widths.map(uniform);
      const sumOfStarts = async (by: Objective): Promise<number> => {
        let sum = 0;
        for (const start of starts) sum += await lossBy(by, start, inputs[g] ?? [], targets, BALANCE_BATCHES);
        return Math.max(sum, LEAST[by] * batches.tokens * starts.length);
      };
      // Outputs have any scale: logits are weighed against them even where groups are not weighed against each other.
      const output = await sumOfStarts("output"), whole = settings.balance ? starts.length : output;
      const logits = block.ending ? settings.logits * whole / await sumOfStarts("logits") : 0;
      shares.push({ output: whole / output, logits });
    }
    return shares;
  };

  const train: ElasticBlock["train"] = async (inputs, targets, rng, report) => {
    const groups = recipe.bitGroups, steps = settings.epochs * batches.list.length;
    const shares = await sharesOf(inputs, targets);
    const adam = await openOptimizer(programs, pool, block, { learned, moment1, moment2, gradient });
    const average = await openAverage(programs, layout.length, learned);
    try {
      for (let step = 0, since = 0, passes = 0; step < steps; step++) {
        const i = step % batches.list.length, epoch = Math.floor(step / batches.list.length);
        for (const [g, widths] of groups.entries()) {
          if (!takesPart(widths, { batch: i, epoch, every: settings.every })) continue;
          const own = draw(widths, rng), runs: (readonly [Objective, BoundProgram])[] = [];
          for (const by of objectives) runs.push([by, await program("train", own, by)]);
          // Another batch in the next step, other tokens of this one in the next epoch.
          load(inputs[g]?.[i] as Values, targets[i], batches.list[i]?.weights, i + epoch);
          for (const [by, { run, leaves }] of runs) {
            backend.write(lossWeight, Float32Array.of(shares[g]?.[by] ?? 1));
            backend.run(run, leaves);
          }
          passes++;
        }
        adam(step + 1, steps);
        average.add(step + 1, steps, settings.average);
        since++;
        if (since === REPORT_EVERY || step + 1 === steps) {
          const mean = async (by: Objective) => await takeLoss(by) / Math.max(1, passes), loss = await mean("output");
          report(step + 1, { loss, ...(block.ending ? { divergence: await mean("logits") } : {}) });
          since = passes = 0;
        }
      }
      average.finish();
    } finally {
      average.release();
    }
  };

  return {
    forward,
    draw,
    loss: (width, ...asked) => lossBy("output", uniform(width), ...asked),
    train,
    learned: async () => Float32Array.from(await backend.download(learned)),
    restore: (values) => backend.write(learned, values),
    release: () => pool.release(),
  };
}

/** Name in the flat array of what a train program calls `<weight>.clip.high` or `<weight>.adapter.a`. */
function storedName(variable: string, widths: LocalWidths, { scheme }: Recipe): string {
  const [, site = "", part = ""] = /^(.*)\.((?:clip|adapter)\..*)$/.exec(variable) ?? [], width = widths[site] as Width;
  if (part.startsWith("clip.")) return `${variable}.${width}`;
  return `${site}.adapter.${scheme.adapters.uses[width].pair}.${part.slice("adapter.".length)}`;
}
