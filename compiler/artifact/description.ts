/**
 * @file What an artifact says about itself: one JSON text in the metadata of its safetensors file. Everything in it is
 * checked when it is read, since artifacts are passed around.
 */
import type { Frontier, FrontierPoint } from "../allocate/frontier.ts";
import { quote, UserError } from "../../ir/errors.ts";
import type { Module } from "../../ir/module.ts";
import { parseModule, printModule } from "../../ir/module_text.ts";
import {
  ADAPTER_SPACES,
  type AdapterScheme,
  type AdapterUse,
  eachWidth,
  FULL_WIDTH,
  MASTER_KINDS,
  type MasterScheme,
  type QuantizationScheme,
  WIDTHS,
} from "../../ir/sites.ts";
import type { Width } from "../../ir/types.ts";
import { verifyModule } from "../../ir/verify_module.ts";
import { type Fields, fieldsOf } from "../frontends/fields.ts";
import { isJsonObject, type JsonObject, parseJsonObject } from "../frontends/json.ts";
import { type ModelSite, modelSites } from "../model_sites.ts";
import { type Recipe, TRACKS } from "../recipe.ts";
import { refinedSites, type RefinedWidths } from "./refined.ts";

/** Metadata key of the description in the file. */
export const METADATA_KEY = "vernier";
/** The one version of the format that there is. */
export const ARTIFACT_VERSION = 6;

/** Where an artifact comes from. */
export interface Provenance {
  readonly seed: number;
  /** Hash of the calibration data, null where nothing was learned. */
  readonly dataSha256: string | null;
  /** Version of the program that made it. */
  readonly version: string;
  /** Settings of the calibration, as they were. */
  readonly settings: JsonObject;
}

/** Loss by site and weight width: KL divergence of the next-token distributions when this site alone is quantized. */
export type Sensitivities = Readonly<Record<string, Readonly<Record<string, number>>>>;

/** Everything about an artifact but its tensors. */
export interface ArtifactDescription {
  /** The elastic module, all parameters of time checkpoint and calibration held in the file. */
  readonly module: Module;
  /** How it was made elastic: scheme, widths, seed of rotations. */
  readonly recipe: Recipe;
  /** The checkpoint's `config.json`, as it was. */
  readonly config: JsonObject;
  readonly provenance: Provenance;
  readonly sensitivities?: Sensitivities;
  readonly frontier?: Frontier;
  /** Mixtures with learned values of their own, by their numbers. */
  readonly refined?: readonly RefinedWidths[];
}

/**
 * The description as JSON text. Sites are listed for other readers; they follow from the module. Derived parameters of the
 * module become ordinary ones, since what is computed from them is stored.
 */
export function printDescription(description: ArtifactDescription): string {
  const { module, recipe, config, provenance, sensitivities, frontier, refined } = description;
  return JSON.stringify({
    version: ARTIFACT_VERSION,
    generator: `vernier ${provenance.version}`,
    module: printModule({ ...module, derived: {} }),
    recipe,
    sites: modelSites(module),
    config,
    provenance,
    ...(sensitivities ? { sensitivities } : {}),
    ...(frontier ? { frontier } : {}),
    ...(refined ? { refined } : {}),
  });
}

/**
 * Reads and checks a description.
 *
 * @param file what messages call the artifact
 * @throws {UserError} if the version is not known, or anything is missing or damaged
 */
export function parseDescription(text: string, file: string): ArtifactDescription {
  const where = `${METADATA_KEY} of ${file}`;
  const fields = fieldsOf(parseJsonObject(new TextEncoder().encode(text), where), where);
  const version = fields.raw("version");
  if (version !== ARTIFACT_VERSION) {
    throw new UserError({
      what: `Expected an artifact of version ${ARTIFACT_VERSION} but found ${quote(version ?? null)}`,
      where: quote(file),
      mend: "use the version of Vernier that made it, or compile the model again",
    });
  }
  const module = readModule(fields.string("module"), where), sites = modelSites(module);
  const frontier = fields.object("frontier"), [sensitivities, refined] = ["sensitivities", "refined"].map(fields.raw);
  return {
    module,
    recipe: readRecipe(required(fields, "recipe")),
    config: objectOf(fields, "config"),
    provenance: readProvenance(required(fields, "provenance")),
    ...(sensitivities === undefined ? {} : { sensitivities: readSensitivities(fields, sites) }),
    ...(frontier ? { frontier: readFrontier(frontier, sites) } : {}),
    ...(refined === undefined ? {} : { refined: readRefined(fields, sites) }),
  };
}

