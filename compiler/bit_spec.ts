/** @file Bit specifications, the short texts by which users say precision: `4`, `w4a4kv4`, `2-8`, `mixed@3.25`. */
import { quote, UserError } from "../ir/errors.ts";
import type { SiteRole } from "../ir/ops/state.ts";
import { type BitConfig, FULL_WIDTH, WIDTHS } from "../ir/sites.ts";
import type { Width } from "../ir/types.ts";
import { type Frontier, undominated } from "./allocate/frontier.ts";
import { type Budget, chooseMixture, parseBudget, type SizeModel } from "./budget.ts";
import { type ModelSite, widthOfReaders } from "./model_sites.ts";
import { type Pin, pinnedWidths } from "./pins.ts";

/** One precision setting of a whole model. */
export type BitSpec = UniformSpec | MixedSpec;

/** The same widths everywhere; 16 is full precision. */
export interface UniformSpec {
  readonly kind: "uniform";
  /** As the user wrote it. */
  readonly text: string;
  readonly weights: number;
  readonly activations: number;
  /** Width of cached keys and values. */
  readonly cache: number;
  /** Widths that win over all others. */
  readonly pins?: readonly Pin[];
}

/** Weight widths per site, from the frontier of an artifact. */
export interface MixedSpec {
  readonly kind: "mixed";
  readonly text: string;
  readonly budget: Budget;
  /** One width for all, or for each that of the widest weight that reads it, from 4 bits; full precision unless given. */
  readonly activations?: number | "weights";
  /** Width of cached keys and values; full precision unless given. */
  readonly cache?: number;
  /** Widths that win over the budget's; it is kept by the rest. */
  readonly pins?: readonly Pin[];
}

/** The budget of a plain `mixed`. */
const DEFAULT_BUDGET: Budget = { kind: "bits", most: 3 };
const FORMS =
  'use "4", "w4a4", "w4kv8", "w4a4kv4", "16", "2-8", "mixed", "mixed@3.25", "mixed@5a8", "mixed@5aw" (activations as wide as the ' +
  'weights that read them) or "mixed@900MB", or a list such as "2,3,mixed@3"';

/**
 * Parses one setting: weights of 2 to 8 bits or 16, activations of 4 to 8 or 16, caches of 2 to 8 or 16.
 *
 * @throws {UserError} if the text is of no known form, or a list
 */
export function parseBitSpec(text: string): BitSpec {
  const [spec, ...others] = parseBitSpecs(text);
  if (spec && others.length === 0) return spec;
  throw new UserError({
    what: `Expected one bit specification but found the ${others.length + 1} of ${quote(text)}`,
    mend: 'use one, for example "4"',
  });
}

/**
 * Parses a list with commas, in which a range such as `2-8` stands for all widths in it.
 *
 * @returns at least one setting; those that come twice once
 * @throws {UserError} if an element is of no known form
 */
export function parseBitSpecs(text: string): readonly BitSpec[] {
  const specs = text.split(",").flatMap((part) => parseElement(part.trim()));
  return specs.filter(({ text }, i) => specs.findIndex((other) => other.text === text) === i);
}

/** The same settings with pins beside those that they have; full precision stays as it is. */
export const withPins = (specs: readonly BitSpec[], pins: readonly Pin[]): readonly BitSpec[] =>
  pins.length === 0
    ? specs
    : specs.map((spec) => isFull(spec) ? spec : { ...spec, pins: [...spec.pins ?? [], ...pins] });

/** Whether a setting is what others are compared with. */
const isFull = (spec: BitSpec): boolean =>
  spec.kind === "uniform" && [spec.weights, spec.activations, spec.cache].every((width) => width === FULL_WIDTH);

function parseElement(text: string): readonly BitSpec[] {
  const range = /^([2-8])-([2-8])$/.exec(text);
  if (range) {
    const [low, high] = [Number(range[1]), Number(range[2])];
    const widths = WIDTHS.filter((width) => width >= low && width <= high);
    if (widths.length > 0) return widths.map((width) => uniform(String(width), width));
  }
  const single = /^([1-9]\d*)$/.exec(text);
  if (single && isWidth(Number(single[1]), 2)) return [uniform(text, Number(single[1]))];
  const parts = /^w([1-9]\d*)(?:a([1-9]\d*))?(?:kv([1-9]\d*))?$/.exec(text);
  if (parts) {
    const [weights, activations, cache] = [1, 2, 3].map((i) => Number(parts[i] ?? FULL_WIDTH)) as [
      number,
      number,
      number,
    ];
    if (isWidth(weights, 2) && isWidth(activations, 4) && isWidth(cache, 2)) {
      return [uniform(text, weights, activations, cache)];
    }
  }
  const mixed = /^mixed(?:@(.+?))?(?:a([1-9]\d*|w))?(?:kv([1-9]\d*))?$/.exec(text);
  if (mixed) {
    const [, amount, a, kv] = mixed, budget = amount === undefined ? DEFAULT_BUDGET : parseBudget(amount);
    const activations = a === undefined ? {} : { activations: a === "w" ? "weights" as const : Number(a) };
    const cache = kv === undefined ? {} : { cache: Number(kv) };
    const known = (a === undefined || a === "w" || isWidth(Number(a), 4)) &&
      (kv === undefined || isWidth(Number(kv), 2));
    if (budget && known) return [{ kind: "mixed", text, budget, ...activations, ...cache }];
  }
  throw new UserError({
    what: `Expected a bit specification but found ${quote(text)}`,
    mend: `${FORMS}; weights and caches take 2 to 8 bits or 16, activations 4 to 8 or 16, budgets 2 to 8`,
  });
}

