import { VERSION } from "../../runtime/version.ts";

/** One line of a benchmark's result, as JSON lines or as a table. */
export interface BenchLine {
  readonly name: string;
  readonly backend: string;
  /** Threads, or 0 on a GPU. */
  readonly threads: number;
  readonly median: number;
  readonly unit: string;
  /** Part of what the machine can do, measured in the same run; null where nothing bounds it. */
  readonly roofline: number | null;
  /** What it was compared with in the same run, and how many times faster we are. */
  readonly peer: string | null;
  readonly ratio: number | null;
}

/** A line that nothing bounds and that is compared with nothing, unless `more` says so. */
export const benchLine = (
  line: Pick<BenchLine, "name" | "backend" | "threads" | "median" | "unit">,
  more: Partial<BenchLine> = {},
): BenchLine => ({ roofline: null, peer: null, ratio: null, ...line, ...more });

/** What a peer measured in the same run; a larger median is better. */
export interface PeerMedian {
  readonly name: string;
  readonly median: number;
}

/** The part of a line that says how it compares with a peer, if there is one. */
export const comparedWith = (median: number, peer: PeerMedian | undefined): Partial<BenchLine> =>
  peer ? { peer: peer.name, ratio: median / peer.median } : {};

/** How results are printed. */
export type Format = "json" | "markdown" | "text";

const HEAD =
  "| what | backend | median | unit | of the roofline | peer | ratio |\n| --- | --- | ---: | --- | ---: | --- | ---: |";

/** A printer of lines as they come. */
export function createReport(format: Format, print: (text: string) => void = console.log): (line: BenchLine) => void {
  if (format === "markdown") print(HEAD);
  return (line) => {
    const { name, backend, threads, median: value, unit, roofline, peer, ratio } = line;
    const where = threads > 0 ? `${backend}, ${threads} thread${threads > 1 ? "s" : ""}` : backend;
    const share = roofline === null ? "" : `${(100 * roofline).toFixed(1)} %`, number = value.toPrecision(4);
    const times = ratio === null ? "" : ratio.toFixed(2);
    if (format === "json") print(JSON.stringify(line));
    else if (format === "markdown") {
      print(`| ${[name, where, number, unit, share, peer ?? "", times].join(" | ")} |`);
    } else {
      const compared = peer === null ? "" : `  ${times} x ${peer}`;
      print(
        `${name.padEnd(48)} ${where.padEnd(16)} ${number.padStart(9)} ${unit.padEnd(9)} ${
          share.padStart(7)
        }${compared}`,
      );
    }
  };
}

/**
 * Rows of a long run in a file of JSON lines: those of an earlier run that was stopped, and more, which are written as they come. Rows of
 * something else (of another model, other texts) stay in the file, and are not seen.
 *
 * @param model and texts that the rows are of
 */
export async function openRows<Row>(
  file: string,
  { model, calib, eval: text }: { readonly model: string; readonly calib: string; readonly eval: string },
) {
  const of = { version: VERSION, model, calib, eval: text }, own = JSON.stringify(of);
  const earlier = await Deno.readTextFile(file).catch(() => "");
  const rows: Row[] = earlier.split("\n").filter(Boolean).map((line) => JSON.parse(line)).filter((row) =>
    JSON.stringify(row.of) === own
  );
  const add = async (found: readonly Row[]): Promise<void> => {
    rows.push(...found);
    await Deno.writeTextFile(file, found.map((row) => `${JSON.stringify({ ...row, of })}\n`).join(""), {
      append: true,
    });
  };
  return { rows, add };
}

/** For `parseArgs`: an option that is not known ends the program, which would otherwise run for minutes. */
export function refuseUnknown(arg: string, name?: string): boolean {
  if (name === undefined) return true;
  console.error(`error: Expected an option but found "${arg}"; the head of the file says which there are`);
  Deno.exit(2);
}

/** The middle of some numbers. */
export function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? NaN;
}
