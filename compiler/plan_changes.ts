/**
 * @file Changes of a plan as texts, `NAME=VALUE`: every part of the method can be switched, for ablations and for models that want
 * other numbers than the defaults. One table says what there is; reading, checking and the help text follow from it.
 */
import { quote, UserError } from "../ir/errors.ts";
import { ADAPTER_SPACES, eachWidth, MASTER_KINDS, WIDTHS } from "../ir/sites.ts";
import type { Width } from "../ir/types.ts";
import { ADAPTER_KINDS, type AdapterKind, adaptersOf, type RankSchedule } from "./adapters.ts";
import type { CalibrationSettings, MergeKind } from "./calibrate/settings.ts";
import type { Plan } from "./plan.ts";
import { masterOf, type Recipe } from "./recipe.ts";

/** One change: what its value looks like, what it does, and how it is done. */
interface Change {
  readonly value: string;
  readonly doc: string;
  /** The changed plan, undefined if the value is of no known form. */
  apply(plan: Plan, value: string): Plan | undefined;
}

const setting = (
  value: string,
  doc: string,
  read: (text: string, now: CalibrationSettings) => Partial<CalibrationSettings> | undefined,
): Change => ({
  value,
  doc,
  apply: (plan, text) => {
    const changed = read(text, plan.settings);
    return changed && { ...plan, settings: { ...plan.settings, ...changed } };
  },
});

const recipe = (
  value: string,
  doc: string,
  read: (text: string, now: Recipe) => Partial<Recipe> | undefined,
): Change => ({
  value,
  doc,
  apply: (plan, text) => {
    const changed = read(text, plan.recipe);
    return changed && { ...plan, recipe: { ...plan.recipe, ...changed } };
  },
});

/** A number of at least (or more than, for `above`) some bound, and at most another. */
function numberIn(text: string, { least = 0, most = Infinity, above = -Infinity }): number | undefined {
  const value = text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) && value >= least && value <= most && value > above ? value : undefined;
}

const wholeOf = (text: string, least: number): number | undefined =>
  /^\d+$/.test(text) && Number(text) >= least ? Number(text) : undefined;

const flagOf = (text: string): boolean | undefined => text === "on" ? true : text === "off" ? false : undefined;

const oneOf = <T extends string>(text: string, choices: readonly T[]): T | undefined =>
  choices.find((choice) => choice === text);

const defined = <K extends string, V>(key: K, value: V | undefined): { [key in K]: V } | undefined =>
  value === undefined ? undefined : { [key]: value } as { [key in K]: V };

/** `8:16,4:32`, other widths as they are; or one value for all. */
function perWidth(
  text: string,
  now: Readonly<Record<Width, number>>,
  read: (text: string) => number | undefined,
): Readonly<Record<Width, number>> | undefined {
  const all = read(text);
  if (all !== undefined) return eachWidth(() => all);
  const changed: Partial<Record<Width, number>> = {};
  for (const part of text.split(",")) {
    const [name, value = "", ...others] = part.split(":"), width = WIDTHS.find((known) => String(known) === name);
    const found = read(value);
    if (width === undefined || found === undefined || others.length > 0) return undefined;
    changed[width] = found;
  }
  return { ...now, ...changed };
}

/** Clip ratios per width, which a scheme keeps under `key`. */
const clips = (key: "cacheClip" | "activationClip", some: string, what: string): Change =>
  recipe(`RATIO|${some}`, `${what} that its grid spans; for all widths or some`, (text, { scheme }) => {
    const ratios = perWidth(text, scheme[key], (part) => numberIn(part, { above: 0, most: 1 }));
    return ratios && { scheme: { ...scheme, [key]: ratios } };
  });

/** Ranks by bit group from the highest to the lowest, as papers write them the other way round (`64/48/32/16`), or per width. */
function ranksOf(text: string, { bitGroups, scheme }: Recipe): RankSchedule | undefined {
  const now = eachWidth((width) => scheme.adapters.uses[width].rank);
  if (!text.includes("/")) return perWidth(text, now, (part) => wholeOf(part, 0));
  const ranks = text.split("/").map((part) => wholeOf(part, 0)), lowestFirst = [...bitGroups].reverse();
  if (ranks.length !== lowestFirst.length || ranks.includes(undefined)) return undefined;
  return eachWidth((width) => {
    const group = lowestFirst.findIndex((widths) => widths.includes(width));
    // Widths that are not calibrated take what the lowest group has.
    return ranks[Math.max(group, 0)] ?? 0;
  });
}

/** `8,7/6,5/4`: groups of widths, highest first. */
function groupsOf(text: string): Recipe["bitGroups"] | undefined {
  const groups = text.split("/").map((group) =>
    group.split(",").map((part) => WIDTHS.find((width) => String(width) === part))
  );
  const all = groups.flat();
  const fits = all.every((width) => width !== undefined) && new Set(all).size === all.length;
  return fits ? groups as Width[][] : undefined;
}

