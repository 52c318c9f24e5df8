/**
 * @file Ties: sites that take one width together. Linears that read one value (queries, keys and values; gate and up) are one product
 * in many engines, and in ours where their widths agree.
 */
import { functionOf, type Module } from "../../ir/module.ts";
import type { Node } from "../../ir/node.ts";
import { linearsOf } from "../passes/quantize/linears.ts";
import { type AllocationItem, type Frontier, frontierOf, type FrontierOptions } from "./frontier.ts";

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

/** The knapsack's solutions for all budgets, sites that are tied together; see `frontierOf`. */
export function tiedFrontier(
  items: readonly AllocationItem[],
  { ties, weighting = "parameters", ...options }: FrontierOptions & { readonly ties?: Ties } = {},
): Frontier {
  const sites = items.map(({ site }) => site), groups = ties ?? untied(sites), tied = tiedItems(items, groups);
  // A group counts as all of its sites.
  const counted = weighting === "parameters"
    ? tied
    : tied.map((item, g) => ({ ...item, parameters: groups[g]?.length ?? 0 }));
  const { points } = frontierOf(counted, options);
  return {
    sites,
    parameters: items.map(({ parameters }) => parameters),
    points: points.map((point) => ({ ...point, widths: expandTies(point.widths, groups) })),
  };
}

/** One digit per group -> one digit per site. */
export function expandTies(digits: string, ties: Ties): string {
  const all: string[] = [];
  for (const [g, members] of ties.entries()) for (const i of members) all[i] = digits[g] ?? "";
  return all.join("");
}
