/** @file The loss curves of a calibration in its output folder: `loss.jsonl` while it runs, `loss.svg` at its end. */
import { writeAtomically } from "../compiler/artifact/atomic_write.ts";
import { explain, localFolder } from "../compiler/frontends/source.ts";
import { lossChart, type LossPoint } from "./loss_chart.ts";

/** Where the points go. */
export interface LossLog {
  /** Adds a point; the file has it when the call returns. */
  add(point: LossPoint): void;
  /** Draws what the file holds. */
  draw(): Promise<void>;
}

/** Name of the data, one JSON object per line. */
export const LOSS_FILE = "loss.jsonl";
/** Name of the drawing. */
export const LOSS_CHART = "loss.svg";

/**
 * Opens the log of a folder. What an interrupted run left of the blocks before the first that is calibrated now stays: it belongs to
 * finished blocks. The rest, and what another calibration left, goes.
 *
 * @throws {UserError} if the folder cannot be read or written
 */
export async function openLossLog(folder: string): Promise<LossLog> {
  const path = `${folder}/${LOSS_FILE}`, fail = (error: unknown) => explain(error, "write", path);
  const earlier = await (await localFolder(folder)).has(LOSS_FILE) ? parse(await Deno.readTextFile(path)) : [];
  let points: LossPoint[] | undefined;
  const write = (text: string, append: boolean): void => {
    try {
      Deno.writeTextFileSync(path, text, { append });
    } catch (error) {
      fail(error);
    }
  };
  return {
    add: ({ block, step, loss }) => {
      if (points === undefined) {
        points = earlier.filter((point) => point.block < block);
        write(points.map(lineOf).join(""), false);
      }
      const point = { block, step, loss };
      points.push(point);
      write(lineOf(point), true);
    },
    draw: () => writeAtomically(`${folder}/${LOSS_CHART}`, [new TextEncoder().encode(lossChart(points ?? earlier))]),
  };
}

const lineOf = (point: LossPoint): string => `${JSON.stringify(point)}\n`;

/** The points of whole lines: a run that was killed while it wrote leaves half of one. */
function parse(text: string): LossPoint[] {
  return text.split("\n").flatMap((line) => {
    try {
      const { block, step, loss } = JSON.parse(line) as Partial<LossPoint>;
      return block !== undefined && step !== undefined && loss !== undefined ? [{ block, step, loss }] : [];
    } catch {
      return [];
    }
  });
}