function readModule(text: string, where: string): Module {
  try {
    const module = parseModule(text);
    verifyModule(module, "the artifact's module");
    return module;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UserError({
      what: `Cannot read the module: ${reason}`,
      where: quote(where),
      mend: "use an intact artifact, or compile the model again",
    }, { cause });
  }
}

function readRecipe(fields: Fields): Recipe {
  const track = TRACKS.find((known) => known === fields.raw("track")), groups = fields.raw("bitGroups");
  if (track === undefined) throw fields.error("track", '"weights", "activations" or "both"');
  const isGroups = (value: unknown): value is Width[][] =>
    Array.isArray(value) && value.every((group) => Array.isArray(group) && group.every(isWidth));
  if (!isGroups(groups)) throw fields.error("bitGroups", "lists of widths from 2 to 8");
  const flag = (key: string): boolean => {
    const value = fields.raw(key);
    if (typeof value === "boolean") return value;
    throw fields.error(key, "true or false");
  };
  return {
    track,
    rotate: flag("rotate"),
    scaleColumns: flag("scaleColumns"),
    activations: flag("activations"),
    cache: flag("cache"),
    seed: integer(fields, "seed", Number.MIN_SAFE_INTEGER),
    scheme: readScheme(required(fields, "scheme")),
    bitGroups: groups,
  };
}

function readScheme(fields: Fields): QuantizationScheme {
  const adapterSpace = ADAPTER_SPACES.find((known) => known === fields.raw("adapterSpace"));
  if (adapterSpace === undefined) throw fields.error("adapterSpace", '"weight", "scale" or "rounding"');
  const perWidth = (key: string, read: (table: Fields, width: string) => number) => {
    const table = required(fields, key);
    return eachWidth((width) => read(table, String(width)));
  };
  const ratio = (table: Fields, width: string) => table.positive(width);
  const groupSizes = perWidth("groupSizes", (table, width) => integer(table, width, -1));
  if (Object.values(groupSizes).includes(0)) throw fields.error("groupSizes", "group sizes of 1 or more, or -1");
  return {
    groupSizes,
    adapters: readAdapters(required(fields, "adapters")),
    adapterSpace,
    master: readMaster(required(fields, "master")),
    cacheClip: perWidth("cacheClip", ratio),
    activationClip: perWidth("activationClip", ratio),
  };
}

function readMaster(fields: Fields): MasterScheme {
  const kind = MASTER_KINDS.find((known) => known === fields.raw("kind"));
  if (kind === undefined) throw fields.error("kind", "one of " + MASTER_KINDS.map(quote).join(", "));
  if (kind === "fp16") return { kind };
  const groupSize = fields.count("groupSize");
  if (kind === "int8" || groupSize % 4 === 0) return { kind, groupSize };
  throw fields.error("groupSize", "a multiple of 4");
}

function readAdapters(fields: Fields): AdapterScheme {
  const columns = required(fields, "pairs"), uses = required(fields, "uses");
  const pairs = Object.fromEntries(columns.names().map((name) => [name, columns.count(name)]));
  const use = (width: Width): AdapterUse => {
    const table = required(uses, String(width)), pair = table.string("pair"), rank = integer(table, "rank", 0);
    const kept = table.raw("kept") === undefined ? {} : { kept: integer(table, "kept", 0) };
    if (rank <= (pairs[pair] ?? 0)) return { pair, rank, ...kept };
    throw table.error("rank", `at most ${pairs[pair] ?? 0}, the columns of the adapter ${quote(pair)}`);
  };
  return { pairs, uses: eachWidth(use) };
}

function readProvenance(fields: Fields): Provenance {
  const hash = fields.raw("dataSha256");
  if (hash !== null && typeof hash !== "string") throw fields.error("dataSha256", "a string or null");
  return {
    seed: integer(fields, "seed", Number.MIN_SAFE_INTEGER),
    dataSha256: hash,
    version: fields.string("version"),
    settings: objectOf(fields, "settings"),
  };
}

