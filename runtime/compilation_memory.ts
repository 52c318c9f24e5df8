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

/** Plans a compilation. All programs share one work space, which grows when they are compiled: that is here, before any of them runs. */
export async function compilationMemory(input: CalibrationMemoryInput): Promise<CompilationMemory> {
  const alone = await measuringMemory({ ...input, tokens: input.settings.measureTokens });
  const calibration = await calibrationMemory(input), { arena, scratch } = calibration.peak;
  const measuring = { ...alone, arena, scratch, total: alone.weights + alone.values + arena + scratch };
  return { calibration, measuring, total: Math.max(calibration.total, measuring.total) };
}
