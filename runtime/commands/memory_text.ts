/** @file Planned memory as a line for people. */
import type { CalibrationMemory } from "../../compiler/calibrate/memory.ts";
import type { EvaluationMemory } from "../evaluation_memory.ts";
import type { SessionMemory } from "../session_memory.ts";

/** `memory: planned peak 57.1 MiB (block 12.0 MiB, host 45.1 MiB)`; the first part is the function that needs most. */
export const calibrationMemoryText = ({ peak, host, total }: CalibrationMemory): string =>
  `memory: planned peak ${mebibytes(total)} (${peak.function} ${mebibytes(peak.total)}, host ${mebibytes(host.total)})`;

/** `memory: planned peak 3.9 MiB (weights 0.4 MiB, cache 1.1 MiB, programs 2.0 MiB)`. */
export const sessionMemoryText = ({ weights, cache, values, arena, scratch, total }: SessionMemory): string =>
  `memory: planned peak ${mebibytes(total)} (weights ${mebibytes(weights)}, cache ${mebibytes(cache)}, programs ${
    mebibytes(values + arena + scratch)
  })`;

/** `memory: planned peak 3.9 MiB (weights of a call 0.4 MiB, hidden states 1.1 MiB, programs 2.0 MiB)`. */
export const evaluationMemoryText = ({ weights, hidden, arena, scratch, total }: EvaluationMemory): string =>
  `memory: planned peak ${mebibytes(total)} (weights of a call ${mebibytes(weights)}, hidden states ${
    mebibytes(hidden)
  }, programs ${mebibytes(arena + scratch)})`;

/** `12.0 MiB`, `1,234 MiB`. */
function mebibytes(bytes: number): string {
  const size = bytes / 2 ** 20;
  return `${size < 100 ? size.toFixed(1) : Math.round(size).toLocaleString("en-US")} MiB`;
}
