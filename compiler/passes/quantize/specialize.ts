/** @file Makes a function concrete: puts the quantizer or adapter of its width at every site. */
import type { Builder } from "../../../ir/builder.ts";
import {
  affineQuantizer,
  cacheQuantizer,
  FACTOR_CODES,
  groupingOf,
  lowRankProduct,
  perTokenQuantizer,
  POLICY_SLOPE,
  roundedFactor,
  storedLowRankProduct,
} from "../../../ir/composites/quantizers.ts";
import { type Graph, nameOf, type Node, stringAttr } from "../../../ir/node.ts";
import { type SiteRole, siteRoleOf } from "../../../ir/ops/state.ts";
import { rewrite } from "../../../ir/rewrite.ts";
import {
  LEAST_WIDTHS,
  type LocalWidths,
  type QuantizationScheme,
  segmentEnds,
  sitesOf,
  symmetricTop,
  unsignedTop,
  widthOf,
} from "../../../ir/sites.ts";
import { type DType, type NarrowType, tensorType, unsignedType, type Width } from "../../../ir/types.ts";
import { contractGroups } from "./contract_groups.ts";
import { rangeAmong } from "./insert_weight_quantizers.ts";

/** What the result is for: gradients at any width of one shape, or stored codes at one width. */
export type Mode = "train" | "deploy";

/** The input f32[1] of train programs that holds the top code of a site's grid. */
export const topName = (site: string): string => `${site}.top`;

/**
 * Replaces every site by its quantizer or adapter. Sites not named, or of width 16, stay in full precision.
 *
 * - `deploy`: codes in narrow types; holds `<site>.codes`, `.scale`, `.zero`; parameters of time calibration
 *   `<weight>.clip.high.<b>`, `<weight>.clip.low.<b>` [p,G,1], `<weight>.adapter.<pair>.b.codes` i8[p,R], `….b.scale` f32[p,S],
 *   `….a.codes` u7[q,R], `….a.scale` f32[q,S]; linears contract over groups. Keys and values in full precision get the token hold `<site>`, since a cache stores them too.
 * - `train`: codes in f32 with straight-through gradients; top codes are inputs, see `topName` (2^b - 1 for weights, 2^(b-1) - 1 for
 *   activations); the parameters are the clips and adapters of whatever width the site has: `<weight>.clip.high` [p,G,1],
 *   `<weight>.adapter.b` [p,r], `….a` [r,q]. So widths that agree in ranks, group sizes and clips of activations give equal graphs,
 *   and so do their mixtures. Cache quantizers are as at deployment but keep their gradients.
 *
 * @param widths by local site name; a weight's name sets the widths of its grid and of its adapter
 * @throws {RangeError} on sites that do not exist, and on impossible widths
 */
export function specialize(graph: Graph, widths: LocalWidths, scheme: QuantizationScheme, mode: Mode): Graph {
  checkSites(graph, widths);
  const concrete = rewrite(graph, (node, b) => {
    if (node.op !== "site") return undefined;
    const x = node.inputs[0] as Node, name = nameOf(node), role = siteRoleOf(stringAttr(node.attrs, "role"));
    const width = widthOf(widths, name, LEAST_WIDTHS[role]);
    if (width !== undefined) return QUANTIZERS[role](b, x, { name, width, scheme, mode, rest: node.inputs.slice(1) });
    return mode === "deploy" && (role === "key" || role === "value") ? b.hold(x, "token", name) : x;
  });
  return mode === "deploy" ? contractGroups(concrete) : concrete;
}

interface SiteOptions {
  readonly name: string;
  readonly width: Width;
  readonly scheme: QuantizationScheme;
  readonly mode: Mode;
  /** What the site reads beside the value. */
  readonly rest: readonly Node[];
}