const kindOf = ({ scheme: { adapters: { pairs, uses } } }: Recipe): AdapterKind => {
  const used = WIDTHS.filter((width) => uses[width].rank > 0);
  if (used.length === 0) return "off";
  if (Object.keys(pairs).length > 1) return "independent";
  if (used.some((width) => uses[width].kept !== undefined)) return "protected";
  return used.every((width) => uses[width].rank === Math.max(...Object.values(pairs))) ? "shared" : "cascaded";
};

const withAdapters = ({ scheme }: Recipe, kind: AdapterKind, ranks: RankSchedule): Partial<Recipe> => ({
  scheme: { ...scheme, adapters: adaptersOf(kind, ranks) },
});

/** Everything that can be changed. */
export const PLAN_CHANGES = {
  adapters: recipe(ADAPTER_KINDS.join("|"), "how widths share low-rank adapters", (text, now) => {
    const kind = oneOf(text, ADAPTER_KINDS);
    return kind && withAdapters(now, kind, eachWidth((width) => now.scheme.adapters.uses[width].rank));
  }),
  ranks: recipe(
    "64/48/32/16|2:32,4:16|16",
    "adapter columns: one number per bit group, the lowest first, or per width",
    (text, now) => {
      const ranks = ranksOf(text, now), kind = kindOf(now);
      return ranks && withAdapters(now, kind === "off" ? "cascaded" : kind, ranks);
    },
  ),
  "adapter-space": recipe(
    ADAPTER_SPACES.join("|"),
    "what adapters are added to: the weight, the weight in steps of its grid, or the choice of rounding up or down",
    (text, { scheme }) => {
      const adapterSpace = oneOf(text, ADAPTER_SPACES);
      return adapterSpace && { scheme: { ...scheme, adapterSpace } };
    },
  ),
  groups: recipe(
    "8,7/6,5/4",
    "bit groups: widths that share a draw per step and their inputs, highest first",
    (text) => defined("bitGroups", groupsOf(text)),
  ),
  "group-size": recipe("-1|2:128,3:64", "columns per scale, -1 for whole rows; for all widths or some", (text, now) => {
    const sizes = perWidth(text, now.scheme.groupSizes, (part) => part === "-1" ? -1 : wholeOf(part, 1));
    return sizes && { scheme: { ...now.scheme, groupSizes: sizes } };
  }),
  master: recipe(MASTER_KINDS.join("|"), "how the artifact keeps weights", (text, { scheme }) => {
    const kind = oneOf(text, MASTER_KINDS);
    return kind && { scheme: { ...scheme, master: masterOf(kind) } };
  }),
  rotate: {
    value: "on|off|auto",
    doc:
      "rotate the residual stream, heads and the input of down projections; auto: if rounding to nearest gains by it",
    apply: (plan, text) => {
      const rotate = flagOf(text);
      if (text === "auto") return { ...plan, chooseRotation: true };
      return rotate === undefined ? undefined : { ...plan, chooseRotation: false, recipe: { ...plan.recipe, rotate } };
    },
  },
  "scale-columns": recipe(
    "on|off",
    "scale the columns of linears by powers of their mean inputs, searched on block outputs (AWQ)",
    (text) => defined("scaleColumns", flagOf(text)),
  ),
  "cache-clip": clips("cacheClip", "2:0.9,3:0.95", "part of a cached vector's range"),
  "activation-clip": clips("activationClip", "4:0.9,5:0.95", "part of a token's largest magnitude"),
  inputs: setting(
    "tracks|fused",
    "inputs of the next block: one path per bit group, or merged as published",
    (text) => defined("inputs", oneOf<"tracks" | "fused">(text, ["tracks", "fused"])),
  ),
  mixtures: setting(
    "PART",
    "part of the steps whose sites take mixed widths",
    (text) => defined("mixtures", numberIn(text, { most: 1 })),
  ),
  refine: setting(
    "PART",
    "part of the epochs that each mixture which is asked for learns alone at the end",
    (text) => defined("refine", numberIn(text, {})),
  ),
  every: setting(
    "N|5:4,7:12",
    "a bit group of several widths takes part in one of so many steps, by its narrowest; for all widths or some",
    (text, now) => defined("every", perWidth(text, now.every, (part) => wholeOf(part, 1))),
  ),
  "weight-only": setting(
    "PART",
    "part of the steps of --track both that leave activations in full precision",
    (text) => defined("weightOnly", numberIn(text, { most: 1 })),
  ),
  balance: setting(
    "on|off",
    "divide each group's loss by its loss before training",
    (text) => defined("balance", flagOf(text)),
  ),
  merge: setting("selective|uniform|random|none", "how fused inputs are merged", (text, { merge }) => {
    const kind = oneOf<MergeKind>(text, ["selective", "uniform", "random", "none"]);
    return kind && { merge: { ...merge, kind } };
  }),
  top: setting("PART", "part of the tokens that selective merging leaves alone", (text, { merge }) => {
    const top = numberIn(text, { most: 1 });
    return top === undefined ? undefined : { merge: { ...merge, top } };
  }),
  lambdas: setting("0.3,0.3,0.4", "weights of the merge, one per bit group, the highest first", (text, { merge }) => {
    const weights = text.split(",").map((part) => numberIn(part, { most: 1 }));
    return weights.includes(undefined) ? undefined : { merge: { ...merge, weights: weights as number[] } };
  }),
  loss: setting(
    "1|2",
    "p of the reconstruction loss |P - Y|^p",
    (text) => text === "1" || text === "2" ? { lossPower: text === "1" ? 1 : 2 } : undefined,
  ),
  logits: setting(
    "WEIGHT",
    "what logits count, beside its output, for what the last block learns; 0: its output alone",
    (text) => defined("logits", numberIn(text, { most: 1e6 })),
  ),
  "clip-start": setting("4|8:9,7:9", "clip logits before training; for all widths or some", (text, now) => {
    const clipStart = perWidth(text, now.clipStart, (part) => numberIn(part, { least: -20, most: 20 }));
    return clipStart && { clipStart };
  }),
  "clip-search": setting(
    "on|off",
    "search where clips start, row by row (AWQ)",
    (text) => defined("clipSearch", flagOf(text)),
  ),
  "clip-rate": setting(
    "RATE",
    "learning rate of clip logits",
    (text) => defined("clipRate", numberIn(text, { above: 0 })),
  ),
  "adapter-rate": setting(
    "RATE",
    "learning rate of adapters in weight space; it is ten times as high in others",
    (text) => defined("adapterRate", numberIn(text, { above: 0 })),
  ),
  "adapter-start": setting(
    "inputs|random",
    "where the A of adapters starts: at the directions in which its inputs vary most, or anywhere",
    (text) => defined("adapterStart", oneOf<"inputs" | "random">(text, ["inputs", "random"])),
  ),
  "rate-slope": setting(
    "SLOPE",
    "rates of adapters in weight space fall by 2^-SLOPE per bit above 4",
    (text) => defined("rateSlope", numberIn(text, { most: 4 })),
  ),
  average: setting(
    "PART",
    "learned values are the mean over this last part of the steps",
    (text) => defined("average", numberIn(text, { most: 1 })),
  ),
  "measure-tokens": setting(
    "N",
    "calibration tokens that sensitivities and mixtures are measured on",
    (text) => defined("measureTokens", wholeOf(text, 1)),
  ),
  batch: setting("N", "sequences per step", (text) => defined("batch", wholeOf(text, 1))),
} as const satisfies Readonly<Record<string, Change>>;

