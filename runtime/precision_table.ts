/** @file Which settings a compilation calibrates for, and which ones its table shows. */
import { type BitSpec, configOf, parseBitSpec } from "../compiler/bit_spec.ts";
import { sizeModelOf, weightBytes } from "../compiler/budget.ts";
import { type ModelSite, modelSites } from "../compiler/model_sites.ts";
import { pinText } from "../compiler/pins.ts";
import type { Recipe, Track } from "../compiler/recipe.ts";
import { quote, UserError } from "../ir/errors.ts";
import type { Module } from "../ir/module.ts";
import { FULL_WIDTH, LEAST_WIDTHS } from "../ir/sites.ts";
import { checkWidths } from "./configuration.ts";

/**
 * What a calibration must serve for some settings: activations as soon as one of them quantizes activations or the cache, and both
 * tracks where there are also fewer bits per weight than that track has.
 */
export const trackOf = (specs: readonly BitSpec[]): Track =>
  !specs.some(isBeyondWeights) ? "weights" : specs.some(hasNarrowWeights) ? "both" : "activations";

const hasNarrowWeights = (spec: BitSpec): boolean =>
  spec.kind === "uniform"
    ? spec.weights < LEAST_WIDTHS.activation
    : spec.budget.kind === "bits" && spec.budget.most < LEAST_WIDTHS.activation;

const isBeyondWeights = ({ activations = FULL_WIDTH, cache = FULL_WIDTH }: BitSpec): boolean =>
  activations === "weights" || activations < FULL_WIDTH || cache < FULL_WIDTH;

/**
 * Refuses settings that a recipe does not calibrate.
 *
 * @throws {UserError} naming the setting and the widths that there are
 */
export function checkSettings(specs: readonly BitSpec[], { bitGroups, track }: Recipe): void {
  const widths: readonly number[] = bitGroups.flat(), least = Math.min(...widths), most = Math.max(...widths);
  for (const spec of specs) {
    if (track === "weights" && isBeyondWeights(spec)) {
      throw new UserError({
        what: `Expected settings of weights alone beside --track weights but found ${quote(spec.text)}`,
        where: "--bits",
        mend: "leave --track out, or use --track both",
      });
    }
    const known = spec.kind === "mixed"
      ? spec.budget.kind === "bytes" || spec.budget.most >= least
      : spec.weights >= FULL_WIDTH || widths.includes(spec.weights);
    if (known) continue;
    throw new UserError({
      what: `Expected ${least} to ${most} bits per weight${
        track === "activations" ? " beside quantized activations" : ""
      } but found ${quote(spec.text)}`,
      where: "--bits",
      mend: track === "activations"
        ? "compile with --track both, or settings of weights alone without settings such as w4a4"
        : "use these, or calibrate for other widths with --set groups=…",
    });
  }
}

/**
 * Refuses what no calibration could change: settings of what a model does not quantize, pins that match nothing or to widths that
 * there are not, and budgets below what the cheapest width of every site takes. (A frontier may have nothing as cheap, where small
 * groups make narrow widths large.)
 *
 * @param elastic the model as the recipe makes it
 * @param countsSites whether budgets count sites
 * @throws {UserError} as the settings would when they are used
 */
export function checkAsked(
  specs: readonly BitSpec[],
  elastic: Module,
  { bitGroups, scheme }: Recipe,
  countsSites: boolean,
): void {
  const sites = modelSites(elastic), weights = sites.filter(({ role }) => role === "weight");
  const widths = bitGroups.flat().sort((a, b) => a - b), size = sizeModelOf(elastic, scheme);
  const cheapest = (cost: (site: ModelSite, width: number) => number) =>
    weights.map((site) => widths.toSorted((a, b) => cost(site, a) - cost(site, b))[0]).join("");
  const bytes = (of: "file" | "memory") =>
    cheapest((site, width) => weightBytes({ [site.name]: width }, [site], scheme, of));
  const least = {
    sites: weights.map(({ name }) => name),
    parameters: weights.map(({ parameters }) => parameters),
    points: [cheapest((_, width) => width), bytes("file"), bytes("memory")].map((digits, i) => {
      return { meanBits: i, loss: -i, widths: digits };
    }),
    countsSites,
  };
  for (const spec of specs) {
    const where = spec.pins ? `${quote(spec.text)} with ${spec.pins.map(pinText).join(", ")}` : quote(spec.text);
    checkWidths(configOf(spec, sites, least, size), { sites, widths }, where);
  }
}

/** Full precision first, then every calibrated width from the highest down, and what else was asked for, in the user's words. */
export function tableSettings(
  specs: readonly BitSpec[],
  { bitGroups, track }: Recipe,
): readonly [BitSpec, ...BitSpec[]] {
  const wording = (text: string): BitSpec => {
    const usual = parseBitSpec(text);
    return specs.find((spec) => sameWidths(spec, usual)) ?? usual;
  };
  const widths = bitGroups.flat().sort((a, b) => b - a);
  const alone = track === "activations" ? [] : widths.map((width) => wording(String(width)));
  const quantized = track === "weights" ? [] : widths.filter((width) => width >= LEAST_WIDTHS.activation);
  const usual = [...alone, ...quantized.map((width) => wording(`w${width}a${width}`))];
  const full = wording(String(FULL_WIDTH));
  return [full, ...usual, ...specs.filter((spec) => spec !== full && !usual.includes(spec))];
}

const sameWidths = (a: BitSpec, b: BitSpec): boolean =>
  a.kind === "uniform" && b.kind === "uniform" && a.weights === b.weights && a.activations === b.activations &&
  a.cache === b.cache;
