/** The order of passes: from a front-end's module to the elastic module, and from that to the programs of one configuration. */
import { mapFunctions, type Module } from "../ir/module.ts";
import type { Graph } from "../ir/node.ts";
import { type LocalWidths, type QuantizationScheme, sitesOf } from "../ir/sites.ts";
import { contractIntegers } from "./passes/contract_integers.ts";
import { holdParameters } from "./passes/hold_parameters.ts";
import { insertCache } from "./passes/insert_cache.ts";
import { functionPass, type NamedPass, type RunOptions, runPasses } from "./passes/pass.ts";
import { insertActivationQuantizers } from "./passes/quantize/insert_activation_quantizers.ts";
import { insertAdapters } from "./passes/quantize/insert_adapters.ts";
import { insertCacheQuantizers } from "./passes/quantize/insert_cache_quantizers.ts";
import { insertMaster } from "./passes/quantize/insert_master.ts";
import { insertTables } from "./passes/quantize/insert_tables.ts";
import { insertWeightQuantizers } from "./passes/quantize/insert_weight_quantizers.ts";
import { mapBlocks, UNQUANTIZED_FUNCTIONS } from "./passes/quantize/linears.ts";
import { specialize } from "./passes/quantize/specialize.ts";
import { stage, type Stages, trainGraph } from "./passes/stage.ts";
import { stackLinears } from "./passes/stack_linears.ts";
import { fuseNorms } from "./passes/structure/fuse_norms.ts";
import { onlineHadamard } from "./passes/structure/online_hadamard.ts";
import { rotateHeads } from "./passes/structure/rotate_heads.ts";
import { rotateResidual } from "./passes/structure/rotate_residual.ts";
import { scaleColumns } from "./passes/structure/scale_columns.ts";
import { simplify, simplifyGraph } from "./passes/structure/simplify.ts";
import type { Recipe } from "./recipe.ts";

const hold = functionPass("hold_parameters", holdParameters);

/** A pass over what `blockPass` leaves alone. */
const outerPass = (name: string, change: (graph: Graph) => Graph): NamedPass => ({
  name,
  run: (module) => mapFunctions(module, (graph, own) => UNQUANTIZED_FUNCTIONS.includes(own) ? change(graph) : graph),
});

const blockPass = (name: string, change: (graph: Graph) => Graph): NamedPass => ({
  name,
  run: (module) => mapBlocks(module, change),
});

/**
 * Passes that change how weights and activations are represented, but not what the model computes. Norm gains are fused only
 * where rotations need it: as column factors they spread a weight's range, and rounding to nearest at 3 bits then costs a
 * third more perplexity (stories260K: 13.75 with, 10.32 without).
 */
export function structurePasses({ rotate, scaleColumns: scaled, cache, seed }: Recipe): readonly NamedPass[] {
  const scaling = scaled ? [blockPass("scale_columns", scaleColumns), simplify] : [];
  if (!rotate) return [simplify, ...scaling];
  return [
    simplify,
    fuseNorms,
    rotateResidual({ seed }),
    rotateHeads({ seed }),
    onlineHadamard({ keys: cache }),
    simplify,
    ...scaling,
  ];
}

/** Passes that mark what can be quantized. */
export function quantizePasses({ scheme, activations, cache }: Recipe): readonly NamedPass[] {
  return [
    outerPass("insert_tables", (graph) => insertTables(graph, scheme)),
    blockPass("insert_master", (graph) => insertMaster(graph, scheme)),
    blockPass("insert_adapters", insertAdapters),
    blockPass("insert_weight_quantizers", (graph) => insertWeightQuantizers(graph, scheme)),
    ...(activations ? [blockPass("insert_activation_quantizers", insertActivationQuantizers)] : []),
    ...(cache ? [blockPass("insert_cache_quantizers", insertCacheQuantizers)] : []),
    hold,
  ];
}

/** The model in full precision, in the basis and with the weights that quantizers will see. */
export const structureModule = (module: Module, recipe: Recipe, options?: RunOptions): Module =>
  runPasses(module, [...structurePasses(recipe), hold], options);

/** The model with a master, adapters and quantizers at every site, whatever their widths will be. */
export const elasticModule = (module: Module, recipe: Recipe, options?: RunOptions): Module =>
  runPasses(module, [...structurePasses(recipe), ...quantizePasses(recipe)], options);

/** Only widths of sites that the function has. */
function ownWidths(graph: Graph, widths: LocalWidths): LocalWidths {
  const names = new Set(sitesOf(graph).map(({ name }) => name));
  return Object.fromEntries(Object.entries(widths).filter(([name]) => names.has(name)));
}

/** How a function is deployed. */
export interface DeployOptions {
  /** Whether the step program keeps keys and values, or sees whole sequences. */
  readonly cache?: boolean;
  /** Whether keys and values that are not quantized are cached as half floats. */
  readonly halves?: boolean;
  /** Whether linears that read one value are one product where their grids are alike; see stack_linears.ts. */
  readonly stack?: boolean;
}

/** The programs of one function at one configuration: prepare, switch and step. */
export function deployFunction(
  graph: Graph,
  widths: LocalWidths,
  scheme: QuantizationScheme,
  { cache = false, halves = false, stack = false }: DeployOptions = {},
): Stages {
  const concrete = specialize(graph, ownWidths(graph, widths), scheme, "deploy");
  const stacked = stack ? stackLinears(concrete) : concrete;
  return stage(simplifyGraph(contractIntegers(cache ? insertCache(stacked, { halves }) : stacked)));
}

/** The differentiable program of one function: learned parameters are its variables, top codes its inputs. */
export function trainFunction(graph: Graph, widths: LocalWidths, scheme: QuantizationScheme): Graph {
  return trainGraph(simplifyGraph(specialize(graph, ownWidths(graph, widths), scheme, "train")));
}
