/**
 * Where clips start (AWQ's clip search): per row and group, and for each width on its own, the part of the range that gives the
 * least error of the linear's output, errors of single columns taken for independent: Σ_c E[x_c²]·(w_c - ŵ_c)².
 */
import type { Executable, HostArray, Tensor } from "../../backends/backend.ts";
import { type Builder, createBuilder } from "../../ir/builder.ts";
import { affineQuantizer, groupingOf, toGroups } from "../../ir/composites/quantizers.ts";
import { type Graph, graphOf, type Node } from "../../ir/node.ts";
import { type QuantizationScheme, unsignedTop } from "../../ir/sites.ts";
import { tensorType, type Width } from "../../ir/types.ts";
import { inputNames } from "../passes/quantize/insert_activation_quantizers.ts";
import { linearsOf } from "../passes/quantize/linears.ts";
import { specialize } from "../passes/quantize/specialize.ts";
import { trainGraph } from "../passes/stage.ts";
import type { InputStatistics } from "./input_statistics.ts";
import type { LearnedLayout } from "./learned.ts";
import { createPool, type Programs } from "./programs.ts";

/** Parts of the range that are tried beside the one that a width starts with otherwise. */
const RATIOS = [0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5];

/** What is searched. */
export interface ClipSearch {
  readonly programs: Programs;
  /** The elastic function, and a name for it. */
  readonly graph: Graph;
  readonly name: string;
  readonly scheme: QuantizationScheme;
  /** Logits to start with where cutting off more gains nothing. */
  readonly clipStart: Readonly<Record<Width, number>>;
  readonly layout: LearnedLayout;
  readonly held: Readonly<Record<string, Tensor>>;
  /** By name of the value that linears read. */
  readonly statistics: ReadonlyMap<string, InputStatistics>;
}

/** Writes the found clip logits over those in the flat array of learned values. */
export async function searchClips(search: ClipSearch, flat: Float32Array): Promise<void> {
  const { programs, graph, layout, held, statistics } = search, { backend } = programs;
  const widths = [...new Set(layout.tensors.flatMap((tensor) => tensor.kind === "clip" ? tensor.width : []))],
    inputs = inputNames(graph);
  for (const width of widths) {
    const pool = createPool(backend), leaves: Record<string, Tensor> = {};
    const run = await compileClips(search, width);
    for (const [leaf, type] of Object.entries(run.leaves)) {
      const power = statistics.get(inputs.get(leaf.replace(/\.power$/, "")) ?? "")?.power;
      const tensor = held[leaf] ?? (power && pool.upload(type, power));
      if (!tensor) throw new Error(`Internal error in searchClips: nothing is known as "${leaf}"`);
      leaves[leaf] = tensor;
    }
    for (const [output, tensor] of Object.entries(backend.run(run, leaves))) {
      const values: HostArray = await backend.download(pool.keep(tensor));
      for (const end of ["high", "low"]) {
        const place = layout.byName.get(`${output}.clip.${end}.${width}`);
        if (place) flat.set(values, place.offset);
      }
    }
    pool.release();
  }
}

/** The program of one width. */
export const compileClips = (
  { programs, graph, name, scheme, clipStart }: Pick<
    ClipSearch,
    "programs" | "graph" | "name" | "scheme" | "clipStart"
  >,
  width: Width,
): Promise<Executable> =>
  programs.get(`clips ${name} ${width}`, () => clipProgram(graph, scheme, width, clipStart[width]));

/** Held weights and `<weight>.power` f32[q] in; under each weight's name the best logit, f32[p,G,1], out. */
export function clipProgram(graph: Graph, scheme: QuantizationScheme, width: Width, start: number): Graph {
  // Sites that are not named stay in full precision: the weights as the master gives them.
  const exact = specialize(graph, {}, scheme, "train"), b = createBuilder();
  const best = linearsOf(exact).map(({ name, weight, rows, columns }) => {
    const w = b.reshape(b.adopt(weight), [rows, columns]),
      power = b.input(`${name}.power`, tensorType("f32", [columns]));
    return { name, node: bestLogit(b, w, power, { groupSize: scheme.groupSizes[width], width, start }) };
  });
  return trainGraph(graphOf(best));
}

function bestLogit(
  b: Builder,
  w: Node,
  power: Node,
  { groupSize, width, start }: { readonly groupSize: number; readonly width: Width; readonly start: number },
): Node {
  const [rows = 1, columns = 1] = w.type.shape.map(Number), grouping = groupingOf(columns, groupSize);
  const type = tensorType("f32", [rows, grouping.groups, 1]);
  const logits = [start, ...RATIOS.map((ratio) => Math.log(ratio / (1 - ratio)))];
  const tried = logits.map((value) => {
    const logit = b.constant(Math.fround(value), type);
    const rounded = affineQuantizer(b, w, { groupSize, high: logit, low: logit, top: unsignedTop(width) });
    const difference = b.sub(w, rounded), weighted = b.mul(b.mul(difference, difference), power);
    return { logit, error: b.sum(toGroups(b, weighted, grouping), [2]) };
  });
  return tried.reduce((best, next) => {
    const better = b.compare(next.error, best.error, "lt");
    return { error: b.minimum(best.error, next.error), logit: b.select(better, next.logit, best.logit) };
  }).logit;
}
