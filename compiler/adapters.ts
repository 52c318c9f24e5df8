/**
 * @file The ways in which widths can share low-rank adapters (quept-method 4.1, 4.5). All are one record, `AdapterScheme`; passes
 * and calibration do not know which of them it is.
 */
import { type AdapterScheme, type AdapterUse, eachWidth, WIDTHS } from "../ir/sites.ts";
import type { Width } from "../ir/types.ts";

/** How widths share adapters. */
export const ADAPTER_KINDS = ["independent", "cascaded", "protected", "shared", "off"] as const;

/** How widths share adapters; see `ADAPTER_KINDS`. */
export type AdapterKind = typeof ADAPTER_KINDS[number];

/** Columns that each width uses. */
export type RankSchedule = Readonly<Record<Width, number>>;

/** The pair of factors that several widths share. */
const COMMON = "common";

/**
 * The adapters of a kind.
 *
 * - `cascaded`: one pair; each width uses a prefix as long as its rank, so that lower widths extend what higher ones use
 * - `protected`: a cascade in which a width learns only the columns that no higher width uses
 * - `shared`: one pair, as wide as the largest rank, used whole by every width
 * - `independent`: every width has a pair of its own
 * - `off`: none
 */
export function adaptersOf(kind: AdapterKind, ranks: RankSchedule): AdapterScheme {
  const most = Math.max(...Object.values(ranks)), pairs = most > 0 ? { [COMMON]: most } : {};
  switch (kind) {
    case "cascaded":
      return { pairs, uses: eachWidth<AdapterUse>((width) => ({ pair: COMMON, rank: ranks[width] })) };
    case "protected": {
      const keptBy = (width: Width) =>
        Math.max(0, ...WIDTHS.filter((b) => ranks[b] < ranks[width]).map((b) => ranks[b]));
      return {
        pairs,
        uses: eachWidth<AdapterUse>((width) => ({ pair: COMMON, rank: ranks[width], kept: keptBy(width) })),
      };
    }
    case "shared":
      return { pairs, uses: eachWidth<AdapterUse>(() => ({ pair: COMMON, rank: most })) };
    case "independent": {
      const own = WIDTHS.filter((width) => ranks[width] > 0).map((width) => [String(width), ranks[width]]);
      return {
        pairs: Object.fromEntries(own),
        uses: eachWidth<AdapterUse>((width) => ({ pair: String(width), rank: ranks[width] })),
      };
    }
    case "off":
      return { pairs: {}, uses: eachWidth<AdapterUse>(() => ({ pair: COMMON, rank: 0 })) };
    default:
      return kind satisfies never;
  }
}

/** Whether any width has adapters. */
export const hasAdapters = ({ pairs }: AdapterScheme): boolean => Object.keys(pairs).length > 0;

/** The narrowest width that uses a pair: the one that decides how far its columns may move in a step. */
export const narrowestUser = ({ uses }: AdapterScheme, pair: string): Width | undefined =>
  WIDTHS.find((width) => uses[width].rank > 0 && uses[width].pair === pair);