/**
 * A plan with changes, applied in order.
 *
 * @param changes texts of the form `NAME=VALUE`, by the names of `PLAN_CHANGES`
 * @throws {UserError} naming the change that is unknown or of the wrong form
 */
export function changePlan(plan: Plan, changes: readonly string[]): Plan {
  const changed = changes.reduce((now, text) => {
    const at = text.indexOf("="),
      name = at < 0 ? text : text.slice(0, at),
      table: Readonly<Record<string, Change>> = PLAN_CHANGES;
    const change = Object.hasOwn(table, name) ? table[name] : undefined;
    if (!change) {
      throw new UserError({
        what: `Expected a setting but found ${quote(name)}`,
        where: "--set",
        mend: `use one of ${Object.keys(table).join(", ")}`,
      });
    }
    const changed = at < 0 ? undefined : change.apply(now, text.slice(at + 1));
    if (changed) return changed;
    throw new UserError({
      what: `Expected ${name}=${change.value} but found ${quote(text)}`,
      where: "--set",
      mend: PER_GROUP.has(name) ? `${change.doc}; bit groups are ${groupsText(now.recipe)}` : change.doc,
    });
  }, plan);
  checkMerge(changed, changes.some((text) => text.startsWith("lambdas=")));
  return changed;
}

/** Changes with a value per bit group. */
const PER_GROUP: ReadonlySet<string> = new Set(["ranks", "lambdas"]);

const groupsText = ({ bitGroups }: Recipe): string => bitGroups.map((widths) => widths.join()).join("/");

/**
 * The weights of the merge are one per bit group, where any are used; of defaults there may be more.
 *
 * @param given whether the user has set them
 * @throws {UserError} where some are missing, or all are zero
 */
export function checkMerge({ settings: { inputs, merge }, recipe }: Plan, given = false): void {
  const { weights, kind } = merge, groups = recipe.bitGroups.length;
  const isUsed = inputs === "fused" && (kind === "selective" || kind === "uniform");
  const own = weights.slice(0, groups), sum = own.reduce((total, weight) => total + weight, 0);
  const fits = own.length === groups && sum > 0 && Number.isFinite(sum) && (!given || weights.length === groups);
  if (fits || (!isUsed && !given)) return;
  throw new UserError({
    what: `Expected ${groups} weights of the merge, not all zero, but found ${weights.join(",")}`,
    where: "--set",
    mend: `give one per bit group, ${groupsText(recipe)}, with --set lambdas=…`,
  });
}
