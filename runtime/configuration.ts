/** @file From what a user asks for to the widths of every site, checked against what a model can do. */
import { type BitSpec, configOf, parseBitSpec } from "../compiler/bit_spec.ts";
import { sizeModelOf } from "../compiler/budget.ts";
import type { ModelSite } from "../compiler/model_sites.ts";
import { quote, UserError } from "../ir/errors.ts";
import { type BitConfig, FULL_WIDTH } from "../ir/sites.ts";
import type { ElasticSource } from "./elastic_source.ts";

/** A setting as text (`w4a4`, `mixed@3`), parsed, or as widths by global site name. */
export type Precision = string | BitSpec | BitConfig;

/**
 * Widths of all sites of a model; sites that a configuration does not name are in full precision.
 *
 * @throws {UserError} if the text is of no known form, or the model has no such sites, or no grids of such widths
 */
export function configurationOf(source: ElasticSource, precision: Precision): BitConfig {
  const spec = typeof precision === "string" ? parseBitSpec(precision) : precision;
  const config = isSpec(spec)
    ? configOf(spec, source.sites, source.frontier, sizeModelOf(source.module, source.scheme))
    : spec;
  checkWidths(config, source, quote(source.name));
  return Object.fromEntries(source.sites.map(({ name }) => [name, config[name] ?? FULL_WIDTH]));
}

/**
 * Refuses widths that sites cannot have.
 *
 * @param widths those that weights have grids for
 * @param where that the error names
 * @throws {UserError} naming the first site, or one that there is not
 */
export function checkWidths(
  config: BitConfig,
  { sites, widths: known }: { readonly sites: readonly ModelSite[]; readonly widths: readonly number[] },
  where: string,
): void {
  const roles = new Map(sites.map(({ name, role }) => [name, role]));
  for (const [name, width] of Object.entries(config)) {
    const role = roles.get(name);
    if (role === undefined) {
      throw new UserError({ what: `Expected a site of the model but found ${quote(name)}`, where });
    }
    const widths: readonly number[] = [...WIDTHS_OF[role] ?? known, FULL_WIDTH];
    if (widths.includes(width)) continue;
    throw new UserError({
      what: `Expected ${widths.slice(0, -1).join(", ")} or ${FULL_WIDTH} bits for ${quote(name)} but found ${width}`,
      where,
      mend: role === "weight" ? "use one of these, or compile the model for other widths" : "use one of these",
    });
  }
}

/** Widths that need nothing learned. */
const WIDTHS_OF: Readonly<Record<string, readonly number[]>> = {
  activation: [4, 5, 6, 7, 8],
  key: [2, 3, 4, 5, 6, 7, 8],
  value: [2, 3, 4, 5, 6, 7, 8],
};

function isSpec(precision: BitSpec | BitConfig): precision is BitSpec {
  return typeof precision.kind === "string";
}
