/** @file What a compilation needs in memory: planned before it starts. */
import { type MeasuringMemory, measuringMemory } from "../compiler/allocate/memory.ts";
import {
  type CalibrationMemory,
  calibrationMemory,
  type CalibrationMemoryInput,
} from "../compiler/calibrate/memory.ts";

/** The planned peak of a compilation, in bytes. */
export interface CompilationMemory {
  readonly calibration: CalibrationMemory;
  /** Of measuring what mixtures cost, which comes behind a calibration. */
  readonly measuring: MeasuringMemory;
  /** The larger one. */
  readonly total: number;
}

/**
 * Plans a compilation. All programs share one arena, which never shrinks: measuring has that of the calibration at least, and the
 * calibration that of the measuring where it is rehearsed.
 */
export async function compilationMemory(
  input: Omit<CalibrationMemoryInput, "before">,
  rehearsed: boolean,
): Promise<CompilationMemory> {
  const { programs, ...alone } = await measuringMemory({ ...input, tokens: input.settings.measureTokens });
  const calibration = await calibrationMemory({ ...input, before: rehearsed ? programs : [] }), { peak } = calibration;
  const arena = Math.max(alone.arena, peak.arena), scratch = Math.max(alone.scratch, peak.scratch);
  const measuring = { ...alone, arena, scratch, total: alone.weights + alone.values + arena + scratch };
  return { calibration, measuring, total: Math.max(calibration.total, measuring.total) };
}