function readSensitivities(fields: Fields, sites: readonly ModelSite[]): Sensitivities {
  const value = fields.raw("sensitivities"), names = new Set(weightNames(sites));
  const isTable = (table: unknown): table is Record<string, number> =>
    isJsonObject(table) && Object.entries(table).every(([width, loss]) => isWidth(Number(width)) && isFinite(loss));
  const isSensitivities = (all: unknown): all is Sensitivities =>
    isJsonObject(all) && Object.entries(all).every(([site, table]) => names.has(site) && isTable(table));
  if (isSensitivities(value)) return value;
  throw fields.error("sensitivities", "losses by width of the module's weights");
}

function readFrontier(fields: Fields, modelSites: readonly ModelSite[]): Frontier {
  const sites = fields.raw("sites"), parameters = fields.raw("parameters"), points = fields.raw("points");
  const names = new Set(weightNames(modelSites));
  const isSites = (list: unknown): list is string[] =>
    Array.isArray(list) && new Set(list).size === list.length && list.every((site) => names.has(site));
  if (!isSites(sites)) throw fields.error("sites", "names of the module's weights");
  const isCounts = (list: unknown): list is number[] =>
    Array.isArray(list) && list.length === sites.length &&
    list.every((count) => Number.isSafeInteger(count) && count > 0);
  if (!isCounts(parameters)) throw fields.error("parameters", `${sites.length} positive integers`);
  const isPoint = (point: unknown): point is FrontierPoint =>
    isJsonObject(point) && isFinite(point["meanBits"]) && isFinite(point["loss"]) &&
    typeof point["widths"] === "string" && /^[2-8]*$/.test(point["widths"]) && point["widths"].length === sites.length;
  const isPoints = (list: unknown): list is FrontierPoint[] =>
    Array.isArray(list) && list.length > 0 && list.every(isPoint) &&
    list.every(({ meanBits }, i) => meanBits >= (list[i - 1]?.meanBits ?? 0));
  if (!isPoints(points)) throw fields.error("points", `points of ${sites.length} widths, sorted by mean bits`);
  const refined = fields.raw("refined"),
    activations = fields.raw("activations"),
    countsSites = fields.raw("countsSites");
  const isList = (list: unknown): list is FrontierPoint[] => Array.isArray(list) && list.every(isPoint);
  if (refined !== undefined && !isList(refined)) throw fields.error("refined", `points of ${sites.length} widths`);
  if (activations !== undefined && typeof activations !== "boolean") throw fields.error("activations", "true or false");
  if (countsSites !== undefined && typeof countsSites !== "boolean") throw fields.error("countsSites", "true or false");
  return {
    sites,
    parameters,
    points,
    ...(countsSites === undefined ? {} : { countsSites }),
    ...(activations === undefined ? {} : { activations }),
    ...(refined === undefined ? {} : { refined }),
  };
}

function readRefined(fields: Fields, sites: readonly ModelSite[]): readonly RefinedWidths[] {
  const value = fields.raw("refined"), { length } = refinedSites(sites);
  const isMixture = (widths: unknown): widths is number[] =>
    Array.isArray(widths) && widths.length === length &&
    widths.every((width) => width === FULL_WIDTH || isWidth(width));
  if (Array.isArray(value) && value.every(isMixture)) return value;
  throw fields.error("refined", `lists of ${length} widths, one per weight and activation`);
}

const weightNames = (sites: readonly ModelSite[]): readonly string[] =>
  sites.filter(({ role }) => role === "weight").map(({ name }) => name);

function required(fields: Fields, key: string): Fields {
  const found = fields.object(key);
  if (found) return found;
  throw fields.error(key, "an object");
}

function objectOf(fields: Fields, key: string): JsonObject {
  const value = fields.raw(key);
  if (isJsonObject(value)) return value;
  throw fields.error(key, "an object");
}

function integer(fields: Fields, key: string, least: number): number {
  const value = fields.raw(key);
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= least) return value;
  throw fields.error(key, least < 0 && least > -2 ? "a positive integer or -1" : "an integer");
}

const isWidth = (value: unknown): value is Width => WIDTHS.some((width) => width === value);
const isFinite = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
