/**
 * @file Sites, the places whose precision can be chosen, and the plain data that says how: widths per site, and the scheme
 * (group sizes, ranks, clip ratios) that turns a width into a quantizer. Site names are unique per function; the call's
 * prefix makes them unique per model.
 */
import { type Graph, nameOf, stringAttr } from "./node.ts";
import { type SiteRole, siteRoleOf } from "./ops/state.ts";
import type { TensorType, Width } from "./types.ts";

/** The width that stands for full precision: the site does nothing. */
export const FULL_WIDTH = 16;

/** The widths a weight can have, narrowest first. */
export const WIDTHS = [2, 3, 4, 5, 6, 7, 8] as const satisfies readonly Width[];

/** A record of all widths. */
export const eachWidth = <T>(value: (width: Width) => T): Readonly<Record<Width, T>> =>
  Object.fromEntries(WIDTHS.map((width) => [width, value(width)])) as Record<Width, T>;

/** Bits per site of a model, by global site name (call prefix included); 16, or absent: full precision. */
export type BitConfig = Readonly<Record<string, number>>;

/** Bits per site of one function, by the site's name in it; 16, or absent: full precision. */
export type LocalWidths = Readonly<Record<string, number>>;

/** How the copy of the weights can be stored from which every width is made. */
export const MASTER_KINDS = ["int8", "int10", "fp16"] as const;

/** See `MASTER_KINDS`. */
export type MasterKind = typeof MASTER_KINDS[number];

/** A kind of master; integers have a scale per `groupSize` columns. */
export type MasterScheme =
  | { readonly kind: Exclude<MasterKind, "fp16">; readonly groupSize: number }
  | { readonly kind: "fp16" };

/** The adapter that a weight of some width adds: the first `rank` columns of one pair of factors; of rank 0: none. */
export interface AdapterUse {
  readonly pair: string;
  readonly rank: number;
  /** So many of these columns belong to higher widths, and are not moved by this one; none unless given. */
  readonly kept?: number;
}

/**
 * The pairs of low-rank factors B·A beside every weight, and what each width uses of them. One pair of which lower widths use
 * longer prefixes is the cascade of the method (MB-CLoRA, quept-method 4); a pair of its own for every width the independent form.
 */
export interface AdapterScheme {
  /** Columns of each pair, by name. */
  readonly pairs: Readonly<Record<string, number>>;
  readonly uses: Readonly<Record<Width, AdapterUse>>;
}

/**
 * Ends of the segments that a pair's columns are stored in: every prefix that some width uses is a number of whole ones. Each has
 * scales of its own, since columns that only low widths use grow much larger than those of all.
 */
export function segmentEnds({ pairs, uses }: AdapterScheme, pair: string): readonly number[] {
  const ranks = Object.values(uses).filter((use) => use.pair === pair && use.rank > 0).map(({ rank }) => rank);
  return [...new Set([...ranks, pairs[pair] ?? 0])].sort((a, b) => a - b);
}

/**
 * Where the adapter's product B·A enters (quept-method 4.4): the weight itself, the weight in units of its grid's step before it is
 * rounded, or the choice between rounding down and up.
 */
export const ADAPTER_SPACES = ["weight", "scale", "rounding"] as const;

/** See `ADAPTER_SPACES`. */
export type AdapterSpace = typeof ADAPTER_SPACES[number];

/** Everything but the widths that shapes quantizers; one artifact has one scheme. */
export interface QuantizationScheme {
  /** Columns that share a scale, per weight width; -1: the whole row. */
  readonly groupSizes: Readonly<Record<Width, number>>;
  readonly adapters: AdapterScheme;
  readonly adapterSpace: AdapterSpace;
  readonly master: MasterScheme;
  /** Part of a cached vector's range that its grid spans, per width of the cache. */
  readonly cacheClip: Readonly<Record<Width, number>>;
  /** Part of a token's largest magnitude that its grid spans, per width of activations. */
  readonly activationClip: Readonly<Record<Width, number>>;
}

/** A quantizer site of a function. */
export interface Site {
  readonly name: string;
  readonly role: SiteRole;
  readonly type: TensorType;
}

/** The sites of a function, in topological order. */
export function sitesOf(graph: Graph): readonly Site[] {
  return graph.nodes.filter((node) => node.op === "site").map((node) => ({
    name: nameOf(node),
    role: siteRoleOf(stringAttr(node.attrs, "role")),
    type: node.type,
  }));
}

/** The part of a model's configuration that concerns the function called with this prefix, by local site name. */
export function localWidths(config: BitConfig, prefix: string): LocalWidths {
  const own = Object.entries(config).filter(([name]) => name.startsWith(prefix));
  return Object.fromEntries(own.map(([name, width]) => [name.slice(prefix.length), width]));
}

/**
 * The width of a site as a checked number of bits, `undefined` for full precision (16 or more, or not named).
 *
 * @param least narrowest width the site's quantizer has
 * @throws {RangeError} on widths between 8 and 16, fractions and widths below `least`
 */
export function widthOf(widths: LocalWidths, name: string, least: Width = 2): Width | undefined {
  const width = Object.hasOwn(widths, name) ? widths[name] : undefined;
  if (width === undefined || width >= FULL_WIDTH) return undefined;
  const found = WIDTHS.find((known) => known === width && known >= least);
  if (found) return found;
  throw new RangeError(`Expected a width from ${least} to 8, or 16, for site "${name}" but found ${width}`);
}

/** Narrowest width of each kind of site; signed codes have no fewer than 4 bits. */
export const LEAST_WIDTHS = { weight: 2, adapter: 2, activation: 4, key: 2, value: 2 } as const satisfies Record<
  SiteRole,
  Width
>;

/** Q_b = 2^b - 1, the top code of an unsigned grid: weights and caches (quept-method 0). */
export const unsignedTop = (width: Width): number => 2 ** width - 1;

/** P_b = 2^(b-1) - 1, the top code of a symmetric grid: activations (quept-method 0). */
export const symmetricTop = (width: Width): number => 2 ** (width - 1) - 1;
