/** @file The loss curves of a compilation in its output folder: `loss.jsonl` while it runs, `loss.svg` behind its last step. */
import { writeAtomically } from "../compiler/artifact/atomic_write.ts";
import { explain, localFolder } from "../compiler/frontends/source.ts";
import { lossChart, type LossPoint } from "./loss_chart.ts";

/** What a curve is of, as its lines in `loss.jsonl` say. Without a stage: the calibration of all widths. */
export interface LossCurve {
  /** A mixture learns in a race while it competes for a budget, and in a refinement to the end. */
  readonly stage?: "rehearsal" | "race" | "refinement";
  /** The settings that a mixture is for, as they were asked for: `mixed@3`, or `mixed@3,mixed@3.25`. */
  readonly mixture?: string;
  /** Tells mixtures of one setting apart; the same in every run. */
  readonly candidate?: string;
}

/** Where the points go. */
export interface LossLog {
  /** Begins a curve, or goes on with what an interrupted run left of it: later points are its own. */
  begin(curve: LossCurve): void;
  /** Adds a point; the file has it when the call returns. */
  add(point: LossPoint): void;
  /** Draws the curves that were begun: that of all widths, and those of mixtures that learned to the end. */
  draw(): Promise<void>;
  /** Drops what interrupted runs with other settings left, and puts the curves in the order in which they were begun. */
  close(): void;
}

/** Name of the data, one JSON object per line. */
export const LOSS_FILE = "loss.jsonl";
/** Name of the drawing. */
export const LOSS_CHART = "loss.svg";

/** A curve with its points so far. */
interface Curve {
  readonly of: LossCurve;
  points: LossPoint[];
}

/**
 * Opens the log of a folder. What an interrupted run left of a curve's blocks before the first that learns now stays: it belongs to
 * finished blocks. What it left of the others goes, and so does everything where the first curve starts anew.
 *
 * @throws {UserError} if the folder cannot be read or written
 */
export async function openLossLog(folder: string): Promise<LossLog> {
  const path = `${folder}/${LOSS_FILE}`;
  const curves = parse(await (await localFolder(folder)).has(LOSS_FILE) ? await Deno.readTextFile(path) : "");
  const begun = new Set<Curve>();
  let current: Curve | undefined, learns = false, appends = false;
  const writing = (write: () => void): void => {
    try {
      write();
    } catch (error) {
      explain(error, "write", path);
    }
  };
  const writeAll = (): void =>
    writing(() => {
      const temporary = `${path}.${crypto.randomUUID().slice(0, 8)}.tmp`;
      Deno.writeTextFileSync(temporary, [...curves.values()].flatMap(linesOf).join(""));
      Deno.renameSync(temporary, path);
      appends = true;
    });
  /** Drops what the points of the current curve from a block on take the place of. */
  const startAt = (curve: Curve, block: number): void => {
    const kept = curve.points.filter((point) => point.block < block);
    if (kept.length < curve.points.length) appends = false;
    curve.points = kept;
    if (begun.size > 1 || block > 0) return;
    curves.clear();
    curves.set(keyOf(curve.of), curve);
  };
  return {
    begin: (of) => {
      const key = keyOf(of), before = curves.get(key);
      current = { of, points: before?.points ?? [] };
      if (before) begun.delete(before);
      begun.add(current);
      // Behind all others.
      curves.delete(key);
      curves.set(key, current);
      learns = false;
    },
    add: ({ block, step, loss, divergence }) => {
      if (!current) throw new Error("Internal error in openLossLog: a point before its curve");
      if (!learns) startAt(current, block);
      learns = true;
      const point = { block, step, loss, divergence };
      current.points.push(point);
      if (!appends) writeAll();
      else writing(() => Deno.writeTextFileSync(path, lineOf(current as Curve, point), { append: true }));
    },
    draw: async () => {
      const panels = [...begun].flatMap(({ of: { stage, mixture = "" }, points }) => {
        if (stage === undefined) return [{ title: "all widths", points }];
        return stage === "refinement" ? [{ title: mixture, points }] : [];
      });
      await writeAtomically(`${folder}/${LOSS_CHART}`, [new TextEncoder().encode(lossChart(panels))]);
    },
    close: () => {
      for (const [key, curve] of curves) if (!begun.has(curve)) curves.delete(key);
      writeAll();
    },
  };
}

/** What stays the same from run to run: which other settings a mixture stands for need not. */
const keyOf = ({ stage, candidate }: LossCurve): string => `${stage} ${candidate}`;

const lineOf = ({ of }: Curve, point: LossPoint): string => `${JSON.stringify({ ...of, ...point })}\n`;

const linesOf = (curve: Curve): readonly string[] => curve.points.map((point) => lineOf(curve, point));

/** The curves of whole lines: a run that was killed while it wrote leaves half of one. */
function parse(text: string): Map<string, Curve> {
  const curves = new Map<string, Curve>();
  for (const line of text.split("\n")) {
    try {
      const { block, step, loss, divergence, ...of } = JSON.parse(line) as Partial<LossPoint> & LossCurve;
      if (block === undefined || step === undefined || loss === undefined) continue;
      const key = keyOf(of), curve = curves.get(key) ?? { of, points: [] };
      curve.points.push({ block, step, loss, divergence });
      curves.set(key, curve);
    } catch {
      continue;
    }
  }
  return curves;
}
