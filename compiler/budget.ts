/** @file Budgets of mixed precision: mean bits per weight, or bytes, and the point of a frontier that fits one best. */
import { type BitConfig, FULL_WIDTH, type QuantizationScheme, WIDTHS } from "../ir/sites.ts";
import type { Frontier } from "./allocate/frontier.ts";
import { meanBits, type ModelSite, type UnquantizedBytes, unquantizedBytes } from "./model_sites.ts";
import type { Module } from "../ir/module.ts";

/** What a mixture may cost. */
export type Budget =
  /** Most mean bits per weight. */
  | { readonly kind: "bits"; readonly most: number }
  /** Most bytes of all weights, everything that is not quantized included. */
  | { readonly kind: "bytes"; readonly most: number; readonly of: "file" | "memory" };

/** What a configuration takes beside the codes of its weights. */
export interface SizeModel extends Pick<QuantizationScheme, "groupSizes"> {
  /** Of what no width changes: embeddings, heads, norms, biases and rotary tables. */
  readonly unquantized: UnquantizedBytes;
}

/** The size model of an elastic module. Bytes are counted when a budget in bytes asks, and once. */
export function sizeModelOf(module: Module, { groupSizes }: Pick<QuantizationScheme, "groupSizes">): SizeModel {
  let counted: UnquantizedBytes | undefined;
  return {
    groupSizes,
    get unquantized() {
      return counted ??= unquantizedBytes(module);
    },
  };
}

const UNITS = { B: 1, KB: 1e3, MB: 1e6, GB: 1e9, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 } as const;

/** Parses `3.25`, `900MB`, `1.5GiB` or `900MB/memory`; undefined if the text is of another form or the budget is not possible. */
export function parseBudget(text: string): Budget | undefined {
  const [, number = "", unit, of] = /^(\d+(?:\.\d+)?)(?:([KMG]?i?B)(?:\/(file|memory))?)?$/.exec(text) ?? [];
  const value = number === "" ? NaN : Number(number);
  if (unit === undefined) return value >= 2 && value <= 8 ? { kind: "bits", most: value } : undefined;
  const factor = Object.hasOwn(UNITS, unit) ? UNITS[unit as keyof typeof UNITS] : NaN, most = value * factor;
  return most > 0 ? { kind: "bytes", most, of: of === "memory" ? "memory" : "file" } : undefined;
}

/**
 * Bytes that the weights of all sites take at a configuration: codes of b bits, and per group a scale and a zero point, in a file as
 * f16 and b bits, in memory as f32 both. Weights in full precision count as f16 and f32. Embeddings, norms and biases, which are the
 * same in every configuration, are not counted.
 */
export function weightBytes(
  config: BitConfig,
  sites: readonly ModelSite[],
  { groupSizes }: Pick<QuantizationScheme, "groupSizes">,
  of: "file" | "memory" = "file",
): number {
  const bits = sites.filter(({ role }) => role === "weight").reduce((sum, { name, parameters, rows }) => {
    const width = WIDTHS.find((known) => known === config[name]);
    if (width === undefined) return sum + (of === "file" ? FULL_WIDTH : 32) * parameters;
    const columns = parameters / rows, size = groupSizes[width];
    const groups = size === -1 || size >= columns ? 1 : Math.ceil(columns / size);
    return sum + width * parameters + rows * groups * (of === "file" ? 16 + width : 64);
  }, 0);
  return Math.ceil(bits / 8);
}

/**
 * What a configuration costs in the budget's unit.
 *
 * @param countsSites whether bits are counted per site instead of per weight
 */
export function costOf(
  budget: Budget,
  config: BitConfig,
  sites: readonly ModelSite[],
  size?: SizeModel,
  countsSites = false,
): number {
  if (budget.kind === "bits") {
    return meanBits(config, countsSites ? sites.map((site) => ({ ...site, parameters: 1 })) : sites);
  }
  if (!size) throw new TypeError("Cannot count bytes: expected a size model but found none");
  return weightBytes(config, sites, size, budget.of) + size.unquantized[budget.of];
}

/** A mixture that fits. */
export interface Choice {
  readonly config: BitConfig;
  readonly cost: number;
}

/** A budget of 3 takes a point of 3.0000001, which is rounding and not bits. */
const TOLERANCE = 1e-6;

/**
 * The best mixture within a budget, pins included, and the least that there is. Points of a frontier have less loss the more they
 * cost, so the last that fits is the best.
 */
export function chooseMixture(
  budget: Budget,
  { sites: names, points, countsSites }: Pick<Frontier, "sites" | "points" | "countsSites">,
  pinned: BitConfig,
  sites: readonly ModelSite[],
  size?: SizeModel,
): { readonly best: Choice | undefined; readonly least: number } {
  const choices = points.map(({ widths }): Choice => {
    const config = { ...Object.fromEntries(names.map((name, i) => [name, Number(widths[i])])), ...pinned };
    return { config, cost: costOf(budget, config, sites, size, countsSites) };
  });
  return {
    best: choices.findLast(({ cost }) => cost <= budget.most * (1 + TOLERANCE)),
    least: Math.min(...choices.map(({ cost }) => cost)),
  };
}