const QUANTIZERS: Record<SiteRole, (b: Builder, x: Node, options: SiteOptions) => Node> = {
  weight: (b, w, options) => {
    const { name, width, scheme, mode, rest } = options;
    const groupSize = scheme.groupSizes[width], [rows = 1, columns = 1] = w.type.shape.map(Number);
    const grouping = groupingOf(columns, groupSize), known = rangeAmong(rest, name, grouping);
    const clip = (end: "high" | "low") => {
      const type = tensorType("f32", [rows, grouping.groups, 1]);
      return b.param(`${name}.clip.${end}${mode === "deploy" ? `.${width}` : ""}`, type, "calibration");
    };
    const { adapterSpace: space } = scheme, product = space === "weight" ? undefined : adapterProduct(b, w, options);
    const adapter = product && space !== "weight" ? { adapter: { space, product } } : {};
    const range = {
      groupSize,
      high: clip("high"),
      low: clip("low"),
      ...adapter,
      ...(known ? { range: known } : {}),
    };
    if (mode === "train") return affineQuantizer(b, w, { ...range, top: topInput(b, name) });
    const store = { name, time: "configuration", dtype: unsignedType(width) } as const;
    return affineQuantizer(b, w, { ...range, top: unsignedTop(width), store });
  },
  adapter: (b, w, options) => {
    // In other spaces the quantizer that follows takes the adapter: it acts on its grid.
    const product = options.scheme.adapterSpace === "weight" ? adapterProduct(b, w, options) : undefined;
    return product ? b.add(w, product) : w;
  },
  activation: (b, x, { name, width, scheme, mode }) =>
    mode === "train"
      ? perTokenQuantizer(b, x, { top: topInput(b, name), clip: scheme.activationClip[width] })
      : perTokenQuantizer(b, x, {
        top: symmetricTop(width),
        clip: scheme.activationClip[width],
        codes: `i${width}` as NarrowType,
      }),
  key: quantizeCached,
  value: quantizeCached,
};

/** B·A of the columns that a width uses of its adapter, in the units of its space; nothing of rank 0. Deploy forms read it as it is stored, in codes. */
function adapterProduct(b: Builder, w: Node, { name, width, scheme, mode }: SiteOptions): Node | undefined {
  const [rows = 1, columns = 1] = w.type.shape.map(Number), { pair, rank, kept = 0 } = scheme.adapters.uses[width];
  if (rank === 0) return undefined;
  const whole = scheme.adapters.pairs[pair] ?? 0;
  if (rank > whole) {
    throw new RangeError(
      `Expected at most ${whole} columns of the adapter "${pair}" at ${width} bits but found ${rank}`,
    );
  }
  const param = (part: string, dtype: DType, shape: readonly [number, number]) =>
    b.param(`${name}.adapter.${part}`, tensorType(dtype, shape), "calibration");
  const ends = segmentEnds(scheme.adapters, pair),
    { left, right } = FACTOR_CODES,
    used = ends.filter((end) => end <= rank),
    factor = scheme.adapterSpace === "rounding" ? POLICY_SLOPE : 1;
  if (mode === "train") {
    const product = lowRankProduct(b, {
      left: roundedFactor(b, param("b", "f32", [rows, rank]), "left", used),
      right: roundedFactor(b, param("a", "f32", [rank, columns]), "right", used),
      rank,
      kept,
    });
    return factor === 1 ? product : b.mul(product, factor);
  }
  const stored = (part: string, dtype: DType, size: number) => ({
    codes: param(`${pair}.${part}.codes`, dtype, [size, whole]),
    scale: param(`${pair}.${part}.scale`, "f32", [size, ends.length]),
  });
  return storedLowRankProduct(b, {
    left: stored("b", left.dtype, rows),
    right: stored("a", right.dtype, columns),
    ends: used,
    factor,
  });
}

function quantizeCached(b: Builder, x: Node, { name, width, scheme, mode }: SiteOptions): Node {
  const grid = { top: unsignedTop(width), clip: scheme.cacheClip[width] };
  if (mode === "train") return cacheQuantizer(b, x, grid);
  return cacheQuantizer(b, x, { ...grid, store: { name, time: "token", dtype: unsignedType(width) } });
}

const topInput = (b: Builder, site: string): Node => b.input(topName(site), tensorType("f32", [1]));

function checkSites(graph: Graph, widths: LocalWidths): void {
  const names = new Set(sitesOf(graph).map(({ name }) => name));
  for (const name of Object.keys(widths)) {
    if (names.has(name)) continue;
    throw new RangeError(`Expected a site but found "${name}"; there are ${[...names].join(", ") || "none"}`);
  }
}
