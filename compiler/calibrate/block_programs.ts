/** @file The programs of a quantized block: widths that give equal shapes share them. */
import type { Executable } from "../../backends/backend.ts";
import type { Graph } from "../../ir/node.ts";
import { LEAST_WIDTHS, type LocalWidths, type Site, sitesOf, widthOf } from "../../ir/sites.ts";
import { bindSymbols } from "../../ir/symbols.ts";
import type { Width } from "../../ir/types.ts";
import { trainFunction } from "../pipeline.ts";
import type { Recipe } from "../recipe.ts";
import { logitsLoss, reconstructionLoss } from "./block_losses.ts";
import type { Programs } from "./programs.ts";
import type { CalibrationSettings } from "./settings.ts";
import { lossProgram, trainInPlace, trainProgram, withLearnedInputs } from "./train_program.ts";

/** What the programs of a block are made of. */
export interface BlockFunction {
  /** The elastic function, and a name for it: equal names are compiled once. */
  readonly graph: Graph;
  readonly name: string;
  readonly recipe: Recipe;
  readonly settings: Pick<CalibrationSettings, "lossPower">;
  /** Sequences and tokens of a run. */
  readonly batches: { readonly batch: number; readonly tokens: number };
  /** The graph of the `Ending` by whose logits the block learns, too. */
  readonly ending?: Graph;
  /** As many tokens of a step have their logits looked at; default: what `rowsOfLogits` says. */
  readonly logitsRows?: number;
}

/** What a block learns by: its output, or the logits behind it. */
export type Objective = "output" | "logits";

/** What a program computes: the block's output, its loss, or loss and gradients. */
export type BlockProgramKind = "forward" | "loss" | "train";

/** The program of a block at some widths; widths of equal ranks and group sizes, and their mixtures, share them. */
export function blockProgram(
  programs: Programs,
  { graph, name, recipe, settings, batches: { batch, tokens }, ending, logitsRows }: BlockFunction,
  kind: BlockProgramKind,
  widths: LocalWidths,
  by: Objective = "output",
): Promise<Executable> {
  const key = `${name} ${kind} ${by} ${sitesOf(graph).map((site) => shapeAt(site, widths, recipe)).join(" ")}`;
  const symbols = { B: batch, T: tokens };
  const build = () => withLearnedInputs(trainFunction(graph, widths, recipe.scheme));
  if (kind === "forward") return programs.get(key, build, symbols);
  const lossOf = () => {
    if (by === "output") return reconstructionLoss(settings.lossPower);
    if (!ending) throw new Error(`Internal error in calibration: nothing follows "${name}"`);
    return logitsLoss(ending, logitsRows);
  };
  return programs.get(
    key,
    () => (kind === "loss" ? lossProgram : trainProgram)(bindSymbols(build(), symbols), lossOf()),
    {},
    (bound) => ({ inPlace: trainInPlace(bound) }),
  );
}

/**
 * Every weight at one width, and every activation where the recipe quantizes them, at the nearest width that activations have;
 * the cache stays as it is.
 */
export function widthsAt(graph: Graph, { activations }: Recipe, width: Width): LocalWidths {
  const sites = sitesOf(graph).filter(({ role }) =>
    role === "weight" || role === "adapter" || (activations && role === "activation")
  );
  return Object.fromEntries(sites.map(({ name, role }) => [name, Math.max(width, LEAST_WIDTHS[role])]));
}

/** What a site's width says about the shapes of train programs. */
function shapeAt({ name, role }: Site, widths: LocalWidths, { scheme }: Recipe): string {
  const width = widthOf(widths, name);
  if (width === undefined) return "-";
  if (role === "adapter") return `r${scheme.adapters.uses[width].rank}-${scheme.adapters.uses[width].kept ?? 0}`;
  return role === "weight" ? `g${scheme.groupSizes[width]}` : `q${scheme.activationClip[width]}`;
}
