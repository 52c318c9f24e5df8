/** @file Pins: widths of sites by pattern that win over every setting and budget, such as `layers.0.*=8`. */
import { quote, UserError } from "../ir/errors.ts";
import { FULL_WIDTH, LEAST_WIDTHS } from "../ir/sites.ts";
import type { ModelSite } from "./model_sites.ts";

/** One pin. */
export interface Pin {
  /** A global site name in which `*` stands for any characters. */
  readonly pattern: string;
  readonly width: number;
}

/** A pin as users write it. */
export const pinText = ({ pattern, width }: Pin): string => `--pin ${pattern}=${width}`;

/**
 * Parses `PATTERN=WIDTH`.
 *
 * @throws {UserError} if the text has another form, or the width is not 2 to 8 or 16
 */
export function parsePin(text: string): Pin {
  const at = text.lastIndexOf("="), pattern = text.slice(0, Math.max(0, at)), width = Number(text.slice(at + 1));
  if (pattern !== "" && /^\d+$/.test(text.slice(at + 1)) && (width >= 2 && width <= 8 || width === FULL_WIDTH)) {
    return { pattern, width };
  }
  throw new UserError({
    what: `Expected PATTERN=WIDTH but found ${quote(text)}`,
    where: "--pin",
    mend: 'write for example "layers.0.*=8"; widths are 2 to 8 or 16',
  });
}

/**
 * The widths that pins give to sites; later pins win. A pattern that matches weights pins them, and what else it matches as far as
 * the setting quantizes it, to no fewer bits than it can have: `layers.0.*=3` leaves activations alone where weights alone are
 * quantized, and gives them 4 bits elsewhere. One that matches no weight pins all that it matches.
 *
 * @param isQuantized whether the setting quantizes an activation or something cached
 * @throws {UserError} if a pattern matches no site
 */
export function pinnedWidths(
  pins: readonly Pin[],
  sites: readonly ModelSite[],
  isQuantized: (site: ModelSite) => boolean,
): Readonly<Record<string, number>> {
  const widths: Record<string, number> = {};
  for (const { pattern, width } of pins) {
    const parts = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
    const expression = new RegExp(`^${parts.join(".*")}$`), matched = sites.filter(({ name }) => expression.test(name));
    if (matched.length === 0) {
      throw new UserError({
        what: `Expected a pattern of site names but found ${quote(pattern)}, which matches none`,
        where: "--pin",
        mend: `sites are called ${
          sites.slice(0, 3).map(({ name }) => name).join(", ")
        } and so on; inspect --sites lists them`,
      });
    }
    const ofWeights = matched.some(({ role }) => role === "weight");
    for (const site of matched) {
      if (!ofWeights || site.role === "weight") widths[site.name] = width;
      else if (isQuantized(site)) widths[site.name] = Math.max(width, LEAST_WIDTHS[site.role]);
    }
  }
  return widths;
}
