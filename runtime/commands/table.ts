/** @file Results as lines on stdout: a table for people, or one JSON object per line for programs. */
import type { TaskScore } from "../choices.ts";
import type { ResultRow } from "../result_row.ts";

/** Prints rows as they come. */
export type RowPrinter = (row: ResultRow) => void;

const COLUMNS: readonly { readonly head: string; readonly width: number; readonly text: (row: ResultRow) => string }[] =
  [
    { head: "bits", width: 12, text: ({ bits }) => bits },
    { head: "mean bits", width: 9, text: ({ meanBits }) => meanBits.toFixed(2) },
    { head: "bytes", width: 13, text: ({ bytes }) => bytes.toLocaleString("en-US") },
    { head: "perplexity", width: 12, text: ({ perplexity }) => figure(perplexity) },
    {
      head: "±",
      width: 8,
      text: ({ perplexityError }) => Number.isNaN(perplexityError) ? "" : figure(perplexityError),
    },
    { head: "KL", width: 10, text: ({ kl }) => kl.toFixed(5) },
  ];

const figure = (value: number): string => value < 1e6 ? value.toFixed(4) : value.toExponential(4);

/** A printer of JSON lines, or of a table that begins with its head. */
export function rowPrinter(json: boolean, print: (line: string) => void): RowPrinter {
  if (json) {
    return ({ bits, meanBits, bytes, totalBytes, perplexity, perplexityError, kl, tokens, seconds }) =>
      print(JSON.stringify({ bits, meanBits, bytes, totalBytes, perplexity, perplexityError, kl, tokens, seconds }));
  }
  let begun = false;
  return (row) => {
    if (!begun) print(tableLine(COLUMNS.map(({ head }) => head)));
    begun = true;
    print(tableLine(COLUMNS.map(({ text }) => text(row))));
  };
}

/** Prints what a model makes of a task at a setting; `label` is what the table calls the task. */
export function taskPrinter(
  json: boolean,
  print: (line: string) => void,
): (bits: string, label: string, score: TaskScore) => void {
  if (json) return (bits, _, score) => print(JSON.stringify({ bits, ...score }));
  const percent = (share: number, error: number) =>
    `${(100 * share).toFixed(2)}${Number.isNaN(error) ? "" : ` ± ${(100 * error).toFixed(2)}`}`;
  let begun = false;
  return (bits, label, { items, acc, accError, accNorm, accNormError }) => {
    if (!begun) print(tableLine(["bits", "task", "questions", "acc, %", "acc_norm, %"], TASK_WIDTHS));
    begun = true;
    print(
      tableLine([bits, label, String(items), percent(acc, accError), percent(accNorm, accNormError)], TASK_WIDTHS),
    );
  };
}

const WIDTHS = COLUMNS.map(({ width }) => width), TASK_WIDTHS = [12, 12, 9, 15, 15];

/** The first column flush left, numbers flush right. */
const tableLine = (cells: readonly string[], widths: readonly number[] = WIDTHS): string =>
  cells.map((cell, i) => i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)).join("  ").trimEnd();
