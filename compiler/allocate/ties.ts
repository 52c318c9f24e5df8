/**
 * @file Ties: sites that take one width together. Linears that read one value (queries, keys and values; gate and up) are one product
 * in many engines, and in ours where their widths agree.
 */
import { functionOf, type Module } from "../../ir/module.ts";
import type { Node } from "../../ir/node.ts";
import { linearsOf } from "../passes/quantize/linears.ts";
import { type AllocationItem, type Frontier, frontierOf } from "./frontier.ts";

/** Groups of sites by index; a site on its own is a group of one. */
export type Ties = readonly (readonly number[])[];

/** Every site on its own. */
export const untied = (sites: readonly string[]): Ties => sites.map((_, i) => [i]);

/** Weight sites of linears that read one value, in the order of their first sites. */
export function tiesOf(module: Module, sites: readonly string[]): Ties {
  const group = new Map<string, string>();
  for (const call of module.calls) {
    const first = new Map<Node, string>();
    for (const { source, name } of linearsOf(functionOf(module, call))) {
      const site = call.prefix + name, known = first.get(source) ?? site;
      first.set(source, known);
      group.set(site, known);
    }
  }
  const ties = new Map<string, number[]>();
  for (const [i, site] of sites.entries()) {
    const name = group.get(site) ?? site;
    ties.set(name, [...ties.get(name) ?? [], i]);
  }
  return [...ties.values()];
}

/** One item per group: parameters and losses add up. */
export const tiedItems = (items: readonly AllocationItem[], ties: Ties): AllocationItem[] =>
  ties.map((members) => {
    const own = members.map((i) => items[i] as AllocationItem), widths = Object.keys(own[0]?.loss ?? {}).map(Number);
    return {
      site: own.map(({ site }) => site).join("+"),
      parameters: own.reduce((sum, { parameters }) => sum + parameters, 0),
      loss: Object.fromEntries(
        widths.map((width) => [width, own.reduce((sum, { loss }) => sum + (loss[width] ?? Infinity), 0)]),
      ),
    };
  });

/** How sites are counted, and which go together. */
export interface TiedOptions {
  /** Weight budgets by parameters (default), or count every site once, as the published code does. */
  readonly weighting?: "parameters" | "sites";
  /** Sites that take one width together; none unless given. */
  readonly ties?: Ties;
}

/** The knapsack's solutions for all budgets, sites that are tied together; see `frontierOf`. */
export function tiedFrontier(items: readonly AllocationItem[], options: TiedOptions = {}): Frontier {
  const { points, ties, frontier } = groupFrontier(items, options);
  return { ...frontier, points: points.map((point) => ({ ...point, widths: expandTies(point.widths, ties) })) };
}

/**
 * The same with one digit per group; what each group counts in a budget, its weights or as all of its sites; and the frontier of all
 * sites but for its points.
 */
export function groupFrontier(
  items: readonly AllocationItem[],
  { ties = untied(items.map(({ site }) => site)), weighting = "parameters" }: TiedOptions,
): Pick<Frontier, "points"> & {
  readonly ties: Ties;
  readonly counts: readonly number[];
  readonly frontier: Omit<Frontier, "points">;
} {
  const tied = tiedItems(items, ties);
  const counts = tied.map(({ parameters }, g) => weighting === "parameters" ? parameters : ties[g]?.length ?? 0);
  const { points } = frontierOf(tied.map((item, g) => ({ ...item, parameters: counts[g] ?? 0 })));
  const frontier = {
    sites: items.map(({ site }) => site),
    parameters: items.map(({ parameters }) => parameters),
    ...(weighting === "sites" ? { countsSites: true } : {}),
  };
  return { points, ties, counts, frontier };
}

/** One digit per group -> one digit per site. */
export function expandTies(digits: string, ties: Ties): string {
  const all: string[] = [];
  for (const [g, members] of ties.entries()) for (const i of members) all[i] = digits[g] ?? "";
  return all.join("");
}