const uniform = (text: string, weights: number, activations = FULL_WIDTH, cache = FULL_WIDTH): UniformSpec => ({
  kind: "uniform",
  text,
  weights,
  activations,
  cache,
});

const isWidth = (width: number, least: Width): boolean =>
  width === FULL_WIDTH || WIDTHS.some((known) => known === width && known >= least);

/** The roles of sites that a spec must find in a model to mean anything. */
const ROLE_NAMES = { activation: "activations", key: "cached keys and values" } as const satisfies Partial<
  Record<SiteRole, string>
>;

/**
 * The width of every site of a model.
 *
 * @param sites as `modelSites` finds them
 * @param frontier for mixed settings: the best mixture within the budget is taken
 * @param size for budgets in bytes
 * @throws {UserError} if the model cannot quantize what the spec asks for, there is no frontier, or the budget is below it
 */
export function configOf(
  spec: BitSpec,
  sites: readonly ModelSite[],
  frontier?: Frontier,
  size?: SizeModel,
): BitConfig {
  const { activations = FULL_WIDTH, cache = FULL_WIDTH } = spec;
  const pinned = pinnedWidths(
    spec.pins ?? [],
    sites,
    ({ role }) => (role === "activation" ? activations : cache) !== FULL_WIDTH,
  );
  for (const [role, width] of [["activation", activations], ["key", cache]] as const) {
    if (width === FULL_WIDTH || sites.some((site) => site.role === role)) continue;
    throw new UserError({
      what: `Expected a model with quantizers of ${ROLE_NAMES[role]} for ${quote(spec.text)} but found none`,
      mend: "compile the model with --bits w4a4, or use a setting of weights alone",
    });
  }
  const weights = spec.kind === "mixed" ? mixedWidths(spec, sites, pinned, frontier, size) : pinned;
  const widthOf = (site: ModelSite): number => {
    const { name, role } = site;
    if (role === "weight") return weights[name] ?? (spec.kind === "uniform" ? spec.weights : FULL_WIDTH);
    if (role !== "activation") return cache;
    return activations === "weights" ? widthOfReaders(site, weights) : activations;
  };
  return { ...Object.fromEntries(sites.map((site) => [site.name, widthOf(site)])), ...pinned };
}

/** Whether a frontier has measured what a setting is: no pins, and activations as they were then. */
export const isMeasured = ({ pins = [], activations = FULL_WIDTH }: BitSpec, frontier: Frontier): boolean =>
  pins.length === 0 && activations === (frontier.activations ? "weights" : FULL_WIDTH);

function mixedWidths(
  spec: MixedSpec,
  sites: readonly ModelSite[],
  pinned: BitConfig,
  frontier?: Frontier,
  size?: SizeModel,
): BitConfig {
  const { text, budget } = spec;
  if (!frontier) {
    throw new UserError({
      what: `Expected a model with allocated bits for ${quote(text)} but found none`,
      mend: "compile the model with --bits mixed",
    });
  }
  // What mixtures have learned on their own serves no other widths.
  const points = isMeasured(spec, frontier)
    ? undominated([...frontier.points, ...frontier.refined ?? []])
    : frontier.points;
  const { best, least } = chooseMixture(budget, { ...frontier, points }, pinned, sites, size);
  if (best) return best.config;
  throw new UserError({
    what: `Expected a budget of at least ${leastText(budget, least, size)} but found ${quote(text)}`,
    mend: budget.kind === "bits" && least > Math.max(...WIDTHS)
      ? "pin fewer sites, or to fewer bits"
      : `use "${mixedText({ ...spec, budget: { ...budget, most: least } })}"`,
  });
}

/** `2.00 mean bits, the least this model has`; of bytes also what no width changes. */
function leastText(budget: Budget, least: number, size?: SizeModel): string {
  if (budget.kind === "bits") return `${least.toFixed(2)} mean bits, the least this model has,`;
  const fixed = size?.unquantized[budget.of] ?? 0;
  return `${
    Math.ceil(least)
  } bytes, the least this model has (${fixed} of them embeddings, heads, norms, biases and rotary tables),`;
}

/** A mixture as users write it; budgets are rounded up. */
function mixedText({ budget, activations = FULL_WIDTH, cache = FULL_WIDTH }: MixedSpec): string {
  const amount = budget.kind === "bits"
    ? (Math.ceil(budget.most * 100) / 100).toFixed(2)
    : `${Math.ceil(budget.most)}B${budget.of === "memory" ? "/memory" : ""}`;
  const a = activations === "weights" ? "aw" : activations === FULL_WIDTH ? "" : `a${activations}`;
  return `mixed@${amount}${a}${cache === FULL_WIDTH ? "" : `kv${cache}`}`;
}
